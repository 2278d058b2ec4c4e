// Does what is left to do within the window end before the window does? Pure.
//
// What must lie within one opening of the window is a stretch: from a step to the last one that users can feel before the
// soak, or after it; the soak itself may outlast the window. Everything in between counts with the time that it is
// expected to take: holds, TTL waits, effects.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace midstream {

struct Stretch {
  struct Part {
    std::string step;
    std::int64_t ms = 0;
  };
  std::vector<Part> parts;  // not yet done, in the plan's order; empty: nothing is bound by the window any more
  std::int64_t total_ms = 0;
};

// The stretch that step `index` lies in, from that step on. What is under way counts with what is left of it at `now`.
Stretch stretch_from(const State& state, int index, std::int64_t now);
// The next one: from the first step that is not done and bound by the window.
Stretch next_stretch(const State& state, std::int64_t now);

// "300.0 s (web.weights-5-hold) + 2.0 s (web.drain) + 7 others 4.1 s = 306.1 s": the largest parts first.
std::string sum_text(const Stretch& stretch);
// "1 h 02 min", "3 min 05 s", "12.5 s".
std::string span_text(std::int64_t ms);

}  // namespace midstream
