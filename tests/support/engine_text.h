// What goes into the engine and comes out of it, a line each: for golden scenarios and for traces of the simulation.
#pragma once

#include <string>
#include <string_view>

#include "engine/engine.h"

namespace midstream::test {

std::string record_line(const Json& record);       // "intent db.switch forward, attempt 1"
std::string command_line(const Command& command);  // "apply db.switch on new, epoch 1"
std::string event_line(const Event& event);        // "outcome db.switch forward of epoch 1: ok"
std::string error_line(const Error& error);        // refused "what; todo"
// The whole state but the plan, so that two states can be compared and their difference read.
std::string state_text(const State& state);

std::string_view verb_name(Call::Verb verb);
std::string_view progress_name(Progress progress);

}  // namespace midstream::test
