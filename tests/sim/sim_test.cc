// The simulation: 1,000 seeds, and crashes at a part of all points, spread over the whole move.
//   sim_test --seed N     plays one seed and prints what happened
//   sim_test --seeds N    as many seeds as wanted, from 1
//   sim_test --whole      crashes at every point, and all small plans: minutes
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "tests/sim/simulation.h"

namespace midstream::test {
namespace {

std::uint64_t seeds = 1000;
bool whole = false;

// Every `stride`th of the points, from `first` on; all of them where the whole is wanted.
template <class Points>
Points some_of(const Points& points, std::size_t stride, std::size_t first = 0) {
  if (whole) return points;
  Points some;
  for (std::size_t i = first % stride; i < points.size(); i += stride) some.push_back(points[i]);
  return some;
}
std::vector<std::int64_t> up_to(std::int64_t last) {
  std::vector<std::int64_t> points;
  for (std::int64_t at = 1; at <= last; ++at) points.push_back(at);
  return points;
}

// The last lines before the end.
std::string tail(const std::vector<std::string>& trace, std::size_t lines = 60) {
  std::string text;
  for (std::size_t i = trace.size() > lines ? trace.size() - lines : 0; i < trace.size(); ++i) text += trace[i] + "\n";
  return text;
}

TEST(Simulation, KeepsEveryPromise) {
  std::int64_t handled = 0;
  std::int64_t deaths = 0;
  for (std::uint64_t seed = 1; seed <= seeds; ++seed) {
    const auto verdict = simulate(seed, Bug::none, false);
    handled += verdict.handled;
    deaths += verdict.deaths;
    if (verdict.broken.empty()) continue;
    FAIL() << verdict.broken << "\n"
           << tail(simulate(seed, Bug::none, true).trace) << "replay: build/dev/test/sim_test --seed " << seed;
  }
  std::printf("%llu seeds, %lld events, %lld deaths of the controller\n", static_cast<unsigned long long>(seeds),
              static_cast<long long>(handled), static_cast<long long>(deaths));
}

TEST(Simulation, TheSameSeedIsTheSameStory) {
  for (std::uint64_t seed = 1; seed <= 25; ++seed) {
    const auto once = simulate(seed, Bug::none, true);
    const auto again = simulate(seed, Bug::none, true);
    EXPECT_EQ(once.fingerprint, again.fingerprint) << seed;
    EXPECT_EQ(once.trace, again.trace) << seed;
    EXPECT_EQ(simulate(seed, Bug::none, false).fingerprint, once.fingerprint) << seed;
  }
}

TEST(Simulation, ItsSeedsDiffer) {
  EXPECT_NE(simulate(1, Bug::none, false).fingerprint, simulate(2, Bug::none, false).fingerprint);
}

class Sweep : public ::testing::TestWithParam<Death> {};

TEST_P(Sweep, DeathAtEveryEventOfAMoveConverges) {
  const auto plan = twelve_steps();
  for (const bool back : {false, true}) {
    const auto quiet = sweep(plan, 0, Death::no, back);
    ASSERT_EQ(quiet.broken, "");
    for (const auto at : some_of(up_to(quiet.handled), 2, static_cast<std::size_t>(GetParam()))) {
      const auto verdict = sweep(plan, at, GetParam(), back);
      ASSERT_EQ(verdict.broken, "") << "at event " << at << (back ? " on the way back\n" : "\n")
                                    << tail(sweep(plan, at, GetParam(), back, true).trace);
      ASSERT_EQ(verdict.deaths, 1);
    }
  }
}

// The plan of the demo: at every write of the journal, and at every command, forward and back.
TEST_P(Sweep, DeathAtEveryWriteAndCommandOfTheDemoConverges) {
  const auto plan = demo_plan();
  ASSERT_GT(plan.steps.size(), 50u) << "no plan in " << MIDSTREAM_DEMO_PLAN;
  const bool sending = GetParam() == Death::amid_sending || GetParam() == Death::after_sending;
  std::size_t points = 0;
  for (const bool back : {false, true}) {
    const auto quiet = sweep(plan, 0, Death::no, back);
    ASSERT_EQ(quiet.broken, "");
    for (const auto at : some_of(sending ? quiet.sends : quiet.stores, 16, static_cast<std::size_t>(GetParam()) * 3)) {
      const auto verdict = sweep(plan, at, GetParam(), back);
      ASSERT_EQ(verdict.broken, "") << "at event " << at << (back ? " on the way back\n" : "\n")
                                    << tail(sweep(plan, at, GetParam(), back, true).trace);
      ASSERT_EQ(verdict.deaths, 1);
      ++points;
    }
  }
  std::printf("%zu steps, %zu points of death\n", plan.steps.size(), points);
}

INSTANTIATE_TEST_SUITE_P(Simulation, Sweep,
                         ::testing::Values(Death::before_store, Death::amid_store, Death::disk_full, Death::after_store,
                                           Death::amid_sending, Death::after_sending));

// The agent is killed with every effect of the demo: before, in the middle of, and after it.
TEST(Simulation, AnAgentThatDiesWithAnyEffectOfTheDemoConverges) {
  const auto plan = demo_plan();
  for (const bool back : {false, true}) {
    const auto quiet = sweep_effects(plan, 0, Truth::none, back);
    ASSERT_EQ(quiet.broken, "");
    ASSERT_GT(quiet.begun, 30);
    for (const auto truth : {Truth::none, Truth::partly, Truth::done}) {
      for (const auto number : some_of(up_to(quiet.begun), 9, static_cast<std::size_t>(truth) * 3)) {
        const auto at = static_cast<int>(number);
        const auto verdict = sweep_effects(plan, at, truth, back);
        ASSERT_EQ(verdict.broken, "") << "with effect " << at << ", " << truth_name(truth) << (back ? ", back\n" : "\n")
                                      << tail(sweep_effects(plan, at, truth, back, true).trace);
      }
    }
  }
}

// The journal is deleted, at every event of the smaller plan and at every one of the demo's that stores something.
TEST(Simulation, AJournalThatIsLostAtAnyEventIsRebuiltFromTheAgents) {
  const auto lose = [](const Plan& plan, std::int64_t at, Death death, bool back) {
    const auto verdict = sweep_adopt(plan, at, death, back);
    EXPECT_EQ(verdict.broken, "") << "at event " << at << (back ? " on the way back\n" : "\n")
                                  << tail(sweep_adopt(plan, at, death, back, true).trace);
    return verdict.broken.empty();
  };
  for (const bool back : {false, true}) {
    const auto quiet = sweep(twelve_steps(), 0, Death::no, back);
    for (const auto death : {Death::before_store, Death::after_store, Death::after_sending}) {
      for (const auto at : some_of(up_to(quiet.handled), 3, static_cast<std::size_t>(death)))
        ASSERT_TRUE(lose(twelve_steps(), at, death, back));
    }
    auto plan = demo_plan();
    plan.leave.clear();  // agents that are gone know nothing any more
    for (const auto at : some_of(sweep(plan, 0, Death::no, back).stores, 16, back ? 8 : 0))
      ASSERT_TRUE(lose(plan, at, Death::after_sending, back));
  }
}

TEST(Simulation, TurningBackAtEveryEventConverges) {
  const auto quiet = sweep(twelve_steps(), 0, Death::no, false);
  for (const auto at : up_to(quiet.handled)) {
    const auto verdict = turn_back(at);
    ASSERT_EQ(verdict.broken, "") << "at event " << at << "\n" << tail(verdict.trace);
  }
}

class Planted : public ::testing::TestWithParam<std::pair<Bug, std::string_view>> {};

TEST_P(Planted, IsFound) {
  const auto [bug, broken] = GetParam();
  for (std::uint64_t seed = 1; seed <= 1000; ++seed) {
    const auto verdict = simulate(seed, bug, false);
    if (verdict.broken.empty()) continue;
    EXPECT_NE(verdict.broken.find(broken), std::string::npos) << verdict.broken;
    std::printf("found with seed %llu: %s\n", static_cast<unsigned long long>(seed),
                verdict.broken.substr(0, verdict.broken.find('\n')).c_str());
    return;
  }
  FAIL() << "1000 seeds do not find it";
}

INSTANTIATE_TEST_SUITE_P(
    Simulation, Planted,
    ::testing::Values(std::pair(Bug::sends_first, "an effect without its intent"), std::pair(Bug::ignores_epochs, "'"),
                      std::pair(Bug::repeats_blindly, "without a look"), std::pair(Bug::takes_unknown_for_over, "'"),
                      std::pair(Bug::takes_any_adoption, "'"), std::pair(Bug::forgets_peers, "'"),
                      std::pair(Bug::forgets_rules, "begins"),
                      std::pair(Bug::forgets_way_back, "whether going back is possible"),
                      std::pair(Bug::forgets_pause, "begins though the move is paused"),
                      std::pair(Bug::ignores_failing, "nothing was recorded"),
                      std::pair(Bug::takes_doubt_for_pass, "its guard has not passed"),
                      std::pair(Bug::needs_no_word, "nobody has given the word"),
                      std::pair(Bug::sees_no_red, "nobody has seen that what it keeps holds"),
                      std::pair(Bug::forgets_the_clock, "do not fit"),
                      std::pair(Bug::takes_half_back, "the guard has taken back"),
                      std::pair(Bug::unguarded_journal, ""), std::pair(Bug::unsynced_journal, "journal")));

int replay(std::uint64_t seed) {
  const auto verdict = simulate(seed, Bug::none, true);
  for (const auto& line : verdict.trace) std::printf("%s\n", line.c_str());
  std::printf("%s\n", verdict.broken.empty() ? "every promise held"
                                             : verdict.broken.substr(0, verdict.broken.find('\n')).c_str());
  return verdict.broken.empty() ? 0 : 1;
}

}  // namespace
}  // namespace midstream::test

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  for (int i = 1; i < argc; ++i) {
    const std::string_view option = argv[i];
    const auto value = i + 1 < argc ? std::strtoull(argv[i + 1], nullptr, 10) : 0;
    if (option == "--seed") return midstream::test::replay(value);
    if (option == "--seeds") midstream::test::seeds = value;
    if (option == "--whole") midstream::test::whole = midstream::test::all_small_plans = true;
  }
  return RUN_ALL_TESTS();
}
