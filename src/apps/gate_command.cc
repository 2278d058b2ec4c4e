// `midstream gate`: the gate itself, and what is asked of one that runs.
#include <fmt/format.h>

#include "apps/cli.h"
#include "apps/gate_config.h"
#include "gate/gate.h"
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

void print_table(const Json& sessions) {
  fmt::print("{:>6}  {:<22} {:<16} {:<16} {:>10}  {}\n", "id", "client", "user", "database", "requests", "state");
  for (const auto& one : sessions) {
    const auto why = one.value("why", std::string());
    fmt::print("{:>6}  {:<22} {:<16} {:<16} {:>10}  {}{}\n", one.value("id", 0), text_of(one, "client"), text_of(one, "user"),
               text_of(one, "database"), one.value("requests", 0), text_of(one, "state"), why.empty() ? "" : ": " + why);
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
  const auto answer = gate::ask_sessions(config->control);
  if (!answer) return complain(answer.error(), kFailed);
  if (options.json) {
    fmt::print("{}\n", answer->dump(2));
    return kDone;
  }
  print_table((*answer)["sessions"]);
  fmt::print(stderr, "midstream: judged by the protocol's messages; what only the server knows of a session (temporary tables, advisory "
                     "locks, WITH HOLD cursors) is not asked yet, and the switch itself is not there yet\n");
  return kDone;
}

}  // namespace midstream
