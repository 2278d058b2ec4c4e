#include "movers/traffic/split.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace midstream::haproxy {
namespace {

Weights split_of(int percent, const Weights& full) {
  auto weights = split_weights(percent, full);
  EXPECT_TRUE(weights) << weights.error().text();
  return weights.value_or(Weights{});
}

TEST(Split, ExactRatios) {
  const Weights one{{100}, {100}};
  EXPECT_EQ(split_of(1, one), (Weights{{198}, {2}}));
  EXPECT_EQ(split_of(5, one), (Weights{{247}, {13}}));
  EXPECT_EQ(split_of(25, one), (Weights{{255}, {85}}));
  EXPECT_EQ(split_of(50, one), (Weights{{256}, {256}}));
  EXPECT_EQ(split_of(99, one), (Weights{{2}, {198}}));
}

TEST(Split, TheEndsAreExactAndAsFound) {
  const Weights full{{100, 50}, {80}};
  EXPECT_EQ(split_of(0, full), (Weights{{100, 50}, {0}}));
  EXPECT_EQ(split_of(100, full), (Weights{{0, 0}, {80}}));
}

TEST(Split, ManyServersOnEachSide) {
  EXPECT_EQ(split_of(5, {{100, 100}, {100, 100}}), (Weights{{247, 247}, {13, 13}}));
  EXPECT_EQ(split_of(1, {{7, 7, 7}, {7, 7, 7, 7, 7, 7, 7}}), (Weights{{231, 231, 231}, {1, 1, 1, 1, 1, 1, 1}}));
}

TEST(Split, KeepsTheProportionsWithinASide) {
  EXPECT_EQ(split_of(5, {{100, 50}, {100}}), (Weights{{228, 114}, {18}}));
  EXPECT_EQ(split_of(50, {{100, 0}, {100}}), (Weights{{256, 0}, {256}}));
}

TEST(Split, EveryPercentageIsInRangeAndClose) {
  for (const auto& full : {Weights{{1}, {1}}, Weights{{100, 100}, {100}}, Weights{{256, 3, 77}, {10, 11}}}) {
    double last = 0;
    for (int percent = 1; percent < 100; ++percent) {
      const auto weights = split_of(percent, full);
      for (const auto& side : {weights.old_side, weights.new_side}) {
        for (const int weight : side) EXPECT_TRUE(weight >= 1 && weight <= kMaxWeight) << percent;
      }
      EXPECT_NEAR(percent_of(weights), percent, full.old_side.size() > 2 ? 0.5 : 0.2) << percent;
      EXPECT_GT(percent_of(weights), last) << percent;
      last = percent_of(weights);
    }
  }
}

TEST(Split, FullWeightsOfASideThatWasIdle) {
  EXPECT_EQ(full_weights({{100, 40}, {0, 0}}), (Weights{{100, 40}, {100, 100}}));
  EXPECT_EQ(full_weights({{0}, {0}}), (Weights{{1}, {1}}));
  EXPECT_EQ(full_weights({{100, 0}, {5}}), (Weights{{100, 0}, {5}}));
}

TEST(Split, Refusals) {
  EXPECT_FALSE(split_weights(-1, {{1}, {1}}));
  EXPECT_FALSE(split_weights(101, {{1}, {1}}));
  EXPECT_FALSE(split_weights(50, {{}, {1}}));
  EXPECT_EQ(percent_of({{0}, {0}}), -1.0);
}

}  // namespace
}  // namespace midstream::haproxy
