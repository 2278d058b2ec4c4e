// The guard's judge on made-up traffic with known truth. Every case has a seed; the rates that are asserted are those of the
// class comment: false alarms at most 1% over a whole watch of 120 looks, misses at most 5% at the stated sizes.
#include "engine/guard.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <functional>
#include <random>

namespace midstream {
namespace {

// One side's manner: requests a look, share that fails, latencies around a median with a spread, and rare long ones.
struct Manner {
  int requests = 100;
  double errors = 0.001;
  double median_ms = 30;
  double spread = 0.4;  // sigma of the logarithm
  double spikes = 0;    // share that takes twenty times as long
};

class Traffic {
 public:
  explicit Traffic(std::uint64_t seed) : random_(seed) {}

  Sample sample(const Manner& manner) {
    Sample out;
    out.requests = std::poisson_distribution<std::uint64_t>(manner.requests)(random_);
    out.failed = std::binomial_distribution<std::uint64_t>(out.requests, manner.errors)(random_);
    std::lognormal_distribution<double> usual(std::log(manner.median_ms * 1000), manner.spread);
    std::bernoulli_distribution spike(manner.spikes);
    for (std::uint64_t i = 0; i < out.requests; ++i)
      out.latency.add(static_cast<std::int64_t>(usual(random_) * (spike(random_) ? 20 : 1)));
    return out;
  }

 private:
  std::mt19937_64 random_;
};

struct Watch {
  Manner old_side;
  Manner new_side;
  int looks = 120;
  int turns_bad_at = 0;  // until then new behaves as old
  bool baseline = false;
};

// The first verdict that is neither pass nor inconclusive, else the last one.
Verdict outcome(const Watch& watch, std::uint64_t seed, int* at = nullptr) {
  Traffic traffic(seed);
  Guard guard(GuardLimits{});
  if (watch.baseline) {
    Histogram before;
    for (int i = 0; i < 10; ++i) before.merge(traffic.sample(Manner{}).latency);
    guard.set_baseline(before);
  }
  auto last = Verdict::inconclusive;
  for (int i = 0; i < watch.looks; ++i) {
    const auto& is = i < watch.turns_bad_at ? watch.old_side : watch.new_side;
    auto is_now = is;
    is_now.requests = watch.new_side.requests;
    last = guard.look({traffic.sample(watch.old_side), traffic.sample(is_now)}).verdict;
    if (at) *at = i;
    if (last != Verdict::pass && last != Verdict::inconclusive) return last;
  }
  return last;
}

int count(const Watch& watch, int runs, Verdict wanted) {
  int found = 0;
  for (int run = 0; run < runs; ++run) found += outcome(watch, static_cast<std::uint64_t>(run) + 1) == wanted;
  return found;
}

// Of every case, or as many as MIDSTREAM_GUARD_RUNS says (`./test soak` takes 400).
int runs(int usual = 40) {
  const char* wanted = std::getenv("MIDSTREAM_GUARD_RUNS");
  return wanted ? std::atoi(wanted) : usual;
}

struct Named {
  const char* name;
  Watch watch;
};
void PrintTo(const Named& named, std::ostream* out) { *out << named.name; }
std::string name_of(const testing::TestParamInfo<Named>& info) { return info.param.name; }

// ---- both alike, for two minutes of looks
class Alike : public testing::TestWithParam<Named> {};
TEST_P(Alike, FalseAlarmsAreAtMostOneInAHundred) {
  const int kRuns = runs(10);
  EXPECT_LE(kRuns - count(GetParam().watch, kRuns, Verdict::pass), kRuns / 100);
}
INSTANTIATE_TEST_SUITE_P(
    Guard, Alike,
    testing::Values(
        Named{"quiet", {}}, Named{"more_traffic_on_old", {.old_side = {.requests = 150}, .new_side = {.requests = 15}}},
        Named{"wide_latencies", {.old_side = {.requests = 40, .spread = 1}, .new_side = {.requests = 40, .spread = 1}}},
        Named{"spikes_on_both",
              {.old_side = {.requests = 40, .spikes = 0.02}, .new_side = {.requests = 40, .spikes = 0.02}}},
        Named{"fast_and_three_times_slower_below_the_floor",
              {.old_side = {.requests = 40, .median_ms = 2}, .new_side = {.requests = 40, .median_ms = 6}}},
        Named{"one_in_a_hundred_fails_on_both",
              {.old_side = {.requests = 40, .errors = 0.01}, .new_side = {.requests = 40, .errors = 0.01}}}),
    name_of);

// ---- new is worse: found within the stated number of requests on new
class Worse : public testing::TestWithParam<Named> {};
TEST_P(Worse, MissesAreAtMostOneInTwenty) {
  const int kRuns = runs();
  EXPECT_LE(kRuns - count(GetParam().watch, kRuns, Verdict::fail), kRuns / 20);
}
INSTANTIATE_TEST_SUITE_P(
    Guard, Worse,
    testing::Values(Named{"one_in_twenty_fails_800_requests", {.new_side = {.errors = 0.05}, .looks = 8}},
                    Named{"sparse_errors_3_percent_2000_requests", {.new_side = {.errors = 0.03}, .looks = 20}},
                    Named{"three_times_slower_500_requests", {.new_side = {.median_ms = 90}, .looks = 5}},
                    Named{"twice_as_slow_800_requests", {.new_side = {.median_ms = 60}, .looks = 8}},
                    Named{"same_median_wider_1000_requests", {.new_side = {.spread = 1.2}, .looks = 10}},
                    Named{"one_in_ten_takes_long_1000_requests", {.new_side = {.spikes = 0.1}, .looks = 10}},
                    Named{"turns_bad_late_1000_requests",
                          {.new_side = {.errors = 0.08}, .looks = 90, .turns_bad_at = 80}}),
    name_of);

TEST(Guard, FailsWithinFiveLooksOfHavingTheMinimumSample) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    int at = 0;
    const auto verdict = outcome({.new_side = {.errors = 0.08}, .looks = 30}, seed, &at);
    EXPECT_EQ(verdict, Verdict::fail);
    EXPECT_LE(at, 3 + 5) << "seed " << seed;
  }
}

