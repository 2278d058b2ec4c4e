#include "apps/gate_mover.h"

#include <fmt/format.h>

#include <set>

#include "apps/gate_config.h"
#include "base/text.h"
#include "control/supervisor.h"
#include "gate/gate.h"
#include "sys/file.h"

namespace midstream {

namespace {

namespace fs = std::filesystem;

constexpr int kRetireMs = 2'000;

class GateMover final : public Mover {
 public:
  std::string_view name() const override { return "gate"; }
  Result<> start(const Context&) override { return {}; }  // the supervisor has kept the gate running

  Result<Json> apply(const Context& context, const Json& desired) override {
    if (get_string_or(desired, "kind", "") == "end") return undo(context, desired);
    const Files files(context, TRY(service_of(desired)));
    const auto text = TRY(config_text(context, desired, files));
    const auto password = TRY(ask_password(context, desired));
    // The note of what was installed comes last: without it the service is installed, again if need be.
    if (const auto before = read_file(files.note); before && *before == text) return Json::object();
    CHECK_OK(write_file_durably(files.password, password + "\n", 0600));
    CHECK_OK(parse_gate_config(text, files.config.string()));
    CHECK_OK(write_file_durably(files.config, text, 0600));
    CHECK_OK(install_service(files.unit, {TRY(own_program()), "gate", "--config", files.config.string()}));
    CHECK_OK(wait_until_served(context, files));
    CHECK_OK(write_file_durably(files.note, text, 0600));
    return Json::object();
  }

  Result<Json> observe(const Context& context, const Json& desired) override {
    const Files files(context, TRY(service_of(desired)));
    if (get_string_or(desired, "kind", "") == "end") {
      // The configuration goes after the service: as long as it is there, so may the service be.
      const bool there = fs::exists(files.note) || fs::exists(files.config);
      return observation(!there, there ? "the gate is installed" : "");
    }
    if (!fs::exists(files.note)) return observation(false, "the gate is not installed");
    const auto answer = gate::ask_gate(files.control, {{"verb", "sessions"}});
    if (!answer) return observation(false, fmt::format("the gate does not answer: {}", answer.error().what));
    auto out = observation(true, "");
    out["sessions"] = answer->value("sessions", Json::array()).size();
    return out;
  }

  // Sessions end between two transactions, and their clients come again past the gate.
  Result<Json> undo(const Context& context, const Json& desired) override {
    const Files files(context, TRY(service_of(desired)));
    while (fs::exists(files.control)) {
      const auto retired = gate::ask_gate(files.control, {{"verb", "retire"}, {"within_ms", kRetireMs}});
      if (!retired) break;  // it is gone: so are its sessions
      const auto left = get_int_or(*retired, "sessions", 0);
      if (left == 0) break;
      if (context.deadline.expired() || context.stop.stop_requested())
        return retry(fmt::format("{} sessions of the gate are in the middle of a transaction", left), "wait for them, or end them: `midstream gate sessions`");
    }
    CHECK_OK(remove_file_durably(files.note));
    CHECK_OK(remove_service(files.unit));
    for (const auto& path : {files.config, files.password, files.control}) CHECK_OK(remove_file_durably(path));
    return Json::object();
  }

  Result<Json> check(const Context& context, const Json& desired) override {
    const Files files(context, TRY(service_of(desired)));
    const auto text = config_text(context, desired, files);
    Json findings = Json::array();
    findings.push_back(finding("the gate's configuration", text.has_value(), text ? "" : text.error().what, text ? "" : text.error().todo));
    return findings;
  }

  std::string describe(const Json& desired) const override {
    if (get_string_or(desired, "kind", "") == "end") return fmt::format("the gate of {} ends: its clients come again to new directly", get_string_or(desired, "service", "?"));
    return fmt::format("the gate of {} stands between clients and both databases, on {}", get_string_or(desired, "service", "?"),
                       get_string_or(desired, "listen", "?"));
  }

  // What a switch asks of the gate of args.service: as docs/formats/gate.md says.
  Result<Json> peer(const Context& context, std::string_view verb, const Json& args) override {
    static const std::set<std::string_view> kVerbs{"prepare", "ready", "close", "keep", "over", "open", "sessions"};
    if (!kVerbs.contains(verb)) return refused(fmt::format("gate answers no request '{}'", verb));
    const Files files(context, TRY(service_of(args)));
    auto request = args;
    request["verb"] = verb;
    auto answer = gate::ask_gate(files.control, request);
    if (!answer && answer.error().kind == ErrorKind::unknown) answer.error().kind = ErrorKind::retry;
    return answer;
  }

 private:
  struct Files {
    Files(const Context& context, const std::string& service)
        : unit(fmt::format("midstream-gate-{}-{}", context.task.move, service)), config(context.state / (service + ".yaml")),
          password(context.state / (service + ".password")), control(context.state / (service + ".sock")), note(context.state / (service + ".installed")) {}
    std::string unit;
    fs::path config, password, control, note;
  };

  static Result<std::string> service_of(const Json& desired) {
    auto service = TRY(get_string(desired, "service"));
    if (!is_plain_name(service)) return corrupt(fmt::format("'{}' is no name for a service", printable(service)));
    return service;
  }

  // JSON is YAML.
  static Result<std::string> config_text(const Context& context, const Json& desired, const Files& files) {
    const auto end = [](const Json& one) -> Result<Json> { return Json{{"host", TRY(get_string(one, "address"))}, {"port", TRY(get_int(one, "port"))}}; };
    Json config{{"listen", TRY(get_string(desired, "listen"))},
                {"control", files.control.string()},
                {"servers", {{"old", TRY(end(TRY(get_object(desired, "old"))))}, {"new", TRY(end(TRY(get_object(desired, "new"))))}}},
                {"databases", TRY(get_strings(desired, "databases"))},
                {"lookup", {{"user", "midstream_gate_" + context.task.move}, {"password_file", files.password.string()}}}};
    return config.dump(1);
  }

  static Result<std::string> ask_password(const Context& context, const Json& desired) {
    const auto old_host = TRY(get_string(TRY(get_object(desired, "old")), "host"));
    const auto answer = TRY(context.peers.call(old_host, "postgres", "gate_password", {{"desired", TRY(get_object(desired, "postgres"))}},
                                               context.task, context.deadline, context.stop));
    return get_string(answer, "password");
  }

  static Result<> wait_until_served(const Context& context, const Files& files) {
    for (;;) {
      const auto answer = gate::ask_gate(files.control, {{"verb", "sessions"}});
      if (answer) return {};
      if (context.deadline.expired() || context.stop.stop_requested())
        return retry(fmt::format("the gate was installed but does not answer: {}", answer.error().what), "look at its log under the host's supervisor");
      pause_for(Millis(50), context.stop);
    }
  }
};

}  // namespace

std::unique_ptr<Mover> make_gate_mover() { return std::make_unique<GateMover>(); }

}  // namespace midstream
