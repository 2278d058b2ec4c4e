#include "movers/traffic/config_file.h"

#include <gtest/gtest.h>

namespace midstream::haproxy {
namespace {

constexpr std::string_view kFile =
    "global\n"
    "    log stdout format raw local0\n"
    "defaults\n"
    "\tbalance roundrobin\n"
    "frontend web\n"
    "    default_backend web\n"
    "backend other\n"
    "    server old-1 10.0.0.1:80 check weight 7\n"
    "\n"
    "backend   web   # the shop\r\n"
    "    # server old-1 10.0.0.1:80 weight 3\n"
    "\tserver\told-1  \"10.0.0.1:80\" weight 100   check # weight 9\n"
    "    server old-2 10.0.0.2:80 check cookie weight\n"
    "    server new-1 10.0.1.1:80 weight 5 check weight 0\\\n"
    "    server new-2 10.0.1.2:80 check weight \"12\"   \n"
    "listen last\n"
    "    server x 10.0.0.9:80 weight 1";

TEST(ConfigFile, ReadsTheWeightThatCounts) {
  const auto written = written_weights(kFile, "web", {"old-1", "old-2", "new-2"});
  ASSERT_TRUE(written) << written.error().text();
  EXPECT_EQ(written->at("old-1"), "100");
  EXPECT_EQ(written->at("old-2"), std::nullopt);
  EXPECT_EQ(written->at("new-2"), "12");
  EXPECT_EQ(written_weights(kFile, "last", {"x"})->at("x"), "1");
}

TEST(ConfigFile, ChangesNothingButTheNumbers) {
  const auto out = rewrite_weights(kFile, "web", {{"old-1", "19"}, {"old-2", "19"}, {"new-2", "1"}});
  ASSERT_TRUE(out) << out.error().text();
  std::string wanted(kFile);
  auto put = [&](std::string_view from, std::string_view to) {
    const auto at = wanted.find(from);
    ASSERT_NE(at, std::string::npos) << from;
    wanted.replace(at, from.size(), to);
  };
  put("weight 100   check # weight 9", "weight 19   check # weight 9");
  put("cookie weight\n", "cookie weight weight 19\n");
  put("weight \"12\"   \n", "weight 1   \n");
  EXPECT_EQ(*out, wanted);
}

TEST(ConfigFile, AnAddedWeightGoesWithoutATrace) {
  const auto added = rewrite_weights(kFile, "web", {{"old-2", "19"}});
  ASSERT_TRUE(added);
  EXPECT_NE(*added, kFile);
  const auto again = rewrite_weights(*added, "web", {{"old-2", "25"}});
  ASSERT_TRUE(again);
  EXPECT_EQ(written_weights(*again, "web", {"old-2"})->at("old-2"), "25");
  const auto back = rewrite_weights(*again, "web", {{"old-2", std::nullopt}});
  ASSERT_TRUE(back);
  EXPECT_EQ(*back, kFile);
}

TEST(ConfigFile, WritingWhatStandsThereChangesNothing) {
  EXPECT_EQ(rewrite_weights(kFile, "last", {{"x", "1"}}).value(), kFile);
}

TEST(ConfigFile, RefusesWhatIsNotThere) {
  EXPECT_FALSE(written_weights(kFile, "nope", {"old-1"}));
  EXPECT_FALSE(written_weights(kFile, "web", {"old-9"}));
  EXPECT_FALSE(written_weights("", "web", {}));
  EXPECT_FALSE(rewrite_weights(kFile, "web", {{"old-9", "1"}}));
}

TEST(ConfigFile, BalanceIsLookedUpThroughDefaults) {
  constexpr std::string_view file =
      "defaults a\n balance source\n hash-type consistent\ndefaults b\n balance static-rr\n default-server "
      "check weight 20\n"
      "backend one from a\n stick-table type ip size 1\n stick on src\nbackend two\n cookie SRV insert\n"
      "backend three\n balance uri\nbackend four from a\n balance first\n";
  EXPECT_TRUE(is_dynamic(*balance_settings(file, "one")));
  EXPECT_EQ(balance_settings(file, "one")->sticky, std::vector<std::string>{"stick on"});
  EXPECT_FALSE(is_dynamic(*balance_settings(file, "two")));
  EXPECT_EQ(balance_settings(file, "two")->default_weight, "20");
  EXPECT_EQ(balance_settings(file, "two")->sticky, std::vector<std::string>{"cookie SRV"});
  EXPECT_FALSE(is_dynamic(*balance_settings(file, "three")));
  EXPECT_FALSE(is_dynamic(*balance_settings(file, "four")));
}

}  // namespace
}  // namespace midstream::haproxy
