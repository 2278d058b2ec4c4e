// The rules of engagement: each refuses with its reason and the sum.
#include "control/rules.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>

#include "control/check.h"
#include "control/history.h"
#include "control/planner.h"
#include "control/window.h"
#include "sys/file.h"

namespace midstream {
namespace {

constexpr std::int64_t kHour = 3'600'000;
constexpr std::int64_t kMinute = 60'000;
constexpr std::int64_t kMondayNoon = 1'763'985'600'000;  // 2025-11-24T12:00:00Z, 07:00 in Toronto

Window toronto(int from, int to) { return {{1, 2, 3, 4, 5}, from * 60, to * 60, "America/Toronto"}; }

TEST(Window, TheOpeningAtHandOrTheNextOne) {
  const auto later = window_opening(toronto(11, 14), kMondayNoon);
  ASSERT_TRUE(later && *later);
  EXPECT_EQ((*later)->opens_ms, kMondayNoon + 4 * kHour);
  EXPECT_EQ((*later)->closes_ms, kMondayNoon + 7 * kHour);
  const auto now = window_opening(toronto(11, 14), kMondayNoon + 5 * kHour + 30'000);
  ASSERT_TRUE(now && *now);
  EXPECT_EQ((*now)->opens_ms, kMondayNoon + 5 * kHour) << "the minute that was asked about";
  EXPECT_EQ((*now)->closes_ms, kMondayNoon + 7 * kHour);
  const auto friday_evening = kMondayNoon + 4 * 24 * kHour + 10 * kHour;
  const auto monday = window_opening(toronto(11, 14), friday_evening);
  ASSERT_TRUE(monday && *monday);
  EXPECT_EQ((*monday)->opens_ms, kMondayNoon + 7 * 24 * kHour + 4 * kHour);
  EXPECT_FALSE(*window_opening({{}, 0, 60, "UTC"}, kMondayNoon)) << "no day at all";
  EXPECT_EQ(window_opening({{1}, 0, 60, "Mars/Olympus"}, 0).error().kind, ErrorKind::refused);
}

// 2026-03-08: 02:00 becomes 03:00 in Toronto. 2026-11-01: 02:00 becomes 01:00 again.
TEST(Window, TheDaysOnWhichTheClockIsPutForwardOrBack) {
  const Window night{{0}, 60, 4 * 60, "America/Toronto"};  // Sunday 01:00 to 04:00
  const std::int64_t spring = 1'772'928'000'000;           // 2026-03-08T00:00:00Z
  const auto short_night = window_opening(night, spring);
  ASSERT_TRUE(short_night && *short_night);
  EXPECT_EQ((*short_night)->opens_ms, spring + 6 * kHour);
  EXPECT_EQ((*short_night)->closes_ms - (*short_night)->opens_ms, 2 * kHour) << "an hour is missing";
  const std::int64_t autumn = 1'793'491'200'000;  // 2026-11-01T00:00:00Z
  const auto long_night = window_opening(night, autumn);
  ASSERT_TRUE(long_night && *long_night);
  EXPECT_EQ((*long_night)->opens_ms, autumn + 5 * kHour);
  EXPECT_EQ((*long_night)->closes_ms - (*long_night)->opens_ms, 4 * kHour) << "an hour is there twice";
  // The same local times, and another sum: what fits the long night does not fit the short one.
  const Window missing{{0}, 2 * 60, 3 * 60, "America/Toronto"};
  const auto next = window_opening(missing, spring);
  ASSERT_TRUE(next && *next);
  EXPECT_GT((*next)->opens_ms, spring + 6 * 24 * kHour) << "02:00 to 03:00 is not there that day";
}

State felt_for(std::int64_t ms) {
  Plan plan;
  Step step;
  step.id = "web.weights-5-hold";
  step.phase = "shift";
  step.kind = StepKind::hold;
  step.deadline_ms = step.expected_ms = ms - 2'000;
  step.in_window = true;
  plan.steps.push_back(step);
  step.id = "web.drain";
  step.kind = StepKind::effect;
  step.expected_ms = 2'000;
  plan.steps.push_back(step);
  return state_of(plan);
}

TEST(WindowView, SaysTheLastSafeStartWithTheSum) {
  const auto view = view_window(toronto(11, 14), felt_for(42 * kMinute), kMondayNoon + 5 * kHour);
  ASSERT_TRUE(view);
  EXPECT_TRUE(view->open);
  EXPECT_TRUE(view->fits);
  EXPECT_EQ(view->last_safe_start_ms, kMondayNoon + 7 * kHour - 42 * kMinute);
  EXPECT_EQ(view->text,
            "window mon-fri 11:00-14:00 America/Toronto: open until Mon 2025-11-24 14:00:00; what users could feel takes "
            "41 min 58 s (web.weights-5-hold) + 2.0 s (web.drain) = 42 min 00 s; last safe start Mon 2025-11-24 13:18:00");
}

TEST(WindowView, SaysThatItWillNotFitAnyMore) {
  const auto view = view_window(toronto(11, 14), felt_for(42 * kMinute), kMondayNoon + 7 * kHour - 42 * kMinute + 1);
  ASSERT_TRUE(view);
  EXPECT_FALSE(view->fits);
  EXPECT_TRUE(view->fits_at_all) << "the next one is long enough";
  EXPECT_NE(view->text.find("will not fit any more: the last safe start was Mon 2025-11-24 13:18:00"), std::string::npos) << view->text;
}

Plan plan_of(const State& state) { return state.plan; }

TEST(WindowView, CheckRefusesWhatNoWindowHolds) {
  Manifest manifest;
  EXPECT_TRUE(check_window(manifest, plan_of(felt_for(4 * kHour)), kMondayNoon).empty()) << "no window, nothing to fit";
  manifest.rules.window = toronto(11, 14);
  const auto found = check_window(manifest, plan_of(felt_for(3 * kHour + 1'000)), kMondayNoon);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_FALSE(found[0].ok);
  EXPECT_NE(found[0].detail.find("= 3 h 00 min; will not fit: 1.0 s more than a window has"), std::string::npos) << found[0].detail;
  EXPECT_TRUE(check_window(manifest, plan_of(felt_for(3 * kHour)), kMondayNoon)[0].ok);
}

TEST(History, TheWorstOfTheLatestIsExpected) {
  History history;
  EXPECT_FALSE(history.cost("postgres/switch"));
  for (const auto blackout : {9'000, 200, 300, 250, 310, 100}) history.add("postgres/switch", {"m", "db.switch", 1, blackout, blackout + 50});
  history.add("postgres/switch", {"m", "db.switch", 1, std::nullopt, std::nullopt});
  const auto cost = history.cost("postgres/switch");
  ASSERT_TRUE(cost);
  EXPECT_EQ(cost->blackout_ms, 310) << "9,000 was six times ago";
  EXPECT_EQ(cost->took_ms, 360);
  EXPECT_EQ(cost->times, 4) << "the latest was not measured";
  for (int i = 0; i < 100; ++i) history.add("postgres/switch", {"m", "s", i, 1, 1});
  EXPECT_EQ(history.to_json()["steps"]["postgres/switch"].size(), 20u);
}

TEST(History, IsKeptAndABrokenOneIsSaidToBeBroken) {
  char name[] = "/tmp/midstream-test-XXXXXX";
  const std::filesystem::path directory = ::mkdtemp(name);
  const auto file = directory / "history.json";
  EXPECT_TRUE(History::load(file));
  History history;
  history.add("traffic/drain", {"m", "web.drain", 7, 12, std::nullopt});
  ASSERT_TRUE(history.save(file));
  const auto again = History::load(file);
  ASSERT_TRUE(again) << again.error().text();
  EXPECT_EQ(again->to_json(), history.to_json());
  ASSERT_TRUE(write_file_durably(file, "{", 0600));
  EXPECT_EQ(History::load(file).error().kind, ErrorKind::corrupt);
  std::filesystem::remove_all(directory);
}

// ---- tuning

Manifest shifting() {
  Manifest m;
  m.move = "autumn";
  m.old_host = "old";
  m.new_host = "new";
  m.vantage = "out";
  for (const auto* name : {"old", "new", "edge", "out"}) m.hosts.push_back({.name = name, .ssh = name, .data = "10.0.0.1"});
  ServiceSpec web;
  web.name = "web";
  web.probe = ProbeSpec{.kind = "http", .target = "http://shop.example/health"};
  web.traffic = TrafficSpec{.haproxy = "edge", .backend = "web", .old_servers = {"a"}, .new_servers = {"b"}, .steps = {5, 25, 100}};
  ServiceSpec db;
  db.name = "db";
  db.budget = Span(9'000);
  m.services = {web, db};
  m.rules.window = toronto(11, 14);
  m.rules.confirm = {"shift", "addresses"};
  return m;
}

std::string no_text(const std::string& mover, const Json&) { return mover; }

// A move that stands at 5%, held.
struct Move {
  Manifest manifest = shifting();
  Engine engine;
  Move() {
    const auto plan = make_plan(manifest, {}, no_text);
    EXPECT_TRUE(plan) << plan.error().text();
    fold(Engine::plan_record(0, *plan));
    for (const auto& step : plan->steps) {
      const bool here = step.id == "web.weights-5-hold";
      fold({{"type", "intent"}, {"step", step.id}, {"direction", "forward"}, {"attempt", 1}, {"at", 1}});
      if (here) break;
      fold({{"type", "outcome"}, {"step", step.id}, {"direction", "forward"}, {"ok", true}, {"result", Json::object()}, {"at", 2}});
    }
  }
  void fold(const Json& record) {
    const auto folded = engine.fold(record);
    EXPECT_TRUE(folded) << folded.error().text() << record.dump();
  }
  // The error's text, or "" after it is in force.
  std::string tune(const std::string& setting) {
    const auto wanted = tuned_manifest(manifest, setting);
    if (!wanted) return wanted.error().text();
    const auto set = tuning(to_json(manifest), *wanted, engine.state());
    if (!set) return set.error().text();
    fold({{"type", "tuned"}, {"what", setting}, {"by", "root"}, {"set", *set}, {"at", 3}});
    manifest = *wanted;
    return "";
  }
  const Step& step(std::string_view id) const {
    const int index = engine.state().plan.find(id);
    EXPECT_GE(index, 0) << id;
    return engine.state().plan.steps[index];
  }
  std::vector<std::string> weights() const {
    std::vector<std::string> ids;
    for (const auto& step : engine.state().plan.steps) {
      if (step.id.starts_with("web.weights-")) ids.push_back(step.id.substr(12));
    }
    return ids;
  }
};

TEST(Tuning, HoldsLimitsBudgetsObservationAndTheWindow) {
  Move move;
  EXPECT_EQ(move.tune("services.web.traffic.hold=7s"), "");
  EXPECT_EQ(move.step("web.weights-5-hold").deadline_ms, 7'000) << "the one at hand as well";
  EXPECT_EQ(move.step("web.weights-100-hold").deadline_ms, 7'000);
  EXPECT_EQ(move.tune("services.web.guard.errors=2.5%"), "");
  EXPECT_DOUBLE_EQ(move.engine.state().plan.guards[0].limits.errors, 0.025);
  EXPECT_EQ(move.tune("rules.guard.min_samples=80"), "");
  EXPECT_EQ(move.engine.state().plan.guards[0].limits.min_samples, 80u);
  EXPECT_DOUBLE_EQ(move.engine.state().plan.guards[0].limits.errors, 0.025) << "and nothing else of them";
  EXPECT_EQ(move.tune("services.web.budget=90s"), "");
  EXPECT_EQ(move.engine.state().plan.budgets["web"], 90'000);
  EXPECT_EQ(move.tune("rules.downtime=60s"), "");
  EXPECT_EQ(move.engine.state().plan.budgets["web"], 90'000) << "it has one of its own";
  EXPECT_EQ(move.tune("rules.observe=1h"), "");
  EXPECT_EQ(move.step("soak").deadline_ms, 3'600'000);
  EXPECT_EQ(move.tune("rules.window.to=15:30"), "");
  EXPECT_EQ(move.engine.state().window_to_minute, 15 * 60 + 30);
}

TEST(Tuning, StepsStillAheadAreReplaced) {
  using List = std::vector<std::string>;
  Move move;
  EXPECT_EQ(move.weights(), (List{"5", "5-hold", "25", "25-hold", "100", "100-hold"}));
  EXPECT_EQ(move.tune("services.web.traffic.steps=50,75,100"), "");
  EXPECT_EQ(move.weights(), (List{"5", "5-hold", "50", "50-hold", "75", "75-hold", "100", "100-hold"}));
  EXPECT_EQ(move.step("web.weights-50").desired["from"], 5);
  EXPECT_EQ(move.step("web.weights-100").desired["from"], 75);
  EXPECT_EQ(move.step("web.weights-75").guard, "web");
  EXPECT_EQ(move.engine.state().steps[move.engine.state().plan.find("web.weights-5-hold")].progress, Progress::running);
  EXPECT_EQ(move.engine.state().steps.size(), move.engine.state().plan.steps.size());
  EXPECT_EQ(move.tune("services.web.traffic.steps=5,100"), "");
  EXPECT_EQ(move.weights(), (List{"5", "5-hold", "100", "100-hold"}));
}

TEST(Tuning, WhatIsNotInTheListIsRefusedAndNamed) {
  Move move;
  EXPECT_NE(move.tune("services.web.traffic.backend=x").find("services.web.traffic.backend cannot be changed while the move runs; what can: rules.downtime"), std::string::npos);
  EXPECT_NE(move.tune("services.db.traffic.hold=3s").find("cannot be changed"), std::string::npos) << "it does not shift";
  EXPECT_NE(move.tune("services.shop.budget=3s").find("there is no service 'shop'"), std::string::npos);
  EXPECT_NE(move.tune("services.web.traffic.hold").find("is not KEY=VALUE"), std::string::npos);
  for (const auto* bad : {"rules.observe=soon", "services.web.traffic.steps=50,25,100", "services.web.traffic.steps=50", "rules.guard.errors=0%",
                          "rules.guard.min_samples=1", "rules.window.to=10:00", "services.web.budget=0s"}) {
    EXPECT_NE(move.tune(bad).find("is no value for"), std::string::npos) << bad;
  }
  auto other = move.manifest;
  other.hosts[0].ssh = "elsewhere";
  const auto refused = tuning(to_json(move.manifest), other, move.engine.state());
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("'hosts.0.ssh' cannot be changed"), std::string::npos) << refused.error().what;
  other = move.manifest;
  other.rules.window.reset();
  EXPECT_FALSE(tuning(to_json(move.manifest), other, move.engine.state())) << "a window does not vanish";
  EXPECT_TRUE(tuning(to_json(move.manifest), move.manifest, move.engine.state())->empty());
}

TEST(Planner, GatesStandBeforeTheirPhasesAndOnlyWhereThereIsOne) {
  const auto plan = make_plan(shifting(), {}, no_text);
  ASSERT_TRUE(plan);
  const int gate = plan->find("confirm-shift");
  ASSERT_GT(gate, 0);
  EXPECT_EQ(plan->steps[gate + 1].phase, "shift");
  EXPECT_NE(plan->steps[gate - 1].phase, "shift");
  EXPECT_EQ(plan->find("confirm-addresses"), -1) << "nothing moves there";
}

TEST(Planner, WhatWasMeasuredIsExpected) {
  PlanFacts facts;
  auto plan = make_plan(shifting(), facts, no_text);
  EXPECT_EQ(plan->steps[plan->find("web.weights-5")].expected_blackout_ms, 0);
  facts.history.add("traffic/weights", {"rehearsal", "web.weights-5", 1, 120, 900});
  facts.history.add("traffic/weights", {"rehearsal", "web.weights-100", 1, 80, 1'100});
  plan = make_plan(shifting(), facts, no_text);
  const auto& step = plan->steps[plan->find("web.weights-100")];
  EXPECT_EQ(step.expected_blackout_ms, 120);
  EXPECT_EQ(step.expected_from, "measured 2 times");
  EXPECT_EQ(step.expected_ms, 1'100);
}

}  // namespace
}  // namespace midstream
