// What old can say of a new that is gone for good, on real servers: never that something is here that is not.
#include <map>

#include "movers/postgres/live_test.h"

namespace midstream::postgres::test {
namespace {

class LiveOutlook : public LiveTest {
 protected:
  void TearDown() override {
    if (!world.usable()) return;
    world.reverse.clear();
    (void)world.new_server().start();
    world.new_server().sql("postgres", "ALTER SYSTEM RESET synchronous_standby_names");
    world.new_server().sql("postgres", "SELECT pg_reload_conf()");
    LiveTest::TearDown();
  }
  void switched() {
    ASSERT_NO_FATAL_FAILURE(follow());
    OK(world.apply("switch"));
    ASSERT_TRUE(world.wait_reached("switch", Millis(20'000))) << world.why;
  }
  // Acknowledged, and when.
  void order(int key) {
    ASSERT_EQ(world.new_server().sql("shop", fmt::format("INSERT INTO orders (key, customer, body) VALUES ({}, 1, 'outlook') RETURNING key", key)), std::to_string(key));
    acknowledged[key] = wall_now_ms();
  }
  std::vector<int> missing_on_old() {
    std::vector<int> missing;
    for (const auto& [key, at] : acknowledged)
      if (world.old_server().sql("shop", fmt::format("SELECT count(*) FROM orders WHERE key = {}", key), true) != "1") missing.push_back(key);
    return missing;
  }
  // Until old says that everything of before is here: as the controller's look, each second.
  void look_until_safe() {
    const auto from = wall_now_ms();
    for (const auto deadline = Deadline::in(Millis(20'000)); !deadline.expired(); pause_for(Millis(100), {})) {
      OK(world.observe_undo("switch"));
      const auto told = world.ask_old("outlook");
      OK(told);
      if ((*told)["safe_ms"].get<std::int64_t>() >= from) return;
    }
    FAIL() << "old never says that it has everything";
  }

  std::map<int, std::int64_t> acknowledged;
};

TEST_F(LiveOutlook, WhatIsNotHereIsNotSaidToBe) {
  ASSERT_NO_FATAL_FAILURE(switched());
  for (int key = 1; key <= 50; ++key) ASSERT_NO_FATAL_FAILURE(order(key));
  ASSERT_NO_FATAL_FAILURE(look_until_safe());
  auto told = world.ask_old("outlook");
  OK(told);
  EXPECT_EQ((*told)["state"], "yielded");
  EXPECT_EQ((*told)["connected"], true);
  EXPECT_EQ((*told)["sync"], false);
  // Old does not take the stream for a while; new goes on, is heard of, goes on unheard, and is gone.
  const auto stream = world.old_server().sql("shop", "SELECT subname FROM pg_subscription WHERE subenabled", true);
  EXPECT_EQ(world.old_server().sql("shop", fmt::format("SET midstream.allow = 'on'; ALTER SUBSCRIPTION {} DISABLE", stream), true).find("ERROR"), std::string::npos);
  for (const auto deadline = Deadline::in(Millis(10'000)); world.old_server().sql("shop", "SELECT count(*) FROM pg_stat_subscription WHERE pid IS NOT NULL", true) != "0";
       pause_for(Millis(20), {}))
    ASSERT_FALSE(deadline.expired()) << "the stream goes on";
  for (int key = 51; key <= 80; ++key) ASSERT_NO_FATAL_FAILURE(order(key));
  OK(world.observe_undo("switch"));
  const auto heard = wall_now_ms();
  for (int key = 81; key <= 90; ++key) ASSERT_NO_FATAL_FAILURE(order(key));
  world.new_server().crash();
  told = world.ask_old("outlook");
  OK(told);
  const auto missing = missing_on_old();
  EXPECT_EQ(missing.size(), 40u);
  const auto safe = (*told)["safe_ms"].get<std::int64_t>(), last = (*told)["heard_ms"].get<std::int64_t>();
  for (const auto key : missing) EXPECT_GT(acknowledged[key], safe) << "order " << key << " is missing, and was said to be here";
  EXPECT_GE(safe, acknowledged[1]) << "of what is here something is known";
  EXPECT_LE(last, heard);
  EXPECT_GE(last, acknowledged[80] - 1);
  EXPECT_GT((*told)["bytes"].get<std::int64_t>(), 30 * 50) << "thirty rows and their commits";
  EXPECT_EQ((*told)["connected"], false);
}

TEST_F(LiveOutlook, WhereNewsCommitsWaitForOldNothingIsMissing) {
  world.reverse = "sync";
  ASSERT_NO_FATAL_FAILURE(switched());
  for (int key = 1; key <= 20; ++key) ASSERT_NO_FATAL_FAILURE(order(key));
  OK(world.observe_undo("switch"));
  for (int key = 21; key <= 40; ++key) ASSERT_NO_FATAL_FAILURE(order(key));
  world.new_server().crash();
  const auto told = world.ask_old("outlook");
  OK(told);
  EXPECT_EQ((*told)["sync"], true);
  EXPECT_TRUE(missing_on_old().empty());
}

TEST_F(LiveOutlook, BeforeAnythingWasHeardNothingIsKnown) {
  ASSERT_NO_FATAL_FAILURE(switched());
  for (int round = 0; round < 2; ++round) {
    SCOPED_TRACE(round);
    auto told = world.ask_old("outlook");
    OK(told);
    EXPECT_EQ((*told)["safe_ms"], 0) << "what was heard before another hand-over says nothing";
    EXPECT_EQ((*told)["heard_ms"], 0);
    ASSERT_NO_FATAL_FAILURE(look_until_safe());
    told = world.ask_old("outlook");
    OK(told);
    EXPECT_GT((*told)["heard_ms"].get<std::int64_t>(), 0);
    OK(world.undo("switch"));
    OK(world.apply("switch"));
    ASSERT_TRUE(world.wait_reached("switch", Millis(20'000))) << world.why;
  }
}

}  // namespace
}  // namespace midstream::postgres::test
