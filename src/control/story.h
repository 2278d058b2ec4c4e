// The move told in short lines: time, service, what, the figures behind it. Pure.
#pragma once

#include <string>

#include "base/json.h"
#include "engine/engine.h"

namespace midstream {

// The line for a record that was just stored; "" for records that tell the operator nothing.
std::string story_line(const State& state, const Json& record);
// "fence_ms 12, total_ms 41": the scalar figures of a step's result, at most six.
std::string figures(const Json& result);

}  // namespace midstream
