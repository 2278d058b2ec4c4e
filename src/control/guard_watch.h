// The guard of one service on the controller's side: from what its agent answers to looks, and from looks to verdicts.
// Pure; the controller asks, and hands the verdicts to the engine.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/json.h"
#include "engine/guard.h"
#include "engine/plan.h"

namespace midstream {

class GuardWatch {
 public:
  // `baseline`: old's latencies before the shift (Histogram::to_json), null where they are not known yet.
  GuardWatch(const GuardSpec& spec, const Json& baseline);

  const GuardSpec& spec() const { return spec_; }
  // What an observe of the watch answered (docs/formats/desired.md, traffic), or why it did not; `step` is the step that
  // is under way or next. Nothing where there was only something to count from.
  std::optional<Judgement> answered(const std::string& step, const Result<Json>& answer);
  // Old's latencies, with the first pass before new serves anybody; null else. They are the baseline from then on.
  Json take_baseline(const std::string& step, const Judgement& judgement);
  void set_limits(const GuardLimits& limits);

 private:
  struct Sums {
    std::int64_t watch = 0;  // tells one watching from another
    Sample old_side;
    Sample new_side;
  };
  static Result<Sums> sums_from(const Json& answer);

  GuardSpec spec_;
  Guard judge_;
  bool has_baseline_ = false;
  std::string step_;
  std::optional<Sums> last_;
};

}  // namespace midstream
