// midstream: the operator's program. Wiring only; the commands are in commands.cc.
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <functional>

#include "apps/cli.h"
#include "apps/signals.h"

namespace midstream {
namespace {

int run_lab(const std::vector<std::string>& arguments) {
  std::error_code ignored;
  const auto lab = (std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path() / "midstream-lab").string();
  std::vector<char*> argv{const_cast<char*>(lab.c_str())};
  for (const auto& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  ::execv(lab.c_str(), argv.data());
  fmt::print(stderr, "midstream: the lab is not installed beside this program ({})\n", lab);
  return kFailed;
}

int not_there_yet(const std::string& command) {
  fmt::print(stderr, "midstream: `{}` is not there yet; see README.md for what is\n", command);
  return kFailed;
}

int main_with(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "lab") return run_lab({argv + 2, argv + argc});
  ::umask(077);
  CLI::App app{"midstream moves a live production environment from old hosts to new ones while its users keep working"};
  app.require_subcommand(1);
  app.set_version_flag("--version", "midstream 0.1.0");
  CliOptions options;
  std::function<int()> chosen;
  const auto add = [&](const char* name, const char* text, std::function<int()> body) {
    auto* command = app.add_subcommand(name, text);
    command->callback([&chosen, body = std::move(body)] { chosen = body; });
    return command;
  };
  const auto with_manifest = [&](CLI::App* command) {
    command->add_option("manifest", options.manifest, "the move's manifest (default: move.yaml)");
    command->add_option("--state", options.state, "directory of journals (default: ~/.local/state/midstream)");
    return command;
  };
  StopOnSignal signals;
  const auto stop = signals.token();
  with_manifest(add("check", "every precondition, one by one, with what to do about each", [&] { return command_check(options); }))
      ->add_flag("--json", options.json);
  with_manifest(add("plan", "ordered steps, expected blackout, undo, what is irreversible", [&] { return command_plan(options); }))
      ->add_flag("--json", options.json);
  auto* run = with_manifest(add("run", "do the move; goes on after its own death", [&] { return command_run(options, stop); }));
  run->add_flag("--yes", options.yes, "do not ask");
  run->add_flag("--adopt", options.adopt, "take the move over from a controller that is gone: rebuild the journal from the agents");
  run->add_option("--until", options.until, "end after this phase");
  auto* rollback = with_manifest(add("rollback", "go back, losing nothing", [&] {
    return options.new_is_lost ? command_new_is_lost(options) : command_rollback(options, stop, false);
  }));
  rollback->add_flag("--anyway", options.anyway, "although going back is observed not to be possible: as far as it can");
  rollback->add_flag("--new-is-lost", options.new_is_lost, "new is gone for good: what would be missing on old (to take it back so is not there yet)");
  rollback->add_flag("--json", options.json, "with --new-is-lost");
  with_manifest(add("abort", "undo everything, before the first switch", [&] { return command_rollback(options, stop, true); }));
  auto* finish = with_manifest(add("finish", "the one irreversible step; after a rollback: the end of the move", [&] { return command_finish(options, stop); }));
  finish->add_flag("--yes", options.yes);
  finish->add_option("--accept", options.accept, "who may still talk to old: ADDRESS, or SERVICE@ADDRESS")->allow_extra_args(false);
  with_manifest(add("pause", "stop between two steps, where nothing is held", [&] { return command_ask(options, "pause"); }));
  with_manifest(add("continue", "go on after a pause", [&] { return command_ask(options, "continue"); }));
  auto* confirm = add("confirm", "your word for a phase that waits for it", [&] { return command_confirm(options); });
  confirm->add_option("phase", options.phase, "the phase, as `status` names it")->required();
  with_manifest(confirm);
  auto* tune = add("tune", "change a limit or what is still ahead while the move runs", [&] { return command_tune(options); });
  tune->add_option("setting", options.setting, "KEY=VALUE, by the manifest's names: services.web.traffic.hold=30s")->required();
  with_manifest(tune);
  auto* status = with_manifest(add("status", "phase, downtime used of budget, what it waits for", [&] { return command_status(options, stop); }));
  status->add_flag("--json", options.json);
  status->add_flag("--watch", options.watch);
  auto* report = with_manifest(add("report", "the evidence, as Markdown or JSON", [&] { return command_report(options); }));
  report->add_flag("--json", options.json);
  report->add_option("--out", options.out, "directory for report.json and report.md");
  with_manifest(add("probe", "only the downtime counter", [&] { return command_probe(options, stop); }))->add_option("--log", options.out);
  add("schema", "the manifest's JSON Schema", [] { return command_schema(); });
  add("serve", "the status in a browser (not there yet)", [] { return not_there_yet("serve"); });
  auto* gate = add("gate", "the PostgreSQL session gate: passes sessions on to the one primary behind it", nullptr);
  gate->add_option("config", options.gate, "the gate's settings (default: gate.yaml)");
  const auto ask = [&](const char* name, const char* text) {
    auto* command = gate->add_subcommand(name, text);
    command->add_option("config", options.gate, "the gate's settings (default: gate.yaml)");
    return command;
  };
  auto* sessions = ask("sessions", "of a gate that runs: each session, and whether it could move");
  sessions->add_flag("--json", options.json);
  auto* metrics = ask("metrics", "of a gate that runs: what it has counted, in Prometheus' text format");
  metrics->add_flag("--json", options.json);
  auto* hold = ask("hold", "hold every session at its next safe point: what clients ask beyond it waits, nothing fails");
  hold->add_option("--for", options.hold_for, "how long at most, from now; then everything goes on (default: 1s)");
  auto* release = ask("release", "end a hold");
  gate->callback([&, sessions, metrics, hold, release] {
    chosen = [&, sessions, metrics, hold, release] {
      if (sessions->parsed()) return command_gate_sessions(options);
      if (metrics->parsed()) return command_gate_metrics(options);
      if (hold->parsed()) return command_gate_hold(options);
      return release->parsed() ? command_gate_release(options) : command_gate(options, stop);
    };
  });
  CLI11_PARSE(app, argc, argv);
  return chosen ? chosen() : kFailed;
}

}  // namespace
}  // namespace midstream

int main(int argc, char** argv) { return midstream::main_with(argc, argv); }
