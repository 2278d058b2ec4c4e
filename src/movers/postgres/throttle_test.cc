#include "movers/postgres/throttle.h"

#include <gtest/gtest.h>

namespace midstream::postgres {
namespace {

using Span = Throttle::Span;
constexpr Span kLimit{20'000};

TEST(Throttle, NothingRestsWhileCommitsAreQuick) {
  Throttle throttle(kLimit);
  for (int i = 0; i < 5; ++i) throttle.commit_took(kLimit);
  EXPECT_EQ(throttle.share(), 1.0);
  EXPECT_EQ(throttle.rest_after(Span(10'000)), Span(0));
}

TEST(Throttle, EachSlowCommitHalvesDownToTheLeast) {
  Throttle throttle(kLimit);
  throttle.commit_took(kLimit + Span(1));
  EXPECT_EQ(throttle.share(), 0.5);
  EXPECT_EQ(throttle.rest_after(Span(10'000)), Span(10'000));
  throttle.commit_took(kLimit * 100);
  EXPECT_EQ(throttle.rest_after(Span(10'000)), Span(30'000));
  for (int i = 0; i < 50; ++i) throttle.commit_took(kLimit * 2);
  EXPECT_EQ(throttle.share(), Throttle::kLeast);
}

TEST(Throttle, ItRecoversOnlyWellBelowTheLimit) {
  Throttle throttle(kLimit);
  throttle.commit_took(kLimit * 2);
  throttle.commit_took(kLimit * 9 / 10);
  EXPECT_EQ(throttle.share(), 0.5) << "neither slow nor well below";
  throttle.commit_took(kLimit * 8 / 10);
  EXPECT_EQ(throttle.share(), 0.625);
  for (int i = 0; i < 20; ++i) throttle.commit_took(Span(1'000));
  EXPECT_EQ(throttle.share(), 1.0);
}

}  // namespace
}  // namespace midstream::postgres
