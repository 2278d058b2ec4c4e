// The meter: what users had, computed from the probe's log and nothing else. Pure; the same log gives the same
// figures, whoever reads it and however often.
//
// Probes of one target are taken in the order of their starts s(1) < s(2) < ..., each with its end e(i) (answer,
// error or timeout). What probe i found holds from s(i) to s(i+1).
//
//  - A gap is where s(i+1) - s(i) exceeds three intervals, or a new session begins. What is in it is unknown, never
//    up and never down: from the later of e(i) and s(i) + interval, to s(i+1). Before the first probe, and after
//    the last, nothing is claimed.
//  - A down interval is a longest row of failed probes a..b (outcome failed or timeout) without a gap.
//    lower = s(b) - s(a): it was down at both. upper = e(b+1) - s(a): the next probe's success is the first proof
//    that it was up again. Where a gap or the end of the log comes instead, upper reaches to where the known ends
//    (above). Upper bounds of several intervals count no moment twice.
//  - An outage that falls between two probes is not seen; one that begins before s(a) began at most one interval
//    before. The resolution that goes with the figures is interval + timeout.
//  - The pause of a probe is what a user who came with it and kept asking would have waited: a successful one's
//    own latency; a failed one's until the end of the first success after it, and its own latency at least. A gap
//    ends the waiting where the known ends. longest_pause is the longest; it is in no way less than the longest
//    upper bound.
//  - Slow is up; it is counted, and its length is in longest_pause.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "probe/records.h"

namespace midstream {

struct DownInterval {
  enum class End { up, unknown, open };
  std::int64_t first_seq = 0;  // the first failed probe
  std::int64_t last_seq = 0;   // and the last: the evidence for the interval
  Nanos start{0};              // of the first failed probe, on the log's timeline
  std::int64_t wall_ms = 0;    // the same by the wall clock of the vantage point
  Nanos lower{0};
  Nanos upper{0};
  End end = End::open;
  std::string error;           // class of the first failure
};

struct Figures {
  std::int64_t requests = 0;
  std::int64_t failed = 0;
  std::int64_t slow = 0;
  std::int64_t reconnected = 0;  // succeeded, but only over a new connection
  std::int64_t deferred = 0;     // succeeded, after having been told to come back
  Nanos unknown{0};
  Nanos lower{0};
  Nanos upper{0};
  Nanos longest_pause{0};
  std::int64_t interval_count = 0;
  std::vector<DownInterval> intervals;  // the first 50
};

// Of one target. Times are on one timeline, which the caller provides; runs come in the order of their starts.
class TargetMeter {
 public:
  TargetMeter(Nanos every, Nanos timeout) : every_(every), timeout_(timeout) {}

  // What comes next is not connected with what was before.
  void begin_session(Nanos every, Nanos timeout);
  void add(const RunLine& run, std::int64_t wall_ms);
  // As of the last run; an interval that has not ended is in it with its bounds so far.
  Figures figures() const;
  Nanos resolution() const { return every_ + timeout_; }
  bool is_down() const { return open_.has_value(); }

 private:
  struct Last {
    Nanos start{0};
    Nanos end{0};
    Nanos every{0};
    std::int64_t seq = 0;
  };

  Nanos known_until() const;
  void close(Figures& figures, Nanos& counted_until, Nanos at, DownInterval::End end) const;

  Nanos every_;
  Nanos timeout_;
  bool fresh_ = true;  // no run of this session yet
  std::optional<Last> last_;
  std::optional<DownInterval> open_;
  Nanos open_last_start_{0};
  Nanos counted_until_{INT64_MIN};  // the end of what `upper` has counted
  Figures done_;                    // without the open interval
};

// Of a whole log.
class Meter {
 public:
  // Corrupt if the line cannot follow what came before.
  Result<> add(const LogLine& line);

  // {"version":1,"sessions","last_wall_ms","services":[..],"addresses":[..]}: docs/formats/probe.md.
  Json to_json() const;
  // nullptr for a target that the log does not know.
  const TargetMeter* target(const std::string& name) const;
  // The highest number of a probe of `name`; 0 where there is none.
  std::int64_t last_seq(const std::string& name) const;

 private:
  struct Entry {
    Target target;
    TargetMeter meter;
    std::int64_t last_seq = 0;
  };

  void begin(const SessionLine& line);
  Result<> add_run(RunLine run);

  std::vector<Entry> entries_;          // in the order of their first session
  std::vector<std::size_t> by_index_;   // the current session's target indexes
  std::optional<SessionLine> session_;
  Nanos offset_{0};                     // from the session's boot clock to the log's timeline
  Nanos latest_{0};                     // on the timeline
  std::int64_t latest_wall_ms_ = 0;
  int sessions_ = 0;
};

}  // namespace midstream
