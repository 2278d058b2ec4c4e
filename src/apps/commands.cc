#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <iostream>

#include "apps/cli.h"
#include "apps/cli_print.h"
#include "apps/movers.h"
#include "base/text.h"
#include "control/adopt_move.h"
#include "control/check.h"
#include "control/control_socket.h"
#include "control/controller.h"
#include "control/report.h"
#include "probe/config.h"
#include "probe/probe.h"
#include "probe/probe_log.h"
#include "sys/file.h"

namespace midstream {

namespace {

namespace fs = std::filesystem;

constexpr Millis kCheckLimit{120'000};

int complain(const Error& error, int code) {
  fmt::print(stderr, "midstream: {}\n", error.text());
  return code;
}

int code_of(const Error& error) {
  switch (error.kind) {
    case ErrorKind::refused: case ErrorKind::fenced: return kRefused;
    case ErrorKind::cancelled: return kInterrupted;
    default: return kFailed;
  }
}

Result<Manifest> load(const CliOptions& options) {
  return parse_manifest(TRY(read_file(options.manifest, 4u << 20)), options.manifest);
}

void print(const Json& value) { fmt::print("{}\n", value.dump(2)); }

bool confirmed(const std::string& question, const std::string& expected) {
  if (::isatty(0) == 0) return false;
  fmt::print(stderr, "{} ", question);
  std::string line;
  std::getline(std::cin, line);
  return trim(line) == expected;
}

void tell(const std::string& line) {
  fmt::print("{}\n", line);
  std::fflush(stdout);
}

ControllerOptions controller_options(const CliOptions& options, const Manifest& manifest) {
  return {manifest, journal_directory(options, manifest.move), agent_binary(), tell, options.accept};
}

int ending_code(const Controller& controller, const Result<Ending>& ending) {
  if (!ending) return complain(ending.error(), code_of(ending.error()));
  switch (*ending) {
    case Ending::complete: return kDone;
    case Ending::interrupted: return complain({ErrorKind::cancelled, "ended by a signal", "`midstream run` goes on where it was"}, kInterrupted);
    case Ending::stopped: break;
  }
  const auto& state = controller.state();
  return complain({state.stopped->kind, fmt::format("stopped at '{}': {}", state.stopped_step, state.stopped->what),
                   state.stopped->todo.empty() ? "`midstream run` tries again, `midstream rollback` goes back" : state.stopped->todo},
                  kNeedsOperator);
}

// Checks, plans, asks, and begins the journal. kDone if the move may be driven.
int begin_move(const CliOptions& options, const Manifest& manifest, Controller& controller) {
  if (auto free = nobody_has_it(manifest, Deadline::in(kCheckLimit)); !free) return complain(free.error(), code_of(free.error()));
  const auto history = History::load(history_file(options));
  if (!history) return complain(history.error(), kFailed);
  const auto checked = check_move(manifest, agent_binary(), describe_with_movers(), *history, Deadline::in(kCheckLimit));
  if (!checked) return complain(checked.error(), kNotReady);
  if (!checked->ok()) {
    fmt::print(stderr, "{}", check_text(*checked));
    return kNotReady;
  }
  fmt::print("{}\n", plan_text(checked->plan, checked->resolved));
  if (!options.yes && !confirmed("Begin this move? (yes)", "yes")) {
    return complain({ErrorKind::refused, "not confirmed; nothing was changed", "answer yes, or give --yes"}, kRefused);
  }
  if (auto begun = controller.begin(checked->plan); !begun) return complain(begun.error(), code_of(begun.error()));
  return kDone;
}

// What the journal says, looked at without its lock.
Result<Engine> folded_journal(const fs::path& directory) {
  Engine engine;
  for (const auto& record : TRY(TRY(Journal::open_to_read(directory)).read())) CHECK_OK(engine.fold(record));
  return engine;
}

// Asks the controller that already runs, and waits for its end.
int follow_running(const CliOptions& options, const Manifest& manifest, const std::string& verb, const std::stop_token& stop) {
  const auto directory = journal_directory(options, manifest.move);
  auto answer = ask_controller(directory / "control.sock", {{"verb", verb}, {"anyway", options.anyway}}, Deadline::in(Millis(10'000)));
  if (!answer) return complain(answer.error(), code_of(answer.error()));
  fmt::print(stderr, "midstream: the running controller has taken `{}` on\n", verb);
  while (pause_for(Millis(200), stop)) {
    auto status = ask_controller(directory / "control.sock", {{"verb", "status"}}, Deadline::in(Millis(5'000)));
    if (!status) break;  // it has ended
  }
  const auto engine = folded_journal(directory);
  if (!engine) return complain(engine.error(), kFailed);
  if (engine->state().stopped) return complain(*engine->state().stopped, kNeedsOperator);
  return engine->state().complete() ? kDone : kInterrupted;
}

int drive(const CliOptions& options, const Manifest& manifest, Goal goal, const std::stop_token& stop, bool abort = false) {
  auto controller = Controller::open(controller_options(options, manifest));
  if (!controller) return complain(controller.error(), code_of(controller.error()));
  if (!(*controller)->has_plan()) {
    if (goal != Goal::run) return complain({ErrorKind::refused, "this move has not begun", "`midstream run` begins it"}, kRefused);
    if (const int code = begin_move(options, manifest, **controller); code != kDone) return code;
  }
  if (auto objection = abort ? (*controller)->objection_to_abort() : std::nullopt) return complain(*objection, code_of(*objection));
  const auto ending = (*controller)->drive(goal, options.until, stop, options.anyway);
  if (ending && *ending == Ending::complete && goal != Goal::back && (*controller)->state().goal == Goal::back) {
    return complain({ErrorKind::refused, "the move was taken back while it ran, at the operator's word", "`midstream run` begins anew"}, kRefused);
  }
  return ending_code(**controller, ending);
}

}  // namespace

fs::path journal_directory(const CliOptions& options, const std::string& move) {
  if (!options.state.empty()) return fs::path(options.state) / move;
  const char* home = std::getenv("HOME");
  return fs::path(home == nullptr ? "/root" : home) / ".local/state/midstream" / move;
}

fs::path history_file(const CliOptions& options) { return journal_directory(options, "x").parent_path() / "history.json"; }

fs::path agent_binary() {
  std::error_code ignored;
  return fs::read_symlink("/proc/self/exe", ignored).parent_path() / "midstream-agent";
}

Describe describe_with_movers() {
  auto movers = std::make_shared<std::vector<std::unique_ptr<Mover>>>(make_movers());
  return [movers](const std::string& name, const Json& desired) -> std::string {
    for (const auto& one : *movers) {
      if (one->name() == name) return one->describe(desired);
    }
    return name;
  };
}

int command_check(const CliOptions& options) {
  const auto manifest = load(options);
  if (!manifest) return complain(manifest.error(), kBadManifest);
  const auto history = History::load(history_file(options));
  if (!history) return complain(history.error(), kFailed);
  const auto checked = check_move(*manifest, agent_binary(), describe_with_movers(), *history, Deadline::in(kCheckLimit));
  if (!checked) return complain(checked.error(), kNotReady);
  if (options.json) {
    print(to_json(*checked));
  } else {
    fmt::print("{}", check_text(*checked));
  }
  return checked->ok() ? kDone : kNotReady;
}

int command_plan(const CliOptions& options) {
  const auto manifest = load(options);
  if (!manifest) return complain(manifest.error(), kBadManifest);
  const auto history = History::load(history_file(options));
  if (!history) return complain(history.error(), kFailed);
  const auto checked = check_move(*manifest, agent_binary(), describe_with_movers(), *history, Deadline::in(kCheckLimit));
  if (!checked) return complain(checked.error(), kNotReady);
  if (options.json) {
    auto out = to_json(checked->plan);
    out["hash"] = plan_hash(checked->plan);
    print(out);
  } else {
    fmt::print("{}", plan_text(checked->plan, checked->resolved));
    for (const auto& one : check_window(checked->resolved, checked->plan, wall_now_ms())) fmt::print("\n{}\n", one.detail);
  }
  if (!checked->ok()) fmt::print(stderr, "midstream: not every precondition holds; see `midstream check`\n");
  return checked->ok() ? kDone : kNotReady;
}

int command_run(const CliOptions& options, const std::stop_token& stop) {
  const auto manifest = load(options);
  if (!manifest) return complain(manifest.error(), kBadManifest);
  if (!options.until.empty() && phase_index(options.until) < 0) {
    return complain({ErrorKind::refused, fmt::format("'{}' is no phase", options.until), "phases: prepare, copy, follow, gate, shift, switch, soak, addresses, home"}, kFailed);
  }
  if (options.adopt) {
    const auto directory = journal_directory(options, manifest->move);
    if (auto adopted = adopt_move(*manifest, directory, agent_binary(), tell, Deadline::in(kCheckLimit)); !adopted)
      return complain(adopted.error(), code_of(adopted.error()));
  }
  return drive(options, *manifest, Goal::run, stop);
}

int command_rollback(const CliOptions& options, const std::stop_token& stop, bool only_before_switch) {
  const auto manifest = load(options);
  if (!manifest) return complain(manifest.error(), kBadManifest);
  const auto directory = journal_directory(options, manifest->move);
  if (fs::exists(directory / "control.sock") &&
      ask_controller(directory / "control.sock", {{"verb", "status"}}, Deadline::in(Millis(5'000)))) {
    return follow_running(options, *manifest, only_before_switch ? "abort" : "rollback", stop);
  }
  return drive(options, *manifest, Goal::back, stop, only_before_switch);
}

int command_finish(const CliOptions& options, const std::stop_token& stop) {
  const auto manifest = load(options);
  if (!manifest) return complain(manifest.error(), kBadManifest);
  const auto engine = folded_journal(journal_directory(options, manifest->move));
  if (!engine) return complain(engine.error(), code_of(engine.error()));
  if (auto objection = engine->objection(Goal::finish)) return complain(*objection, code_of(*objection));
  if (engine->state().taken_back()) {
    fmt::print(stderr, "Everything is back on {}. Finish ends the move there: midstream leaves every host, and run begins no more.\n", manifest->old_host);
  } else {
    fmt::print(stderr, "{}", irreversible_text(engine->state(), manifest->after_old));
  }
  if (!options.yes && !confirmed(fmt::format("Type the move's name ({}) to finish:", manifest->move), manifest->move)) {
    return complain({ErrorKind::refused, "not confirmed; nothing was changed", "type the move's name, or give --yes"}, kRefused);
  }
  return drive(options, *manifest, Goal::finish, stop);
}

int command_ask(const CliOptions& options, const std::string& verb) {
  const auto manifest = load(options);
  if (!manifest) return complain(manifest.error(), kBadManifest);
  const auto answer = ask_controller(journal_directory(options, manifest->move) / "control.sock", {{"verb", verb}}, Deadline::in(Millis(10'000)));
  if (!answer) return complain(answer.error(), answer.error().kind == ErrorKind::retry ? kRefused : code_of(answer.error()));
  fmt::print(stderr, "midstream: {} accepted\n", verb);
  return kDone;
}

namespace {

// For the journal: who gave the word.
std::string who_asks() {
  const auto* entry = ::getpwuid(::getuid());
  return fmt::format("{} (uid {})", entry == nullptr ? "?" : entry->pw_name, ::getuid());
}

// The running controller's word, else the journal's.
Result<Json> current_status(const CliOptions& options, const Manifest& manifest) {
  const auto directory = journal_directory(options, manifest.move);
  if (auto live = ask_controller(directory / "control.sock", {{"verb", "status"}}, Deadline::in(Millis(5'000)))) {
    (*live)["controller"] = "running";
    return live;
  }
  const auto engine = TRY(folded_journal(directory));
  auto meter = Json::object();
  if (auto saved = read_file(directory / "meter.json")) meter = parse_json(*saved).value_or(Json::object());
  auto status = status_json(engine, meter);
  status["controller"] = "not running";
  status["waiting"] = engine.state().stopped ? engine.waiting() : engine.state().complete() ? "" : "no controller runs; `midstream run` goes on";
  return status;
}

}  // namespace

int command_status(const CliOptions& options, const std::stop_token& stop) {
  const auto manifest = load(options);
  if (!manifest) return complain(manifest.error(), kBadManifest);
  do {
    const auto status = current_status(options, *manifest);
    if (!status) return complain(status.error(), code_of(status.error()));
    if (options.json) {
      fmt::print("{}\n", status->dump());
    } else {
      fmt::print("{}", status_text(*status));
    }
    std::fflush(stdout);
  } while (options.watch && pause_for(Millis(1'000), stop));
  return kDone;
}

int command_confirm(const CliOptions& options) {
  const auto manifest = load(options);
  if (!manifest) return complain(manifest.error(), kBadManifest);
  const auto answer = ask_controller(journal_directory(options, manifest->move) / "control.sock",
                                     {{"verb", "confirm"}, {"phase", options.phase}, {"by", who_asks()}}, Deadline::in(Millis(10'000)));
  if (!answer) return complain(answer.error(), answer.error().kind == ErrorKind::retry ? kRefused : code_of(answer.error()));
  fmt::print(stderr, "midstream: phase {} may begin\n", options.phase);
  return kDone;
}

int command_tune(const CliOptions& options) {
  const auto manifest = load(options);
  if (!manifest) return complain(manifest.error(), kBadManifest);
  const auto answer = ask_controller(journal_directory(options, manifest->move) / "control.sock",
                                     {{"verb", "tune"}, {"setting", options.setting}, {"by", who_asks()}}, Deadline::in(Millis(10'000)));
  if (!answer) return complain(answer.error(), answer.error().kind == ErrorKind::retry ? kRefused : code_of(answer.error()));
  fmt::print(stderr, "midstream: {} holds from now on; write it into the manifest as well\n", options.setting);
  return kDone;
}

int command_report(const CliOptions& options) {
  const auto manifest = load(options);
  if (!manifest) return complain(manifest.error(), kBadManifest);
  const auto directory = journal_directory(options, manifest->move);
  const auto engine = folded_journal(directory);
  if (!engine) return complain(engine.error(), code_of(engine.error()));
  auto meter = Json::object();
  if (auto saved = read_file(directory / "meter.json")) meter = parse_json(*saved).value_or(Json::object());
  // The probe's own log, once it has ended, knows more than what was last read of it.
  if (auto measured = read_meter(directory / "probe.log")) meter = *measured;
  auto report = make_report(engine->state(), meter);
  if (auto saved = read_file(directory / "stragglers.json")) report["stragglers"] = parse_json(*saved).value_or(Json::object()).value("sources", Json::array());
  if (options.out.empty()) {
    if (options.json) {
      print(report);
    } else {
      fmt::print("{}", report_markdown(report));
    }
    return kDone;
  }
  for (const auto& [name, text] : {std::pair{"report.json", report.dump(2) + "\n"}, std::pair{"report.md", report_markdown(report)}}) {
    if (auto written = write_file_durably(fs::path(options.out) / name, text, 0644); !written) return complain(written.error(), kFailed);
  }
  return kDone;
}

int command_probe(const CliOptions& options, const std::stop_token& stop) {
  const auto manifest = load(options);
  if (!manifest) return complain(manifest.error(), kBadManifest);
  auto config = probe_config(*manifest);
  const fs::path log = options.out.empty() ? fs::path("probe.log") : fs::path(options.out);
  config["log"] = log.string();
  auto parsed = parse_probe_config(config);
  if (!parsed) return complain(parsed.error(), kFailed);
  fmt::print(stderr, "midstream: probing from this machine; interrupt ends it and prints the figures\n");
  if (auto ran = run_probe(*parsed, stop); !ran) return complain(ran.error(), kFailed);
  const auto meter = read_meter(log);
  if (!meter) return complain(meter.error(), kFailed);
  print(*meter);
  return kDone;
}

int command_schema() {
  print(manifest_schema());
  return kDone;
}

}  // namespace midstream
