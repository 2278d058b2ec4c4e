// `midstream gate`: the gate itself, and what is asked of one that runs.
#include <fmt/format.h>

#include "apps/cli.h"
#include "apps/gate_config.h"
#include "gate/gate.h"
#include "manifest/values.h"
#include "sys/clock.h"
#include "sys/file.h"

namespace midstream {

namespace {

int complain(const Error& error, int code) {
  fmt::print(stderr, "midstream: {}\n", error.text());
  return code;
}

Result<gate::Config> load(const CliOptions& options) {
  return parse_gate_config(TRY(read_file(options.gate, 1u << 20)), options.gate);
}

std::string text_of(const Json& session, const char* key) { return session.value(key, std::string("-")); }

// "movable", "after transaction: a transaction is open; waits 1.2 s"
std::string state_text(const Json& session) {
  auto text = text_of(session, "state");
  if (const auto why = session.value("why", std::string()); !why.empty()) text += ": " + why;
  if (const auto since = session.value("waits_since_ms", std::int64_t{0}); since != 0)
    text += fmt::format("; waits {:.1f} s for {}", static_cast<double>(std::max<std::int64_t>(0, wall_now_ms() - since)) / 1e3, text_of(session, "waits_for"));
  return text;
}

void print_table(const Json& sessions) {
  fmt::print("{:>6}  {:<22} {:<16} {:<16} {:>10}  {}\n", "id", "client", "user", "database", "requests", "state");
  for (const auto& one : sessions) {
    fmt::print("{:>6}  {:<22} {:<16} {:<16} {:>10}  {}\n", one.value("id", 0), text_of(one, "client"), text_of(one, "user"),
               text_of(one, "database"), one.value("requests", 0), state_text(one));
  }
}

}  // namespace

int command_gate(const CliOptions& options, const std::stop_token& stop) {
  auto config = load(options);
  if (!config) return complain(config.error(), kBadManifest);
  const auto ran = gate::run_gate(std::move(*config), [&](std::uint16_t port) {
    fmt::print(stderr, "midstream: the gate listens on port {}\n", port);
  }, stop);
  return ran ? kDone : complain(ran.error(), kFailed);
}

int command_gate_sessions(const CliOptions& options) {
  const auto config = load(options);
  if (!config) return complain(config.error(), kBadManifest);
  const auto answer = gate::ask_gate(config->control, {{"verb", "sessions"}});
  if (!answer) return complain(answer.error(), kFailed);
  if (options.json) {
    fmt::print("{}\n", answer->dump(2));
    return kDone;
  }
  print_table((*answer)["sessions"]);
  fmt::print(stderr, "midstream: judged by the protocol's messages; what only the server knows of a session (temporary tables, WITH HOLD "
                     "cursors) is known once a switch has been prepared\n");
  return kDone;
}

int command_gate_metrics(const CliOptions& options) {
  const auto config = load(options);
  if (!config) return complain(config.error(), kBadManifest);
  const auto answer = gate::ask_gate(config->control, {{"verb", "metrics"}});
  if (!answer) return complain(answer.error(), kFailed);
  if (options.json) fmt::print("{}\n", Json{{"metrics", (*answer)["metrics"]}}.dump(2));
  else fmt::print("{}", answer->value("text", ""));
  return kDone;
}

// Asks for the hold, and then whether it is complete, until it is or has ended: the gate ends it by itself.
int command_gate_hold(const CliOptions& options) {
  const auto config = load(options);
  if (!config) return complain(config.error(), kBadManifest);
  const auto span = parse_duration(options.hold_for);
  if (!span) return complain({ErrorKind::refused, fmt::format("--for {}: not a duration", options.hold_for), "such as 500ms or 2s"}, kFailed);
  auto answer = gate::ask_gate(config->control, {{"verb", "hold"}, {"for_ms", span->count()}});
  Json in_the_way = Json::array();
  while (answer && answer->value("holding", false) && !(*answer)["in_the_way"].empty()) {
    in_the_way = (*answer)["in_the_way"];
    pause_for(Millis(5), {});
    answer = gate::ask_gate(config->control, {{"verb", "held"}});
  }
  if (!answer) return complain(answer.error(), kFailed);
  if (answer->value("holding", false)) {
    fmt::print("held: {} sessions, for {} ms more\n", answer->value("sessions", 0), answer->value("left_ms", 0));
    return kDone;
  }
  fmt::print(stderr, "midstream: not all sessions came to a safe point in {}; everything goes on as before. In the way:\n", options.hold_for);
  print_table(in_the_way);
  return kNotReady;
}

int command_gate_release(const CliOptions& options) {
  const auto config = load(options);
  if (!config) return complain(config.error(), kBadManifest);
  const auto answer = gate::ask_gate(config->control, {{"verb", "release"}});
  return answer ? kDone : complain(answer.error(), kFailed);
}

}  // namespace midstream
