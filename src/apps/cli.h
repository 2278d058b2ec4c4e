// What the commands of `midstream` share.
#pragma once

#include <filesystem>
#include <stop_token>
#include <string>
#include <vector>

#include "control/planner.h"
#include "engine/plan.h"
#include "manifest/manifest.h"

namespace midstream {

// Documented in docs/OPERATING.md; scripts depend on them.
enum ExitCode : int {
  kDone = 0,
  kFailed = 1,        // wrong command line, or something unexpected
  kBadManifest = 2,   // the manifest cannot be read
  kNotReady = 3,      // a precondition does not hold; nothing was changed
  kNeedsOperator = 4, // stopped: the message says what to do
  kRefused = 5,       // not now: another controller runs, past the point of no return ...
  kInterrupted = 6,   // ended by a signal; nothing was undone, run again goes on
};

struct CliOptions {
  std::string manifest = "move.yaml";
  std::string state;  // directory of journals; default ~/.local/state/midstream
  std::string until;
  std::string phase;    // of confirm
  std::string setting;  // of tune: KEY=VALUE
  std::string out;
  std::string gate = "gate.yaml";
  std::string hold_for = "1s";
  std::vector<std::string> accept;  // finish: who may still talk to old
  bool json = false;
  bool yes = false;
  bool watch = false;
  bool adopt = false;   // first rebuild the journal from the agents
  bool new_is_lost = false;
  bool anyway = false;  // go back although that is observed not to be possible
};

std::filesystem::path journal_directory(const CliOptions& options, const std::string& move);
std::filesystem::path history_file(const CliOptions& options);
std::filesystem::path agent_binary();
Describe describe_with_movers();

int command_check(const CliOptions& options);
int command_plan(const CliOptions& options);
int command_run(const CliOptions& options, const std::stop_token& stop);
int command_rollback(const CliOptions& options, const std::stop_token& stop, bool only_before_switch);
int command_new_is_lost(const CliOptions& options);
int command_finish(const CliOptions& options, const std::stop_token& stop);
int command_status(const CliOptions& options, const std::stop_token& stop);
int command_ask(const CliOptions& options, const std::string& verb);
int command_confirm(const CliOptions& options);
int command_tune(const CliOptions& options);
int command_report(const CliOptions& options);
int command_probe(const CliOptions& options, const std::stop_token& stop);
int command_schema();
int command_gate(const CliOptions& options, const std::stop_token& stop);
int command_gate_sessions(const CliOptions& options);
int command_gate_metrics(const CliOptions& options);
int command_gate_hold(const CliOptions& options);
int command_gate_release(const CliOptions& options);

}  // namespace midstream
