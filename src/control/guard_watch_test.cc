#include "control/guard_watch.h"

#include <gtest/gtest.h>

namespace midstream {
namespace {

GuardSpec spec() {
  return {"web", "edge", "traffic", Json::object(), {.errors = 0.01, .ratio = 1.5, .floor_us = 1'000, .min_samples = 100}, "web.guard", "soak"};
}

// Both sides have had so many requests since the watching `watch` began, new with failures; each took `us`.
Json answer(std::int64_t watch, std::uint64_t requests, std::uint64_t failed_on_new, std::int64_t us = 2'000) {
  Histogram latency;
  latency.add(us, requests);
  const auto side = [&](std::uint64_t failed) { return Json{{"requests", requests}, {"failed", failed}, {"latency", latency.to_json()}}; };
  return {{"watch", watch}, {"old", side(0)}, {"new", side(failed_on_new)}};
}

TEST(GuardWatch, CountsWhatCameSinceTheLookBefore) {
  GuardWatch guard(spec(), {});
  EXPECT_FALSE(guard.answered("web.guard", answer(1, 5'000, 500)).has_value()) << "from before the guard began";
  EXPECT_EQ(guard.answered("web.guard", answer(1, 5'060, 500))->verdict, Verdict::inconclusive);
  const auto enough = guard.answered("web.guard", answer(1, 5'120, 500));
  EXPECT_EQ(enough->verdict, Verdict::pass);
  EXPECT_NE(enough->words.find("0 of 120 requests failed on new"), std::string::npos) << enough->words;
}

TEST(GuardWatch, AnotherShareNeedsASampleOfItsOwn) {
  GuardWatch guard(spec(), {});
  (void)guard.answered("web.guard", answer(1, 0, 0));
  EXPECT_EQ(guard.answered("web.guard", answer(1, 200, 0))->verdict, Verdict::pass);
  EXPECT_EQ(guard.answered("web.weights-5-hold", answer(1, 250, 0))->verdict, Verdict::inconclusive);
  EXPECT_EQ(guard.answered("web.weights-5-hold", answer(1, 350, 0))->verdict, Verdict::pass);
}

TEST(GuardWatch, FailsAtTheSecondBadLook) {
  GuardWatch guard(spec(), {});
  (void)guard.answered("web.guard", answer(1, 0, 0));
  EXPECT_NE(guard.answered("web.guard", answer(1, 200, 20))->verdict, Verdict::fail);
  const auto second = guard.answered("web.guard", answer(1, 400, 40));
  EXPECT_EQ(second->verdict, Verdict::fail);
  EXPECT_NE(second->words.find("40 of 400 requests failed on new (10.00%)"), std::string::npos) << second->words;
  EXPECT_FALSE(second->dead);
}

TEST(GuardWatch, ADeadNewIsCalledDead) {
  GuardWatch guard(spec(), {});
  (void)guard.answered("web.guard", answer(1, 0, 0));
  (void)guard.answered("web.guard", answer(1, 200, 200));
  EXPECT_TRUE(guard.answered("web.guard", answer(1, 400, 400))->dead);
}

TEST(GuardWatch, NoAnswerAndAWatchingThatBeganAnewAreLooksInVain) {
  GuardWatch guard(spec(), {});
  (void)guard.answered("web.guard", answer(1, 0, 0));
  EXPECT_EQ(guard.answered("web.guard", answer(2, 9'000, 9'000))->verdict, Verdict::inconclusive);
  EXPECT_EQ(guard.answered("web.guard", retry("no link"))->verdict, Verdict::inconclusive);
  EXPECT_EQ(guard.answered("web.guard", Json{{"watch", 2}})->verdict, Verdict::unknown) << "an answer without figures";
  EXPECT_EQ(guard.answered("web.guard", answer(2, 9'200, 9'000))->verdict, Verdict::pass);
}

TEST(GuardWatch, OldsLatencyBeforeTheShiftIsKeptOnce) {
  GuardWatch guard(spec(), {});
  (void)guard.answered("web.guard", answer(1, 0, 0));
  const auto pass = guard.answered("web.guard", answer(1, 200, 0));
  EXPECT_TRUE(guard.take_baseline("web.weights-5", *pass).is_null());
  const auto baseline = guard.take_baseline("web.guard", *pass);
  EXPECT_EQ(Histogram::from_json(baseline)->count(), 200u);
  EXPECT_TRUE(guard.take_baseline("web.guard", *pass).is_null());
  // With it, a later controller says of both sides that they are slow, where new alone would not be worse.
  GuardWatch later(spec(), baseline);
  (void)later.answered("web.weights-5-hold", answer(7, 0, 0));
  (void)later.answered("web.weights-5-hold", answer(7, 200, 0, 30'000));
  EXPECT_EQ(later.answered("web.weights-5-hold", answer(7, 400, 0, 30'000))->verdict, Verdict::both);
  GuardWatch blank(spec(), {});
  (void)blank.answered("web.weights-5-hold", answer(7, 0, 0));
  (void)blank.answered("web.weights-5-hold", answer(7, 200, 0, 30'000));
  EXPECT_EQ(blank.answered("web.weights-5-hold", answer(7, 400, 0, 30'000))->verdict, Verdict::pass);
}

}  // namespace
}  // namespace midstream
