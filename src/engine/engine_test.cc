#include "engine/engine.h"

#include <gtest/gtest.h>

namespace midstream {
namespace {

Step effect(std::string id, std::string phase, bool irreversible = false) {
  Step step;
  step.id = std::move(id);
  step.phase = std::move(phase);
  step.host = "h";
  step.hosts = {"h"};
  step.mover = "m";
  step.irreversible = irreversible;
  return step;
}

Plan small_plan() {
  Plan plan;
  plan.move = "autumn";
  plan.hosts = {"h"};
  plan.budgets = {{"db", 1000}};
  plan.steps = {effect("a", "prepare"), effect("w", "copy"), effect("s", "switch"), effect("f", "finish", true)};
  plan.steps[1].kind = StepKind::wait;
  plan.steps[2].service = "db";
  plan.steps[2].expected_blackout_ms = 400;
  return plan;
}

class EngineTest : public ::testing::Test {
 protected:
  void SetUp() override { feed_journal({Engine::plan_record(0, small_plan())}); }

  void feed_journal(std::vector<Json> records) {
    for (auto& record : records) {
      ASSERT_TRUE(engine_.fold(record));
      journal_.push_back(record);
    }
  }
  Effects handle(Event event) {
    auto effects = engine_.handle(now_, event);
    for (const auto& record : effects.records) journal_.push_back(record);
    for (const auto& command : effects.commands) {
      if (const auto* called = std::get_if<Call>(&command)) number_ = called->number;
    }
    return effects;
  }
  // The one call in `effects`.
  Call call(const Effects& effects) {
    EXPECT_EQ(effects.commands.size(), 1u);
    return effects.commands.empty() ? Call{} : std::get<Call>(effects.commands[0]);
  }
  void restart() {
    engine_ = Engine();
    for (const auto& record : journal_) ASSERT_TRUE(engine_.fold(record));
  }
  Effects start() {
    handle(Started{});
    handle(Facts{});
    return handle(Adopted{"h", engine_.state().epoch});
  }
  Effects succeed(const std::string& step, Direction direction = Direction::forward) {
    return handle(Outcome{step, direction, engine_.state().epoch, number_, Json::object()});
  }
  Effects see(const std::string& step, bool reached) {
    return handle(Observed{step, engine_.state().epoch, number_, Json{{"reached", reached}, {"why", "not yet"}}});
  }
  // Runs forward until the switch is under way.
  void to_switch() {
    start();
    handle(Asked{Goal::run, ""});
    succeed("a");
    see("w", true);
  }

