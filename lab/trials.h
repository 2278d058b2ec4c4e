// Named trials of the whole: faults at chosen or random moments of a real move, then the checker.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "lab/trial.h"

namespace midstream::lab {

std::vector<std::string> trial_names();
// Runs one; prints what it does and, as its last line, "pass" or why not. `seed` picks the random moments and is
// printed. Returns 0 only on pass.
int run_trial(const std::string& name, TrialSpec spec, std::uint64_t seed);

}  // namespace midstream::lab
