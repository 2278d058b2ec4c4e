// One simulated move: a plan, a world, a controller, an operator, and trouble, all decided by one seed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/sim/shell.h"
#include "tests/sim/subject.h"

namespace midstream::test {

struct Verdict {
  std::string broken;  // the promise that did not hold; "" if all did
  std::uint64_t fingerprint = 0;
  std::int64_t handled = 0;
  int deaths = 0;
  int begun = 0;
  std::vector<std::int64_t> stores;  // numbers of the events that stored something
  std::vector<std::int64_t> sends;   // ... that sent something
  std::vector<std::string> trace;
};

// Trouble for a while, then none; the move has to end as the operator then wants it.
Verdict simulate(std::uint64_t seed, Bug bug, bool traced);

// No trouble but one: the controller dies at its `at`th event (from 1), in this way. Run and finish, or run and all the
// way back. `handled` tells how many events there were.
Verdict sweep(const Plan& plan, std::int64_t at, Death death, bool back, bool traced = false);
// ... or the agent dies with the `at`th effect (from 1), which stands at `truth` then. `begun` tells how many there were.
Verdict sweep_effects(const Plan& plan, int at, Truth truth, bool back, bool traced = false);
// ... or the controller dies with its journal, which is rebuilt from what the agents have done.
Verdict sweep_adopt(const Plan& plan, std::int64_t at, Death death, bool back, bool traced = false);
// Every kind of step, in twelve; and what the planner makes of the lab's manifest.
Plan twelve_steps();
Plan demo_plan();

// Whether the small plans of exhaust.cc have three steps ahead of the end, or only up to two.
extern bool all_small_plans;

// No trouble, but the operator turns back at the `at`th event.
Verdict turn_back(std::int64_t at);

}  // namespace midstream::test
