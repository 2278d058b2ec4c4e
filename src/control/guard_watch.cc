#include "control/guard_watch.h"

#include <algorithm>
#include <utility>

namespace midstream {

namespace {

Result<Sample> sample_from(const Json& answer, std::string_view side) {
  const auto value = TRY(get_object(answer, side));
  Sample sample;
  sample.requests = static_cast<std::uint64_t>(TRY(get_int(value, "requests")));
  sample.failed = static_cast<std::uint64_t>(TRY(get_int(value, "failed")));
  sample.latency = TRY(Histogram::from_json(value.value("latency", Json::array())));
  return sample;
}

// Sums only grow within one watching.
Sample since(const Sample& before, const Sample& now) {
  return {now.requests - std::min(before.requests, now.requests), now.failed - std::min(before.failed, now.failed),
          now.latency.since(before.latency)};
}

}  // namespace

GuardWatch::GuardWatch(const GuardSpec& spec, const Json& baseline) : spec_(spec), judge_(spec.limits) {
  const auto before = baseline.is_null() ? Result<Histogram>(refused("")) : Histogram::from_json(baseline);
  if (!before) return;  // without one, old's latency is never called bad
  judge_.set_baseline(*before);
  has_baseline_ = true;
}

void GuardWatch::set_limits(const GuardLimits& limits) {
  spec_.limits = limits;
  judge_.set_limits(limits);
}

Result<GuardWatch::Sums> GuardWatch::sums_from(const Json& answer) {
  Sums sums;
  sums.watch = TRY(get_int(answer, "watch"));
  sums.old_side = TRY(sample_from(answer, "old"));
  sums.new_side = TRY(sample_from(answer, "new"));
  return sums;
}

// A watching that has begun anew has nothing to say of the time before; that is a look in vain, as is no answer.
std::optional<Judgement> GuardWatch::answered(const std::string& step, const Result<Json>& answer) {
  const bool first = step_.empty();
  if (std::exchange(step_, step) != step) judge_.new_share();
  auto sums = answer ? sums_from(*answer) : Result<Sums>(std::unexpected(answer.error()));
  if (!sums) return judge_.look({});
  const auto before = std::exchange(last_, *sums);
  if (!before && first) return std::nullopt;
  if (!before || before->watch != sums->watch) return judge_.look({});
  return judge_.look({since(before->old_side, sums->old_side), since(before->new_side, sums->new_side)});
}

Json GuardWatch::take_baseline(const std::string& step, const Judgement& judgement) {
  if (has_baseline_ || step != spec_.from || judgement.verdict != Verdict::pass) return {};
  judge_.set_baseline(judge_.old_latency());
  has_baseline_ = true;
  return judge_.old_latency().to_json();
}

}  // namespace midstream
