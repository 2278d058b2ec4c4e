// Whether going back is possible, asked of all agents beside the step under way: questions that have no effect, so that
// the engine's rule of one call at a time is not touched. Pure; the controller sends and waits.
#pragma once

#include <map>
#include <string>

#include "base/json.h"
#include "base/result.h"
#include "engine/engine.h"

namespace midstream {

// For each host the steps whose undo it is asked about, the last one first: [{"step", "mover", "desired"}]. Effects that
// are done and that a user or a byte could miss: to end the probe loses nothing, and its host may be away.
std::map<std::string, Json> undo_questions(const State& state);

// What the answers come to: the first obstacle on the way back. An error counts as an obstacle at the last step of its
// host.
GoingBack going_back(const State& state, const std::map<std::string, Result<Json>>& answers);

// "yes", "no, because ..." as of the last record, for status and report: {"possible", "step", "why", "since",
// "closed", "closed_ms"}; null before it was observed.
Json way_back_json(const State& state);
// The same in words.
std::string way_back_text(const Json& way_back);

}  // namespace midstream