  Engine engine_;
  std::vector<Json> journal_;
  std::uint64_t number_ = 0;  // of the latest call
  std::int64_t now_ = 1000;
};

TEST_F(EngineTest, NothingIsSentBeforeEveryAgentAdopted) {
  auto effects = handle(Started{});
  ASSERT_EQ(effects.commands.size(), 1u);
  EXPECT_EQ(std::get<Adopt>(effects.commands[0]).epoch, 1u);
  EXPECT_TRUE(handle(Asked{Goal::run, ""}).commands.empty());
  EXPECT_EQ(call(handle(Adopted{"h", engine_.state().epoch})).step, "a");
}

TEST_F(EngineTest, RunsInOrderAndStopsBeforeFinish) {
  start();
  EXPECT_EQ(call(handle(Asked{Goal::run, ""})).verb, Call::Verb::apply);
  EXPECT_EQ(call(succeed("a")).verb, Call::Verb::observe);
  EXPECT_EQ(call(see("w", true)).step, "s");
  EXPECT_TRUE(succeed("s").commands.empty());
  EXPECT_TRUE(engine_.state().complete());
}

TEST_F(EngineTest, IntentIsRecordedInTheSameBreathAsTheCommand) {
  start();
  auto effects = handle(Asked{Goal::run, ""});
  ASSERT_EQ(effects.records.size(), 2u);
  EXPECT_EQ(effects.records[1]["type"], "intent");
  EXPECT_EQ(effects.records[1]["step"], "a");
}

TEST_F(EngineTest, AWaitPollsAtItsPace) {
  start();
  handle(Asked{Goal::run, ""});
  succeed("a");
  auto effects = see("w", false);
  EXPECT_TRUE(effects.commands.empty());
  EXPECT_EQ(effects.wake_at, now_ + 200);
  now_ += 200;
  EXPECT_EQ(call(handle(Tick{})).verb, Call::Verb::observe);
}

TEST_F(EngineTest, AWaitThatIsNeverReachedStopsWithTheReason) {
  start();
  handle(Asked{Goal::run, ""});
  succeed("a");
  now_ += 60'001;
  see("w", false);
  ASSERT_TRUE(engine_.state().stopped);
  EXPECT_NE(engine_.state().stopped->what.find("not yet"), std::string::npos);
}

TEST_F(EngineTest, AnOpenIntentIsObservedNotRepeated) {
  to_switch();
  restart();
  auto resolving = call(start());
  EXPECT_EQ(resolving.verb, Call::Verb::observe);
  EXPECT_EQ(resolving.step, "s");
  EXPECT_EQ(resolving.epoch, 2u);
  see("s", true);
  EXPECT_TRUE(engine_.state().complete());
}

TEST_F(EngineTest, AnEffectThatDidNotHappenIsAppliedAgain) {
  to_switch();
  restart();
  start();
  EXPECT_EQ(call(see("s", false)).verb, Call::Verb::apply);
}

TEST_F(EngineTest, ALateOutcomeOfAnOldEpochCountsForNothing) {
  to_switch();
  handle(LinkLost{"h"});
  handle(Adopted{"h", engine_.state().epoch});
  handle(Outcome{"s", Direction::forward, 1, number_, Json::object()});
  EXPECT_FALSE(engine_.state().complete());
}

TEST_F(EngineTest, TransientFailuresAreTriedAgainThenStop) {
  to_switch();
  for (int attempt = 1; attempt <= 4; ++attempt) {
    auto effects = handle(Outcome{"s", Direction::forward, engine_.state().epoch, number_, retry("lock held")});
    if (attempt == 4) break;
    EXPECT_TRUE(effects.commands.empty());
    now_ = *effects.wake_at;
    // What it was told before the attempt counts no more.
    EXPECT_EQ(call(handle(Facts{})).verb, Call::Verb::apply);
  }
  ASSERT_TRUE(engine_.state().stopped);
  EXPECT_EQ(call(handle(Asked{Goal::run, ""})).verb, Call::Verb::observe);
}

TEST_F(EngineTest, AnUnknownOutcomeIsObserved) {
  to_switch();
  auto effects = handle(Outcome{"s", Direction::forward, 1, number_, failure(ErrorKind::unknown, "link cut")});
  ASSERT_EQ(effects.commands.size(), 1u);  // and first ended, wherever it may still go on
  EXPECT_EQ(std::get<Adopt>(effects.commands[0]).epoch, 2u);
  now_ = *handle(Adopted{"h", 2}).wake_at;
  EXPECT_EQ(call(handle(Tick{})).verb, Call::Verb::observe);
}

TEST_F(EngineTest, RollbackUndoesInReverse) {
  to_switch();
  succeed("s");
  EXPECT_TRUE(handle(Asked{Goal::back, ""}).commands.empty()) << "old is looked at first";
  EXPECT_EQ(call(handle(GoingBack{})).step, "s");
  auto next = call(succeed("s", Direction::back));
  EXPECT_EQ(next.step, "a");
  EXPECT_EQ(next.verb, Call::Verb::undo);
  succeed("a", Direction::back);
  EXPECT_TRUE(engine_.state().complete());
}

TEST_F(EngineTest, RollbackEndsWhatIsUnderWayBeforeItUndoes) {
  to_switch();
  auto effects = handle(Asked{Goal::back, ""});
  ASSERT_EQ(effects.commands.size(), 1u);
  EXPECT_EQ(std::get<Adopt>(effects.commands[0]).epoch, 2u);
  auto undo = call(handle(Adopted{"h", engine_.state().epoch}));
  EXPECT_EQ(undo.verb, Call::Verb::undo);
  EXPECT_EQ(undo.step, "s");
}

TEST_F(EngineTest, FinishOnlyAfterAWholeRunAndThenNoWayBack) {
  start();
  EXPECT_TRUE(engine_.objection(Goal::finish));
  handle(Asked{Goal::run, ""});
  succeed("a");
  see("w", true);
  succeed("s");
  EXPECT_FALSE(engine_.objection(Goal::finish));
  EXPECT_EQ(call(handle(Asked{Goal::finish, ""})).step, "f");
  EXPECT_TRUE(engine_.objection(Goal::back));
  EXPECT_TRUE(engine_.objection(Goal::run));
}

TEST_F(EngineTest, StopLossNamesTheSum) {
  start();
  handle(Facts{{{"db", 700}}, true});
  handle(Asked{Goal::run, ""});
  succeed("a");
  EXPECT_TRUE(see("w", true).commands.empty());
  ASSERT_TRUE(engine_.state().stopped);
  EXPECT_NE(engine_.state().stopped->what.find("700 + 400 > 1000"), std::string::npos);
  EXPECT_EQ(call(handle(Asked{Goal::back, ""})).verb, Call::Verb::undo);  // going back is never refused
}

TEST_F(EngineTest, PauseTakesEffectBetweenSteps) {
  start();
  handle(Asked{Goal::run, ""});
  handle(Paused{true});
  EXPECT_TRUE(succeed("a").commands.empty());
  EXPECT_EQ(call(handle(Paused{false})).step, "w");
}

TEST_F(EngineTest, AbortIsForBeforeTheFirstSwitch) {
  start();
  EXPECT_FALSE(engine_.objection_to_abort());
  handle(Asked{Goal::run, ""});
  succeed("a");
  EXPECT_FALSE(engine_.objection_to_abort());
  see("w", true);
  ASSERT_TRUE(engine_.objection_to_abort()) << "the switch is under way";
  EXPECT_NE(engine_.objection_to_abort()->todo.find("rollback"), std::string::npos);
  succeed("s");
  EXPECT_TRUE(engine_.objection_to_abort());
  handle(Asked{Goal::back, "", true});
  succeed("s", Direction::back);
  EXPECT_FALSE(engine_.objection_to_abort()) << "it was taken back";
}

TEST_F(EngineTest, UntilEndsAtThePhase) {
  start();
  handle(Asked{Goal::run, "copy"});
  succeed("a");
  EXPECT_TRUE(see("w", true).commands.empty());
  EXPECT_TRUE(engine_.state().complete());
  EXPECT_EQ(call(handle(Asked{Goal::run, ""})).step, "s");
}

TEST_F(EngineTest, ForeignJournalsAreRefused) {
  Engine other;
  EXPECT_FALSE(other.fold(Json{{"type", "epoch"}, {"epoch", 1}, {"at", 0}}));
  EXPECT_FALSE(other.fold(Json{{"type", "nonsense"}}));
  EXPECT_FALSE(engine_.fold(Json{{"type", "intent"}, {"step", "zz"}, {"at", 0}}));
}

TEST(PlanTest, SurvivesJsonAndIsHashedByContent) {
  auto plan = small_plan();
  auto again = plan_from_json(to_json(plan));
  ASSERT_TRUE(again);
  EXPECT_EQ(plan_hash(plan), plan_hash(*again));
  again->steps[0].text = "other";
  EXPECT_NE(plan_hash(plan), plan_hash(*again));
}

TEST(PlanTest, BrokenPlansAreRefused) {
  auto plan = small_plan();
  plan.steps[0].irreversible = true;
  EXPECT_FALSE(validate(plan));
  plan = small_plan();
  plan.steps[3].needs = {"zz"};
  EXPECT_FALSE(validate(plan));
  plan = small_plan();
  std::swap(plan.steps[0], plan.steps[2]);
  EXPECT_FALSE(validate(plan));
  plan = small_plan();
  plan.steps[1].id = "a";
  EXPECT_FALSE(validate(plan));
  plan = small_plan();
  plan.steps[0].hosts = {};
  EXPECT_FALSE(validate(plan));
  plan = small_plan();
  plan.steps[0].hosts = {"h", "elsewhere"};
  EXPECT_FALSE(validate(plan));
}

TEST(PlanTest, AStepOfAnOlderJournalMayInvolveAnyHost) {
  auto plan = small_plan();
  plan.hosts = {"h", "other"};
  auto older = to_json(plan);
  for (auto& step : older["steps"]) step.erase("hosts");
  const auto read = plan_from_json(older);
  ASSERT_TRUE(read);
  EXPECT_EQ(read->steps[0].hosts, plan.hosts);
}

}  // namespace
}  // namespace midstream
