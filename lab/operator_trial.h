// The commands that an operator has beside `run`: pause, continue, status, probe, abort, rollback.
#pragma once

#include <functional>
#include <string_view>

#include "base/result.h"
#include "lab/trial.h"

namespace midstream::lab {

// Uses each of them in `trial`, in which no move has begun, and holds it to what docs/OPERATING.md says. Ends with
// everything undone: the checker's word is the caller's. Refused, saying which, where one does otherwise.
Result<> try_operator(Trial& trial, const std::function<void(std::string_view)>& tell);

}  // namespace midstream::lab
