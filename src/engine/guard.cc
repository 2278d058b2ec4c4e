#include "engine/guard.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/math/special_functions/beta.hpp>
#include <cmath>

namespace midstream {

namespace {

constexpr double kAlpha = 0.01;
constexpr std::size_t kRecent = 10;
constexpr std::size_t kMemory = 3;  // looks, of which two must fail
constexpr int kSilence = 3;
constexpr double kSpikes = 0.02;  // share beyond three times old's p99 that may be chance

// P(X >= x) for X binomial in n with p.
double tail(std::uint64_t x, std::uint64_t n, double p) {
  if (x == 0) return 1;
  if (x > n || p <= 0) return 0;
  if (p >= 1) return 1;
  return boost::math::ibeta(static_cast<double>(x), static_cast<double>(n - x + 1), p);
}

double share(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0 : static_cast<double>(part) / static_cast<double>(whole);
}

// Upper bound of a quantile, by the order statistic 2.6 standard deviations above it.
std::int64_t upper_quantile(const Histogram& sample, double q) {
  const auto n = static_cast<double>(std::max<std::uint64_t>(sample.count(), 1));
  return sample.quantile(std::min(1.0, q + 2.6 * std::sqrt(q * (1 - q) / n)));
}

void add(Sample& to, const Sample& from) {
  to.requests += from.requests;
  to.failed += from.failed;
  to.latency.merge(from.latency);
}

std::string ms(std::int64_t us) { return fmt::format("{:.1f} ms", static_cast<double>(us) / 1000); }

}  // namespace

std::string_view to_string(Verdict verdict) {
  switch (verdict) {
    case Verdict::pass: return "pass";
    case Verdict::fail: return "fail";
    case Verdict::inconclusive: return "inconclusive";
    case Verdict::both: return "both";
    case Verdict::unknown: return "unknown";
  }
  return "?";
}

Verdict verdict_from(std::string_view name) {
  for (const auto verdict : {Verdict::pass, Verdict::fail, Verdict::both, Verdict::unknown}) {
    if (to_string(verdict) == name) return verdict;
  }
  return Verdict::inconclusive;
}

Json to_json(const GuardLimits& limits) {
  return {{"errors", limits.errors},
          {"ratio", limits.ratio},
          {"floor_us", limits.floor_us},
          {"min_samples", limits.min_samples}};
}

Result<GuardLimits> limits_from_json(const Json& value) {
  GuardLimits limits;
  for (auto [key, number] : {std::pair("errors", &limits.errors), std::pair("ratio", &limits.ratio)}) {
    if (!value.contains(key) || !value[key].is_number())
      return corrupt(fmt::format("limits of a guard without {}", key));
    *number = value[key].get<double>();
  }
  limits.floor_us = TRY(get_int(value, "floor_us"));
  limits.min_samples = static_cast<std::uint64_t>(TRY(get_int(value, "min_samples")));
  return limits;
}

Guard::Pair Guard::recent() const {
  Pair out;
  for (const auto& pair : newest_) {
    add(out.old_side, pair.old_side);
    add(out.new_side, pair.new_side);
  }
  return out;
}

// Whether a test failed now and in at least one more of the last looks.
bool Guard::repeated(const std::string& test) const {
  int failed = 0;
  for (const auto& look : findings_) {
    const auto found = look.find(test);
    failed += found != look.end() && found->second.failed;
  }
  return failed >= 2 && findings_.back().at(test).failed;
}

// Beyond the absolute limits: errors, and latency where a baseline says what is usual.
bool Guard::bad(const Sample& side, double alpha) const {
  if (side.requests >= limits_.min_samples && tail(side.failed, side.requests, limits_.errors) < alpha) return true;
  if (!baseline_ || baseline_->count() < limits_.min_samples || side.latency.count() < limits_.min_samples)
    return false;
  const auto slow =
      static_cast<std::int64_t>(limits_.ratio * std::max<double>(upper_quantile(*baseline_, 0.95), limits_.floor_us));
  return tail(side.latency.above(slow), side.latency.count(), 0.05) < alpha;
}

void Guard::judge_horizon(const std::string& name, const Pair& pair, double alpha,
                          std::map<std::string, Finding>& out) const {
  const auto& was = pair.old_side;
  const auto& is = pair.new_side;
  if (is.requests >= limits_.min_samples && was.requests >= limits_.min_samples) {
    const double chance = tail(is.failed, is.failed + was.failed, share(is.requests, is.requests + was.requests));
    const double more = share(is.failed, is.requests) - share(was.failed, was.requests);
    out["errors, " + name] = {more > limits_.errors && chance < alpha,
                              fmt::format("{} of {} requests failed on new ({:.2f}%), {} of {} on old ({:.2f}%)",
                                          is.failed, is.requests, 100 * share(is.failed, is.requests), was.failed,
                                          was.requests, 100 * share(was.failed, was.requests))};
  }
  if (is.latency.count() < limits_.min_samples || was.latency.count() < limits_.min_samples) return;
  const auto slower = [&](const std::string& test, double q, double times, double may) {
    const auto usual = upper_quantile(was.latency, q);
    const auto limit = static_cast<std::int64_t>(times * static_cast<double>(std::max(usual, limits_.floor_us)));
    const auto beyond = is.latency.above(limit);
    out[test + ", " + name] = {
        tail(beyond, is.latency.count(), may) < alpha,
        fmt::format("{:.1f}% of {} requests on new took longer than {} ({:.1f} times old's {} of {}), where {:.0f}% "
                    "may; new's {} is {}",
                    100 * share(beyond, is.latency.count()), is.latency.count(), ms(limit), times, test,
                    ms(std::max(usual, limits_.floor_us)), 100 * may, test, ms(is.latency.quantile(q)))};
  };
  slower("p50", 0.50, limits_.ratio, 0.50);
  slower("p95", 0.95, limits_.ratio, 0.05);
  slower("p99", 0.99, 3, kSpikes);
}

Judgement Guard::look(const Look& look) {
  silent_ = look.new_side ? 0 : silent_ + 1;
  newest_.push_back({look.old_side.value_or(Sample{}), look.new_side.value_or(Sample{})});
  add(all_.old_side, newest_.back().old_side);
  add(all_.new_side, newest_.back().new_side);
  add(here_.old_side, newest_.back().old_side);
  add(here_.new_side, newest_.back().new_side);
  if (newest_.size() > kRecent) newest_.pop_front();
  if (silent_ >= kSilence) return {Verdict::unknown, fmt::format("nothing was heard of new for {} looks", silent_)};

  auto now = recent();
  const bool dead = now.new_side.requests > 0 && now.new_side.failed * 2 >= now.new_side.requests;
  // Where old has little left to do, its whole past is what new is held against.
  if (now.old_side.requests < limits_.min_samples) now.old_side = all_.old_side;
  std::map<std::string, Finding> found;
  const auto turn = static_cast<double>(looks_ + 1);
  const double alpha = kAlpha / (turn * (turn + 1)) / 10;  // eight tests, and whether each side is bad by itself
  judge_horizon("all", all_, alpha, found);
  judge_horizon("newest", now, alpha, found);
  found["old is bad"] = {bad(now.old_side, alpha), ""};
  found["new is bad"] = {bad(now.new_side, alpha), ""};
  const bool enough = all_.new_side.requests >= limits_.min_samples && all_.old_side.requests >= limits_.min_samples;
  if (enough) ++looks_;
  findings_.push_back(std::move(found));
  if (findings_.size() > kMemory) findings_.pop_front();

  for (const auto& [test, finding] : findings_.back()) {
    if (!finding.words.empty() && finding.failed && repeated(test))
      return {Verdict::fail, fmt::format("{}: {}", test, finding.words), dead};
  }
  if (repeated("old is bad") && repeated("new is bad")) {
    return {Verdict::both,
            fmt::format("old is as bad as new: {:.2f}% of old's and {:.2f}% of new's requests fail, p95 {} and {}",
                        100 * share(now.old_side.failed, now.old_side.requests),
                        100 * share(now.new_side.failed, now.new_side.requests),
                        ms(now.old_side.latency.quantile(0.95)), ms(now.new_side.latency.quantile(0.95)))};
  }
  const auto figures =
      fmt::format("{} of {} requests failed on new, {} of {} on old; p95 {} and {}", all_.new_side.failed,
                  all_.new_side.requests, all_.old_side.failed, all_.old_side.requests,
                  ms(all_.new_side.latency.quantile(0.95)), ms(all_.old_side.latency.quantile(0.95)));
  if (!enough) return {Verdict::inconclusive, fmt::format("{} (needs {} of each)", figures, limits_.min_samples)};
  const auto here = std::min(here_.new_side.requests, here_.old_side.requests);
  if (here < limits_.min_samples) {
    return {Verdict::inconclusive,
            fmt::format("{}; with this share of the traffic {} of the {} needed", figures, here, limits_.min_samples)};
  }
  return {Verdict::pass, figures};
}

}  // namespace midstream
