// The guard's judge: is new worse than old, while traffic shifts? Pure: looks in, a verdict in words and numbers out.
//
// Every look brings what happened since the one before. Two horizons are judged: all looks together, and the newest
// kRecent alone, so that a long good past does not hide what begins late. In each horizon:
//
//   errors   failed requests of new against old: given all failures, new's share of them is binomial with new's share of
//            the requests if both are alike. One-sided, and only where the difference exceeds `errors` as well.
//   p50 p95  how many of new's requests exceed `ratio` times old's quantile (its upper confidence bound, and never less
//            than `floor`), against the share that may.
//   spikes   how many of new's requests exceed three times old's 99th percentile: what a shift of quantiles does not show.
//
// Looking often must not cry wolf: look i may spend kAlpha / (i (i + 1)) of the false alarms, shared among its tests, so
// that all looks together stay below kAlpha whatever their number; and a test must fail in two of the last three looks.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "base/histogram.h"
#include "base/json.h"
#include "base/result.h"

namespace midstream {

struct GuardLimits {
  double errors = 0.01;  // share of requests by which new may fail more often than old; and the most for either alone
  double ratio = 1.5;    // of latency, new against old
  std::int64_t floor_us = 20'000;   // latencies below this are never too slow
  std::uint64_t min_samples = 300;  // of each side, before anything is concluded
};
Json to_json(const GuardLimits& limits);
Result<GuardLimits> limits_from_json(const Json& value);

// What one side did in one look.
struct Sample {
  std::uint64_t requests = 0;
  std::uint64_t failed = 0;
  Histogram latency;
};

struct Look {
  std::optional<Sample> old_side;  // nothing: it could not be asked
  std::optional<Sample> new_side;
};

enum class Verdict {
  pass,          // new is not worse
  fail,          // new is worse than old: traffic goes back
  inconclusive,  // too little has been seen: the weight is held, probe traffic makes more
  both,          // old is as bad: pause, and do not blame new
  unknown,       // new could not be asked for three looks: pause
};
std::string_view to_string(Verdict verdict);
Verdict verdict_from(std::string_view name);  // inconclusive for a name that is none

struct Judgement {
  Verdict verdict = Verdict::inconclusive;
  std::string words;  // the numbers behind it, for people
  bool dead = false;  // most of what new was asked of late failed: nothing is won by leaving it slowly
};

class Guard {
 public:
  explicit Guard(GuardLimits limits) : limits_(limits) {}

  // How old did before any traffic shifted; without it old's latency is never called bad.
  void set_baseline(const Histogram& before) { baseline_ = before; }
  // Another share of the traffic goes to new from here on: a pass needs the minimum sample of it, too.
  void new_share() { here_ = {}; }
  void set_limits(const GuardLimits& limits) { limits_ = limits; }
  // Old's latencies, all looks together.
  const Histogram& old_latency() const { return all_.old_side.latency; }
  Judgement look(const Look& look);

 private:
  struct Pair {
    Sample old_side;
    Sample new_side;
  };
  struct Finding {
    bool failed = false;
    std::string words;
  };
  Pair recent() const;
  void judge_horizon(const std::string& name, const Pair& pair, double alpha,
                     std::map<std::string, Finding>& out) const;
  bool bad(const Sample& side, double alpha) const;
  bool repeated(const std::string& test) const;

  GuardLimits limits_;
  std::optional<Histogram> baseline_;
  Pair all_;
  Pair here_;  // since the last new_share()
  std::deque<Pair> newest_;
  std::deque<std::map<std::string, Finding>> findings_;  // of the last looks
  std::uint64_t looks_ = 0;                              // that concluded something: only those spend false alarms
  int silent_ = 0;                                       // looks in a row without an answer for new
};

}  // namespace midstream
