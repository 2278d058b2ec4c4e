// Plans, checks and states as text. stdout is data, stderr is messages.
#pragma once

#include <string>

#include "control/check.h"
#include "engine/engine.h"
#include "manifest/manifest.h"

namespace midstream {

std::string check_text(const CheckResult& result);
// Steps by phase, each with expected blackout and undo; then each service's path before, during and after.
std::string plan_text(const Plan& plan, const Manifest& manifest);
// What `finish` takes away for good, step by step: those that are not done yet.
std::string irreversible_text(const State& state, const std::string& after_old);
std::string status_text(const Json& status);

}  // namespace midstream
