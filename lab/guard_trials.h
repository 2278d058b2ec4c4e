// Trials of the guard: what is planted while web traffic shifts, and what must come of it.
#pragma once

#include <functional>
#include <string_view>

#include "lab/trial.h"

namespace midstream::lab {

enum class Misbehaviour {
  errors,  // new answers 500 to every 20th request
  slow,    // new takes three times as long as old
  both,    // both sides answer 500 to every 20th request
};

// Runs the move in `trial`, plants it once a quarter of the traffic goes to new, and judges: errors and slow are taken out
// of traffic in time and few requests fail; both leads to a pause and, once it has passed, to a whole move. Refused, with
// the figure, where anything is otherwise. `say` is told the figures.
Result<> try_guard(Trial& trial, Misbehaviour what, const std::function<void(std::string_view)>& say);

// Runs the move in `trial`, and while half of the traffic is on each side no file is carried over for a while. Readers must
// miss nothing, for the application tries a miss on the other side. `alone`: it does not, and the checker must find that
// they missed acknowledged files. Refused otherwise.
Result<> try_readers(Trial& trial, bool alone, const std::function<void(std::string_view)>& say);

}  // namespace midstream::lab
