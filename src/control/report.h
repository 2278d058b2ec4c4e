// The evidence of a move, schema midstream.report/1, and the same for people. Pure.
#pragma once

#include <string>

#include "base/json.h"
#include "engine/engine.h"

namespace midstream {

// `meter` is what the probe's meter says at the end ({} if nothing probed).
Json make_report(const State& state, const Json& meter);
std::string report_markdown(const Json& report);

}  // namespace midstream
