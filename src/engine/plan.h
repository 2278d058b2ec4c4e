// The plan: the ordered steps of one move, as values. Steps run one after another; what shall go on beside them
// (following, probing) is begun by one step and seen by later ones.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "engine/guard.h"

namespace midstream {

// In this order; design section 3. Steps of `finish` run only when the operator says finish.
inline constexpr std::string_view kPhases[] = {"prepare", "copy", "follow",    "gate", "shift",
                                               "switch",  "soak", "addresses", "home", "finish"};
// Position in kPhases, or -1.
int phase_index(std::string_view phase);

enum class StepKind {
  effect,   // apply once; undone on the way back
  wait,     // observe until reached; nothing to undo
  hold,     // let `deadline_ms` pass, and the guard where `guard` names one; nothing to undo
  confirm,  // the operator's word; nothing to undo
};
// Whether an agent is asked to bring such a step about.
constexpr bool has_agent(StepKind kind) { return kind == StepKind::effect || kind == StepKind::wait; }

struct Step {
  std::string id;  // unique in the plan: "web.weights-25"
  std::string phase;
  std::string service;  // "" where the step serves the whole move
  StepKind kind = StepKind::effect;
  std::string host;                // whose agent acts; "" where none does
  std::vector<std::string> hosts;  // every host that it involves: `host` and those that its mover asks; else empty
  std::string mover;
  Json desired = Json::object();
  std::string text;                       // for people, present tense
  std::int64_t expected_blackout_ms = 0;  // of `service`; 0: users feel nothing
  std::int64_t deadline_ms = 60'000;      // effect: of one attempt; wait: of the whole wait; hold: its length
  std::int64_t poll_ms = 200;             // wait: time between two observations
  int attempts = 4;                       // effect: how often a transient failure is tried again
  std::int64_t expected_ms = 0;           // how long it takes if all goes well; a hold: its length
  std::string expected_from;              // where what is expected comes from: "assumed", "measured 3 times", or ""
  std::string guard;                      // the service whose guard watches it; a hold ends only after a pass
  std::vector<std::string> keeps;  // hold: earlier steps whose state must go on; while one does not, no time passes
  std::int64_t back_ms = 0;        // hold, wait: how long the way back stays before it; 0: passed over
  bool irreversible = false;
  bool in_window = false;          // a step that users could feel: only within the window
  std::vector<std::string> needs;  // ids of earlier steps whose outcome this one builds on

  // An effect that users could notice.
  bool felt() const { return kind == StepKind::effect && (in_window || expected_blackout_ms > 0); }
};

// The end: midstream takes itself off a host.
struct Leave {
  std::string host;
  bool power_off = false;  // and the host is shut down as the last act there
};

// New is compared with old from the beginning of one step to the end of another; src/engine/guard.h.
struct GuardSpec {
  std::string service;
  std::string host;  // whose agent is asked
  std::string mover;
  Json desired = Json::object();  // what its observe is asked for: how the requests of both sides end
  GuardLimits limits;
  std::string from;  // ids of steps; failing takes back `from` and everything after it
  std::string until;
};

struct Plan {
  std::string move;
  std::vector<std::string> hosts;  // every host with an agent, in the manifest's order
  Json budgets = Json::object();   // service -> downtime budget in ms
  std::vector<Step> steps;
  std::vector<Leave> leave;  // one after the other, once everything else that `finish` asks for is done
  std::vector<GuardSpec> guards;

  // Index of the step with this id, or -1.
  int find(std::string_view id) const;
};

// Ids unique, phases known and in order, needs met earlier, hosts known, irreversible steps only in `finish`; guards
// end before it, and every guarded step has one; no host left twice.
Result<> validate(const Plan& plan);

// Canonical JSON, and back. plan_hash is over the canonical text: FNV-1a, 64 bits, hex; it tells plans apart and
// is no protection against forgery.
Json to_json(const Step& step);
Result<Step> step_from_json(const Json& value, const Plan& plan);
Json to_json(const Plan& plan);
Result<Plan> plan_from_json(const Json& value);
std::string plan_hash(const Plan& plan);

}  // namespace midstream
