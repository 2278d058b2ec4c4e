#include "control/lost.h"

#include <gtest/gtest.h>

namespace midstream {
namespace {

constexpr std::int64_t kNoon = 1'764'158'400'000;  // 2025-11-26T12:00:00Z

Json outlook(std::int64_t heard, std::int64_t safe, std::int64_t bytes) {
  return {{"state", "yielded"}, {"connected", false}, {"heard_ms", heard}, {"safe_ms", safe}, {"bytes", bytes}, {"sync", false}, {"turn", 1}};
}

TEST(Lost, WhatIsMissingIsSaidWithItsBounds) {
  EXPECT_EQ(lost_text("app", outlook(kNoon + 1'500, kNoon, 4'096)),
            "app: everything that it had acknowledged by 2025-11-26T12:00:00.000Z is on old; it was last heard of at 2025-11-26T12:00:01.500Z, 1.5 s later, and "
            "4096 bytes of its log of that time are missing.\n"
            "  What it acknowledged after that nobody on this side knows: all of it may be missing.\n");
  EXPECT_EQ(lost_text("app", outlook(kNoon, kNoon, 0)).find("app: everything that it had acknowledged by 2025-11-26T12:00:00.000Z is on old; that is when"), 0u);
  EXPECT_NE(lost_text("app", outlook(kNoon, 0, 9)).find("nothing can be said to be on old"), std::string::npos);
  EXPECT_NE(lost_text("app", outlook(0, 0, 0)).find("cannot be said"), std::string::npos);
}

TEST(Lost, CommitsThatWaitedAreNotMissing) {
  auto one = outlook(kNoon, kNoon, 0);
  one["sync"] = true;
  EXPECT_NE(lost_text("app", one).find("nothing is missing but what sessions with synchronous_commit off or local wrote"), std::string::npos);
  EXPECT_EQ(lost_text("app", one).find("all of it may be missing"), std::string::npos);
}

TEST(Lost, WhereNewIsNotGoneThereIsABetterWay) {
  auto one = outlook(kNoon, kNoon, 0);
  one["connected"] = true;
  EXPECT_NE(lost_text("app", one).find("`midstream rollback` goes back and loses nothing"), std::string::npos);
  one["state"] = "owner";
  EXPECT_NE(lost_text("app", one).find("has not given it away"), std::string::npos);
}

}  // namespace
}  // namespace midstream
