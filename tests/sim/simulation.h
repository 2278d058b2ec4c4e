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
  std::vector<std::string> trace;
};

// Trouble for a while, then none; the move has to end as the operator then wants it.
Verdict simulate(std::uint64_t seed, Bug bug, bool traced);

// No trouble but one: the controller dies at its `at`th event (from 1), in this way. Twelve steps, run and finish,
// or run and all the way back. `handled` tells how many events there were.
Verdict sweep(std::int64_t at, Death death, bool back);

// No trouble, but the operator turns back at the `at`th event.
Verdict turn_back(std::int64_t at);

}  // namespace midstream::test
