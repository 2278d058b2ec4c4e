// Trials of two controllers on one move, and of a journal that is gone.
#include <fmt/format.h>
#include <signal.h>

#include "base/text.h"
#include "lab/trial_tools.h"

namespace midstream::lab {

namespace {

constexpr Millis kMoveLimit{420'000};
constexpr const char* kElsewhere = "/root/elsewhere";  // the state of a controller on a machine of its own

// Listens to `command` until a line holds `mark`.
Result<> hear(Command& command, const std::string& mark, const std::function<void(std::string_view)>& tell) {
  const auto ended = command.wait_for_line(
      [&](std::string_view line) {
        if (tell) tell(line);
        return line.find(mark) != std::string_view::npos;
      },
      Deadline::in(kMoveLimit));
  return ended;
}

}  // namespace

// In the middle of the move the controller is killed and its journal deleted; `run --adopt` takes it from there.
Result<> adopt_trial(TrialTools& tools, const std::string& mark) {
  auto trial = TRY(tools.begin());
  const auto& ops = trial.lab().scenario().ops;
  auto first = TRY(trial.midstream({"run", "--yes"}));
  CHECK_OK(hear(first, mark, tools.teller()));
  TRY(trial.lab().kill(ops, "midstream", SIGKILL));
  TRY(trial.lab().must(ops, {"rm", "-rf", "/root/.local/state/midstream"}));
  CHECK_OK(tools.say("the controller is killed and its journal deleted"));
  CHECK_OK(tools.end_with(trial, {"run", "--yes"}, 5, "run --adopt"));
  CHECK_OK(tools.end_with(trial, {"run", "--yes", "--adopt"}, 0, "adopted: the journal was rebuilt"));
  CHECK_OK(tools.end_with(trial, {"run", "--adopt"}, 5, "nothing to adopt"));
  CHECK_OK(tools.succeed(trial, {"finish", "--yes"}));
  CHECK_OK(tools.judged(trial, "new", 1));
  return trial.end();
}

// A second controller with a journal of its own is refused; at the operator's word it takes over openly; the first one,
// which was only asleep, wakes up in the middle of that and has no effect any more.
Result<> two_controllers_trial(TrialTools& tools) {
  auto trial = TRY(tools.begin());
  const auto& ops = trial.lab().scenario().ops;
  auto first = TRY(trial.midstream({"run", "--yes"}));
  CHECK_OK(hear(first, "reached: ", tools.teller()));
  CHECK_OK(tools.end_with(trial, {"run", "--yes"}, 5, "another controller of this move is running"));
  CHECK_OK(tools.end_with(trial, {"run", "--yes", "--state", kElsewhere}, 5, "another journal"));
  TRY(trial.lab().kill(ops, "midstream", SIGSTOP));
  CHECK_OK(tools.say("the first controller sleeps"));
  auto second = TRY(trial.midstream({"run", "--yes", "--adopt", "--state", kElsewhere}));
  CHECK_OK(hear(second, "epoch", tools.teller()));
  CHECK_OK(hear(second, "going back: yes", tools.teller()));
  TRY(trial.lab().kill(ops, "midstream", SIGCONT));
  CHECK_OK(tools.say("the first controller wakes up"));
  const auto tell = [&](std::string_view line) {
    if (tools.teller()) tools.teller()(line);
    return true;
  };
  const int woken = TRY(first.wait(tell, Deadline::in(kMoveLimit)));
  if (woken == 0) return refused("the first controller ended as if the move were its own");
  CHECK_OK(tools.say(fmt::format("the first controller ended with exit code {}", woken)));
  if (const int code = TRY(second.wait(tell, Deadline::in(kMoveLimit))); code != 0)
    return refused(fmt::format("the second controller ended with exit code {}", code));
  CHECK_OK(tools.succeed(trial, {"finish", "--yes", "--state", kElsewhere}));
  CHECK_OK(tools.judged(trial, "new", 1));
  return trial.end();
}

}  // namespace midstream::lab
