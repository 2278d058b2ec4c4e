// Trials of going back.
#include <fmt/format.h>

#include "lab/trial_tools.h"

namespace midstream::lab {

Result<> roll_back_from(TrialTools& tools, const std::string& phase) {
  auto trial = TRY(tools.begin());
  CHECK_OK(tools.succeed(trial, {"run", "--yes", "--until", phase}));
  pause_for(tools.moment(500, 1'500), {});
  CHECK_OK(tools.succeed(trial, {"rollback"}));
  CHECK_OK(tools.judged(trial, "old", 2));
  return trial.end();
}

Result<> ten_switches(TrialTools& tools) {
  auto trial = TRY(tools.begin());
  for (int round = 0; round < 5; ++round) {
    CHECK_OK(tools.succeed(trial, {"run", "--yes", "--until", "switch"}));
    CHECK_OK(tools.succeed(trial, {"rollback"}));
    CHECK_OK(tools.say(fmt::format("{} switches", 2 * round + 2)));
  }
  CHECK_OK(tools.succeed(trial, {"run", "--yes"}));
  CHECK_OK(tools.succeed(trial, {"finish", "--yes"}));
  CHECK_OK(tools.judged(trial, "new", 11));
  return trial.end();
}

Result<> new_is_lost(TrialTools& tools) {
  // Longer than old goes on to believe in a new that says nothing.
  constexpr Millis kSilence{16'000};
  auto trial = TRY(tools.begin());
  const auto& new_host = trial.lab().scenario().new_host;
  CHECK_OK(tools.succeed(trial, {"run", "--yes", "--until", "soak"}));
  CHECK_OK(tools.end_with(trial, {"rollback", "--new-is-lost"}, 5, "goes back and loses nothing"));
  CHECK_OK(trial.lab().poweroff(new_host));
  pause_for(kSilence, {});
  CHECK_OK(tools.end_with(trial, {"rollback", "--new-is-lost"}, 5, "that it had acknowledged by"));
  CHECK_OK(trial.lab().boot(new_host));
  CHECK_OK(trial.lab().await_host(new_host, Deadline::in(Millis(30'000))));
  // What new has acknowledged and old has not is on its way first: until then `rollback` says so and changes nothing.
  for (const auto deadline = Deadline::in(Millis(60'000)); !deadline.expired(); pause_for(Millis(500), {}))
    if (tools.succeed(trial, {"rollback"})) {
      CHECK_OK(tools.judged(trial, "old", 2));
      return trial.end();
    }
  return refused("new is back, and `rollback` did not succeed for a minute", "the last lines say why");
}

}  // namespace midstream::lab
