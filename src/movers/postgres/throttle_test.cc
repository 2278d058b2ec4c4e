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

TEST(Throttle, WhatBuffersHeldIsPaidForByItsBytes) {
  Throttle throttle(kLimit);
  EXPECT_EQ(throttle.rest_after(Span(0), 1e6, 2, 1e6), Span(0)) << "nobody has to rest";
  throttle.commit_took(kLimit * 2);
  EXPECT_EQ(throttle.rest_after(Span(0), 1e6, 1, 1e7), Span(200'000)) << "half of 10 MB a second";
  EXPECT_EQ(throttle.rest_after(Span(50'000), 1e6, 2, 1e7), Span(350'000)) << "a quarter each, and it has taken its time";
  EXPECT_EQ(throttle.rest_after(Span(900'000), 1e6, 1, 1e7), Span(900'000)) << "slower than its speed says: by time";
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
