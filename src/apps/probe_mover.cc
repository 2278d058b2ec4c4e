#include "apps/probe_mover.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <mutex>

#include "control/supervisor.h"
#include "probe/config.h"
#include "probe/probe_log.h"
#include "sys/file.h"

namespace midstream {

namespace {

namespace fs = std::filesystem;

class ProbeMover final : public Mover {
 public:
  std::string_view name() const override { return "probe"; }
  Result<> start(const Context&) override { return {}; }  // the supervisor has kept the probe running

  Result<Json> apply(const Context& context, const Json& desired) override {
    const auto config = TRY(config_for(context, desired));
    const auto path = context.state / "config.json";
    const auto text = to_json(config).dump(2);
    // The note of what was installed comes last: without it the service is installed, again if need be.
    const auto note = context.state / "installed.json";
    if (const auto before = read_file(note); before && *before == text) return Json::object();
    CHECK_OK(write_file_durably(path, text, 0600));
    CHECK_OK(install_service(service(context), {TRY(own_program()), "probe", "--config", path.string()}));
    CHECK_OK(write_file_durably(note, text, 0600));
    return Json{{"services", config.services.size()}, {"addresses", config.addresses.size()}};
  }

  Result<Json> observe(const Context& context, const Json&) override {
    std::lock_guard lock(mutex_);
    if (!fs::exists(context.state / "probe.log")) return observation(false, "the probe has not written its log yet");
    if (!reader_) reader_ = std::make_unique<MeterReader>(context.state / "probe.log");
    CHECK_OK(reader_->poll());
    auto out = reader_->meter().to_json();
    out["reached"] = true;
    out["why"] = "";
    return out;
  }

  Result<Json> undo(const Context& context, const Json&) override {
    CHECK_OK(remove_file_durably(context.state / "installed.json"));
    CHECK_OK(remove_service(service(context)));
    CHECK_OK(remove_file_durably(context.state / "config.json"));
    return Json::object();
  }

  Result<Json> check(const Context& context, const Json& desired) override {
    Json findings = Json::array();
    const auto config = config_for(context, desired);
    findings.push_back(finding("the probe's configuration", config.has_value(), config ? "" : config.error().what, config ? "" : config.error().todo));
    if (!config) return findings;
    for (const auto& service : config->services) {
      if (service.kind == "postgres") findings.push_back(libpq_for(service.name));
      if (service.password_file.empty()) continue;
      const bool there = fs::exists(service.password_file);
      findings.push_back(finding("password file of the probe of " + service.name, there, service.password_file, service.kind == "mail" ? "write USER PASSWORD into it, mode 0600" : "put a libpq pass file there, mode 0600"));
    }
    return findings;
  }

  std::string describe(const Json& desired) const override {
    const auto config = desired.value("config", Json::object());
    return fmt::format("probes {} services and {} addresses from outside", config.value("services", Json::array()).size(),
                       config.value("addresses", Json::array()).size());
  }

 private:
  static Json libpq_for(const std::string& service) {
    void* library = ::dlopen("libpq.so.5", RTLD_NOW);
    const bool there = library != nullptr;
    if (there) ::dlclose(library);
    return finding("libpq for the probe of " + service, there, there ? "" : "libpq.so.5 is not there", "install libpq5 on this host");
  }
  static std::string service(const Context& context) { return "midstream-probe-" + context.task.move; }
  static Result<ProbeConfig> config_for(const Context& context, const Json& desired) {
    auto config = TRY(get_object(desired, "config"));
    config["log"] = (context.state / "probe.log").string();
    return parse_probe_config(config);
  }

  std::mutex mutex_;
  std::unique_ptr<MeterReader> reader_;
};

}  // namespace

std::unique_ptr<Mover> make_probe_mover() { return std::make_unique<ProbeMover>(); }

}  // namespace midstream
