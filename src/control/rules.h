// The rules of engagement on the controller's side: the window against what is left to do in it, and live tuning. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/json.h"
#include "base/result.h"
#include "engine/engine.h"
#include "manifest/manifest.h"

namespace midstream {

// The state of a move that begins with this plan.
State state_of(const Plan& plan);

// What is left to do within the window, and when it must begin at the latest.
struct WindowView {
  bool open = false;
  bool fits = true;           // within the opening at hand, begun now or, if it is closed, when it opens
  bool fits_at_all = true;    // within one that is waited for from its beginning
  std::int64_t needed_ms = 0;
  std::int64_t opens_ms = 0;  // of the opening at hand, or the next one
  std::int64_t closes_ms = 0;
  std::int64_t last_safe_start_ms = 0;
  std::string text;  // all of it, with the sum
};
Result<WindowView> view_window(const Window& window, const State& state, std::int64_t now);
Json to_json(const WindowView& view);

// What may be changed while a move runs, by the manifest's own names: rules.downtime, rules.observe, rules.window.to,
// rules.guard.LIMIT, services.NAME.budget, services.NAME.guard.LIMIT, services.NAME.traffic.hold,
// services.NAME.traffic.steps (those still ahead); LIMIT is errors, p95, floor or min_samples.
//
// `manifest` with one of them changed ("services.web.traffic.hold=30s"). Refused for anything else, naming these.
Result<Manifest> tuned_manifest(Manifest manifest, const std::string& setting);

// From the manifest that the journal has (to_json) to `wanted`: the settings of a `tuned` record. Refused, naming it, where
// anything else differs, or where a setting does not fit what the move has come to.
Result<Json> tuning(const Json& recorded, const Manifest& wanted, const State& state);

}  // namespace midstream
