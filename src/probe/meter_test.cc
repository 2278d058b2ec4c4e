#include "probe/meter.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace midstream {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

constexpr Nanos kEvery = milliseconds(100);
constexpr Nanos kTimeout = milliseconds(1'000);

RunLine probe(std::int64_t seq, std::int64_t start_ms, std::int64_t latency_ms, ProbeOutcome outcome) {
  const Nanos start = milliseconds(start_ms);
  return {.first_seq = seq, .last_seq = seq, .first_start = start, .last_start = start,
          .first_latency = milliseconds(latency_ms), .worst_latency = milliseconds(latency_ms),
          .outcome = outcome, .error = is_up(outcome) ? "-" : "refused", .host = "-"};
}

// One probe each 100 ms from 0 on: '.' up after 2 ms, 's' slow after 400 ms, 'x' refused after 1 ms, 't' timed out,
// ' ' no probe, '|' a new session (no time passes).
Figures figures_of(std::string_view story) {
  TargetMeter meter(kEvery, kTimeout);
  std::int64_t slot = 0;
  for (const char c : story) {
    const auto at = slot * 100;
    if (c == '|') {
      meter.begin_session(kEvery, kTimeout);
      continue;
    }
    ++slot;
    if (c == '.') meter.add(probe(slot, at, 2, ProbeOutcome::ok), at);
    if (c == 's') meter.add(probe(slot, at, 400, ProbeOutcome::slow), at);
    if (c == 'x') meter.add(probe(slot, at, 1, ProbeOutcome::failed), at);
    if (c == 't') meter.add(probe(slot, at, 1'000, ProbeOutcome::timeout), at);
  }
  return meter.figures();
}

std::int64_t ms(Nanos span) { return std::chrono::duration_cast<milliseconds>(span).count(); }

TEST(Meter, NothingIsClaimedOfNothing) {
  const auto f = figures_of("");
  EXPECT_EQ(f.requests, 0);
  EXPECT_EQ(f.unknown, Nanos(0));
  EXPECT_EQ(f.upper, Nanos(0));
}

TEST(Meter, UpIsUp) {
  const auto f = figures_of("..........");
  EXPECT_EQ(f.requests, 10);
  EXPECT_EQ(f.failed, 0);
  EXPECT_EQ(f.upper, Nanos(0));
  EXPECT_EQ(f.unknown, Nanos(0));
  EXPECT_EQ(ms(f.longest_pause), 2);
  EXPECT_TRUE(f.intervals.empty());
}

TEST(Meter, OneFailureIsDownUntilTheNextSuccessEnds) {
  const auto f = figures_of("...x...");
  EXPECT_EQ(f.failed, 1);
  EXPECT_EQ(ms(f.lower), 0);
  EXPECT_EQ(ms(f.upper), 102);
  EXPECT_EQ(ms(f.longest_pause), 102);
  ASSERT_EQ(f.intervals.size(), 1u);
  EXPECT_EQ(f.intervals[0].first_seq, 4);
  EXPECT_EQ(f.intervals[0].last_seq, 4);
  EXPECT_EQ(f.intervals[0].wall_ms, 300);
  EXPECT_EQ(f.intervals[0].end, DownInterval::End::up);
  EXPECT_EQ(f.intervals[0].error, "refused");
}

TEST(Meter, LowerReachesFromTheFirstFailureToTheLast) {
  const auto f = figures_of("..xxxx..");
  EXPECT_EQ(ms(f.lower), 300);
  EXPECT_EQ(ms(f.upper), 402);
  EXPECT_EQ(f.intervals[0].first_seq, 3);
  EXPECT_EQ(f.intervals[0].last_seq, 6);
}

TEST(Meter, IntervalsAddUp) {
  const auto f = figures_of(".xx..x.xxx.");
  EXPECT_EQ(f.failed, 6);
  EXPECT_EQ(f.interval_count, 3);
  EXPECT_EQ(ms(f.lower), 100 + 0 + 200);
  EXPECT_EQ(ms(f.upper), 202 + 102 + 302);
  EXPECT_EQ(ms(f.longest_pause), 302);
}

TEST(Meter, SlowIsUpAndAPause) {
  const auto f = figures_of("..ss..");
  EXPECT_EQ(f.slow, 2);
  EXPECT_EQ(f.failed, 0);
  EXPECT_EQ(f.upper, Nanos(0));
  EXPECT_EQ(ms(f.longest_pause), 400);
}

TEST(Meter, ASlowSuccessEndsAnOutageWhenItEnds) {
  const auto f = figures_of("..xs..");
  EXPECT_EQ(ms(f.upper), 500);
}

TEST(Meter, NoMomentCountsTwice) {
  // The slow success ends at 600; the next failure begins at 300.
  const auto f = figures_of(".xsx.");
  ASSERT_EQ(f.interval_count, 2);
  EXPECT_EQ(ms(f.intervals[0].upper), 500);  // 100 to 600
  EXPECT_EQ(ms(f.intervals[1].upper), 102);  // 300 to 402
  EXPECT_EQ(ms(f.upper), 500);
}

TEST(Meter, ATimeoutIsAPauseOfItsOwn) {
  const auto f = figures_of("..t..");
  EXPECT_EQ(ms(f.upper), 102);
  EXPECT_EQ(ms(f.longest_pause), 1'000);
}

TEST(Meter, UpToThreeIntervalsAreNoGap) {
  EXPECT_EQ(figures_of("..  ..").unknown, Nanos(0));  // two probes missing: 300 ms from start to start
  EXPECT_EQ(ms(figures_of("..   ..").unknown), 300);  // 400 ms, of which the first 100 are known
}

TEST(Meter, AGapIsUnknownNeitherUpNorDown) {
  const auto f = figures_of(".x          x.");
  EXPECT_EQ(ms(f.unknown), 1'000);
  ASSERT_EQ(f.interval_count, 2);
  EXPECT_EQ(f.intervals[0].end, DownInterval::End::unknown);
  EXPECT_EQ(ms(f.intervals[0].lower), 0);
  EXPECT_EQ(ms(f.intervals[0].upper), 100);
  EXPECT_EQ(f.intervals[1].end, DownInterval::End::up);
  EXPECT_EQ(ms(f.lower), 0);
  EXPECT_EQ(ms(f.upper), 202);
}

TEST(Meter, WhatAProbeStillSawIsKnownInAGap) {
  // The timeout at 100 shows until 1100; the gap's unknown part begins there.
  const auto f = figures_of(".t              .");
  EXPECT_EQ(ms(f.unknown), 500);
  EXPECT_EQ(ms(f.intervals[0].upper), 1'000);
}

TEST(Meter, ANewSessionIsAlwaysAGap) {
  const auto f = figures_of(".xx|xx.");
  ASSERT_EQ(f.interval_count, 2);
  EXPECT_EQ(f.intervals[0].end, DownInterval::End::unknown);
  EXPECT_EQ(f.unknown, Nanos(0));  // the probe was away for less than an interval
  EXPECT_EQ(ms(figures_of("..|  ..").unknown), 200);
}

TEST(Meter, AnOutageThatGoesOnHasItsBoundsSoFar) {
  const auto f = figures_of("..xx");
  ASSERT_EQ(f.intervals.size(), 1u);
  EXPECT_EQ(f.intervals[0].end, DownInterval::End::open);
  EXPECT_EQ(ms(f.lower), 100);
  EXPECT_EQ(ms(f.upper), 200);
  EXPECT_EQ(ms(f.longest_pause), 200);
}

TEST(Meter, FiguresDoNotDisturbWhatFollows) {
  TargetMeter meter(kEvery, kTimeout);
  meter.add(probe(1, 0, 1, ProbeOutcome::failed), 0);
  EXPECT_TRUE(meter.is_down());
  EXPECT_EQ(ms(meter.figures().upper), 100);
  EXPECT_EQ(ms(meter.figures().upper), 100);
  meter.add(probe(2, 100, 2, ProbeOutcome::ok), 100);
  EXPECT_FALSE(meter.is_down());
  EXPECT_EQ(ms(meter.figures().upper), 102);
  EXPECT_EQ(meter.figures().interval_count, 1);
}

TEST(Meter, ARowOfProbesCountsAsItsProbes) {
  TargetMeter meter(milliseconds(20), milliseconds(200));
  const auto row = [](std::int64_t first, std::int64_t last, ProbeOutcome outcome) {
    return RunLine{.first_seq = first, .last_seq = last, .first_start = milliseconds(first * 20),
                   .last_start = milliseconds(last * 20), .first_latency = milliseconds(1),
                   .worst_latency = milliseconds(is_up(outcome) ? 3 : 200), .outcome = outcome, .error = "-", .host = "-"};
  };
  meter.add(row(1, 50, ProbeOutcome::ok), 0);
  meter.add(row(51, 60, ProbeOutcome::timeout), 0);
  meter.add(row(61, 99, ProbeOutcome::ok), 0);
  const auto f = meter.figures();
  EXPECT_EQ(f.requests, 99);
  EXPECT_EQ(f.failed, 10);
  EXPECT_EQ(ms(f.lower), 180);
  EXPECT_EQ(ms(f.upper), 201);
  EXPECT_EQ(f.intervals[0].first_seq, 51);
  EXPECT_EQ(f.intervals[0].last_seq, 60);
}

TEST(Meter, OnlyTheFirstFiftyIntervalsAreKept) {
  std::string story;
  for (int i = 0; i < 80; ++i) story += "x.";
  const auto f = figures_of(story);
  EXPECT_EQ(f.interval_count, 80);
  EXPECT_EQ(f.intervals.size(), 50u);
  EXPECT_EQ(ms(f.upper), 80 * 102);
}

// --- against a timeline painted millisecond by millisecond -------------------------------------------------------

struct Painted {
  std::int64_t lower = 0;
  std::int64_t upper = 0;
  std::int64_t unknown = 0;
  std::int64_t pause = 0;
};

struct Event {
  std::int64_t start;
  std::int64_t end;
  bool up;
  bool first_of_session;
};

Painted paint(const std::vector<Event>& events) {
  std::vector<bool> lower(16'000), upper(16'000), unknown(16'000);
  const auto fill = [](std::vector<bool>& line, std::int64_t from, std::int64_t to) {
    for (auto t = from; t < to; ++t) line[static_cast<std::size_t>(t)] = true;
  };
  Painted painted;
  for (std::size_t i = 0; i < events.size(); ++i) {
    const auto& e = events[i];
    const bool last = i + 1 == events.size();
    const bool gap = !last && (events[i + 1].first_of_session || events[i + 1].start - e.start > 300);
    const auto known = std::max(e.end, e.start + 100);
    if (gap) fill(unknown, std::min(known, events[i + 1].start), events[i + 1].start);
    painted.pause = std::max(painted.pause, e.end - e.start);
    if (e.up) continue;
    if (last) {
      fill(upper, e.start, known);
    } else if (gap) {
      fill(upper, e.start, std::min(known, events[i + 1].start));
    } else {
      fill(upper, e.start, events[i + 1].up ? events[i + 1].end : events[i + 1].start);
      if (!events[i + 1].up) fill(lower, e.start, events[i + 1].start);
    }
    // Whoever came with this probe waited for the first success behind it, or for as long as anything is known.
    for (auto k = i; k < events.size(); ++k) {
      const bool ends = k + 1 == events.size() || events[k + 1].first_of_session || events[k + 1].start - events[k].start > 300;
      if (k > i && events[k].up) {
        painted.pause = std::max(painted.pause, events[k].end - e.start);
        break;
      }
      if (!ends) continue;
      auto until = std::max(events[k].end, events[k].start + 100);
      if (k + 1 < events.size()) until = std::min(until, events[k + 1].start);
      painted.pause = std::max(painted.pause, until - e.start);
      break;
    }
  }
  painted.lower = std::ranges::count(lower, true);
  painted.upper = std::ranges::count(upper, true);
  painted.unknown = std::ranges::count(unknown, true);
  return painted;
}

TEST(Meter, AgreesWithAPaintedTimeline) {
  std::mt19937 random(7);
  const auto pick = [&](int below) { return static_cast<int>(random() % static_cast<unsigned>(below)); };
  for (int round = 0; round < 100; ++round) {
    std::vector<Event> events;
    TargetMeter meter(kEvery, kTimeout);
    std::int64_t at = 0;
    bool up = true;
    for (int i = 0; i < 60; ++i) {
      const bool session = pick(30) == 0;
      at += pick(12) == 0 ? 100 * (1 + pick(8)) : 100;
      if (pick(5) == 0) up = !up;
      const auto latency = pick(6) == 0 ? 1 + pick(1'000) : 1 + pick(20);
      events.push_back({at, at + latency, up, session});
      if (session) meter.begin_session(kEvery, kTimeout);
      const auto outcome = up ? (latency > 250 ? ProbeOutcome::slow : ProbeOutcome::ok) : ProbeOutcome::failed;
      meter.add(probe(i + 1, at, latency, outcome), at);
    }
    const auto painted = paint(events);
    const auto f = meter.figures();
    ASSERT_EQ(ms(f.lower), painted.lower) << "round " << round;
    ASSERT_EQ(ms(f.upper), painted.upper) << "round " << round;
    ASSERT_EQ(ms(f.unknown), painted.unknown) << "round " << round;
    ASSERT_EQ(ms(f.longest_pause), painted.pause) << "round " << round;
    ASSERT_LE(f.lower, f.upper);
  }
}

// A service that is truly down from `from` to `to`, probed at once: the bounds hold the truth, to one interval.
TEST(Meter, BoundsHoldTheTruth) {
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    const auto from = static_cast<std::int64_t>(200 + random() % 2'000);
    const auto to = from + static_cast<std::int64_t>(random() % 3'000);
    TargetMeter meter(kEvery, kTimeout);
    for (std::int64_t i = 0; i < 80; ++i) {
      const bool down = i * 100 >= from && i * 100 < to;
      meter.add(probe(i + 1, i * 100, 1, down ? ProbeOutcome::failed : ProbeOutcome::ok), i * 100);
    }
    const auto f = meter.figures();
    EXPECT_LE(ms(f.lower), to - from);
    EXPECT_GE(ms(f.upper) + 100, to - from);
    EXPECT_LE(ms(f.upper - f.lower), 101);
  }
}

// --- whole logs --------------------------------------------------------------------------------------------------

SessionLine session(std::string boot, std::int64_t boot_ms, std::int64_t wall_ms) {
  return {.boot_id = std::move(boot), .boot = milliseconds(boot_ms), .wall_ms = wall_ms,
          .targets = {{"web", false, milliseconds(100), milliseconds(1'000)}, {"192.0.2.10", true, milliseconds(20), milliseconds(200)}}};
}

TEST(Log, LinesComeBackAsTheyWere) {
  const auto line = encode_line(session("b-1", 5, 1'000));
  ASSERT_TRUE(line.ends_with('\n'));
  const auto back = decode_line(std::string_view(line).substr(0, line.size() - 1));
  ASSERT_TRUE(back) << back.error().text();
  const auto& s = std::get<SessionLine>(*back);
  EXPECT_EQ(s.boot_id, "b-1");
  EXPECT_EQ(s.wall_ms, 1'000);
  ASSERT_EQ(s.targets.size(), 2u);
  EXPECT_TRUE(s.targets[1].is_address);

  auto run = probe(7, 1'234, 56, ProbeOutcome::failed);
  run.error = "http 503\n";
  const auto text = encode_line(run);
  const auto again = decode_line(std::string_view(text).substr(0, text.size() - 1));
  ASSERT_TRUE(again) << again.error().text();
  EXPECT_EQ(std::get<RunLine>(*again).error, "http_503_");
  EXPECT_EQ(std::get<RunLine>(*again).first_latency, microseconds(56'000));
}

TEST(Log, AnyFlippedBitIsSeen) {
  auto text = encode_line(probe(7, 1'234, 56, ProbeOutcome::ok));
  text.pop_back();
  ASSERT_TRUE(decode_line(text));
  for (std::size_t i = 0; i < text.size() * 8; ++i) {
    auto flipped = text;
    flipped[i / 8] = static_cast<char>(flipped[i / 8] ^ (1 << (i % 8)));
    EXPECT_FALSE(decode_line(flipped)) << i;
  }
  for (std::size_t i = 0; i < text.size(); ++i) EXPECT_FALSE(decode_line(text.substr(0, i)));
}

TEST(Log, AnotherBootIsPlacedByTheWallClock) {
  Meter meter;
  ASSERT_TRUE(meter.add(session("a", 1'000, 50'000)));
  ASSERT_TRUE(meter.add(probe(1, 1'000, 2, ProbeOutcome::ok)));
  ASSERT_TRUE(meter.add(probe(2, 1'100, 2, ProbeOutcome::failed)));
  ASSERT_TRUE(meter.add(session("b", 10, 60'100)));  // ten seconds later by the wall, an early boot clock
  ASSERT_TRUE(meter.add(probe(3, 10, 2, ProbeOutcome::ok)));
  const auto f = meter.target("web")->figures();
  EXPECT_EQ(ms(f.unknown), 9'900);
  EXPECT_EQ(ms(f.upper), 100);
  EXPECT_EQ(meter.last_seq("web"), 3);
  EXPECT_EQ(meter.last_seq("nothing"), 0);
}

TEST(Log, TheSameBootIsPlacedByItsClock) {
  Meter meter;
  ASSERT_TRUE(meter.add(session("a", 1'000, 50'000)));
  ASSERT_TRUE(meter.add(probe(1, 1'000, 2, ProbeOutcome::ok)));
  ASSERT_TRUE(meter.add(session("a", 3'000, 10)));  // somebody set the wall clock
  ASSERT_TRUE(meter.add(probe(2, 3'000, 2, ProbeOutcome::ok)));
  EXPECT_EQ(ms(meter.target("web")->figures().unknown), 1'900);
}

TEST(Log, AWallClockThatWentBackMakesNoTimeUp) {
  Meter meter;
  ASSERT_TRUE(meter.add(session("a", 1'000, 50'000)));
  ASSERT_TRUE(meter.add(probe(1, 1'000, 2, ProbeOutcome::ok)));
  ASSERT_TRUE(meter.add(session("b", 10, 1)));
  ASSERT_TRUE(meter.add(probe(2, 10, 2, ProbeOutcome::ok)));
  EXPECT_EQ(ms(meter.target("web")->figures().unknown), 0);
}

TEST(Log, WhatCannotFollowIsCorrupt) {
  Meter meter;
  EXPECT_EQ(meter.add(probe(1, 0, 1, ProbeOutcome::ok)).error().kind, ErrorKind::corrupt);
  ASSERT_TRUE(meter.add(session("a", 0, 0)));
  ASSERT_TRUE(meter.add(probe(5, 0, 1, ProbeOutcome::ok)));
  EXPECT_EQ(meter.add(probe(5, 100, 1, ProbeOutcome::ok)).error().kind, ErrorKind::corrupt);
  auto other = probe(6, 100, 1, ProbeOutcome::ok);
  other.target = 2;
  EXPECT_EQ(meter.add(other).error().kind, ErrorKind::corrupt);
}

TEST(Log, FiguresAsJson) {
  Meter meter;
  ASSERT_TRUE(meter.add(session("a", 0, 1'000)));
  ASSERT_TRUE(meter.add(probe(1, 0, 2, ProbeOutcome::ok)));
  ASSERT_TRUE(meter.add(probe(2, 100, 2, ProbeOutcome::failed)));
  ASSERT_TRUE(meter.add(probe(3, 200, 2, ProbeOutcome::ok)));
  const auto json = meter.to_json();
  ASSERT_EQ(json["services"].size(), 1u);
  const auto& web = json["services"][0];
  EXPECT_EQ(web["name"], "web");
  EXPECT_EQ(web["requests"], 3);
  EXPECT_EQ(web["failed"], 1);
  EXPECT_EQ(web["downtime_ms"], (Json{{"lower", 0}, {"upper", 102}}));
  EXPECT_EQ(web["longest_pause_ms"], 102);
  EXPECT_EQ(web["intervals"][0]["first_probe"], 2);
  EXPECT_EQ(web["intervals"][0]["wall_ms"], 1'100);
  EXPECT_EQ(json["addresses"][0]["address"], "192.0.2.10");
  EXPECT_EQ(json["addresses"][0]["blackout_ms"], (Json{{"lower", 0}, {"upper", 0}}));
  EXPECT_EQ(json["last_wall_ms"], 1'200);
}

}  // namespace
}  // namespace midstream
