// From a manifest to a plan. Pure.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "base/result.h"
#include "control/history.h"
#include "engine/plan.h"
#include "manifest/manifest.h"

namespace midstream {

// What the planner must know of the world beside the manifest.
struct PlanFacts {
  std::map<std::string, std::int64_t> ttl_ms;  // "name/type" -> its TTL today
  History history;                             // what steps cost in earlier moves and rehearsals
};

// The text of a step: Mover::describe of the mover it names.
using Describe = std::function<std::string(const std::string& mover, const Json& desired)>;

// The ordered steps of the move. Refused where the manifest cannot be planned (a moving subnet without addresses).
Result<Plan> make_plan(const Manifest& manifest, const PlanFacts& facts, const Describe& describe);

// Probe configuration for the vantage host, docs/formats/probe.md.
Json probe_config(const Manifest& manifest);

// Key of PlanFacts::ttl_ms.
std::string name_key(const NameSpec& name);
// The desired state that a name's TTL is asked for with.
Json ttl_desired(const NameSpec& name, std::int64_t ttl_ms, std::int64_t from_ttl_ms, const std::string& value);

}  // namespace midstream