TEST(Guard, OldAsBadIsNotBlamedOnNew) {
  const int kRuns = runs();
  EXPECT_LE(
      kRuns - count({.old_side = {.errors = 0.05}, .new_side = {.errors = 0.05}, .looks = 20}, kRuns, Verdict::both),
      kRuns / 20);
  EXPECT_LE(
      kRuns - count({.old_side = {.median_ms = 120}, .new_side = {.median_ms = 120}, .looks = 20, .baseline = true},
                    kRuns, Verdict::both),
      kRuns / 20);
  EXPECT_LE(count({.old_side = {.errors = 0.05}, .new_side = {.errors = 0.05}, .looks = 60}, kRuns, Verdict::fail),
            kRuns / 100);
}

TEST(Guard, TooLittleTrafficConcludesNothing) {
  const int kRuns = runs();
  EXPECT_EQ(count({.new_side = {.requests = 2, .errors = 0.2}, .looks = 60}, kRuns, Verdict::inconclusive), kRuns);
}

TEST(Guard, SilenceIsUnknownAndNeverAPass) {
  Guard guard(GuardLimits{});
  Traffic traffic(7);
  for (int i = 0; i < 10; ++i) (void)guard.look({traffic.sample({}), traffic.sample({})});
  (void)guard.look({traffic.sample({}), std::nullopt});
  (void)guard.look({traffic.sample({}), std::nullopt});
  const auto judgement = guard.look({traffic.sample({}), std::nullopt});
  EXPECT_EQ(judgement.verdict, Verdict::unknown);
  EXPECT_EQ(judgement.words, "nothing was heard of new for 3 looks");
}

TEST(Guard, AVerdictSaysItsNumbers) {
  Guard guard(GuardLimits{});
  Sample good{500, 0, {}}, bad{500, 40, {}};
  EXPECT_EQ(guard.look({good, bad}).verdict, Verdict::pass) << "one look of three is not enough";
  const auto judgement = guard.look({good, bad});
  EXPECT_EQ(judgement.verdict, Verdict::fail);
  EXPECT_EQ(judgement.words, "errors, all: 80 of 1000 requests failed on new (8.00%), 0 of 1000 on old (0.00%)");
}

TEST(Histogram, KeepsQuantilesToFivePercentAndComesBackFromJson) {
  Histogram histogram;
  for (int us = 1; us <= 100'000; ++us) histogram.add(us);
  for (const double q : {0.5, 0.95, 0.99})
    EXPECT_NEAR(static_cast<double>(histogram.quantile(q)), q * 100'000, q * 5'200);
  EXPECT_NEAR(static_cast<double>(histogram.above(50'000)), 50'000, 2'600);
  const auto again = Histogram::from_json(histogram.to_json());
  ASSERT_TRUE(again);
  EXPECT_EQ(again->quantile(0.95), histogram.quantile(0.95));
  EXPECT_EQ(again->count(), 100'000u);
  for (const char* wrong : {"{}", "[1]", "[[1,-1]]", "[[-1,1]]", "[[1000,1]]", "[[\"a\",1]]"}) {
    EXPECT_FALSE(Histogram::from_json(Json::parse(wrong))) << wrong;
  }
}

}  // namespace
}  // namespace midstream
