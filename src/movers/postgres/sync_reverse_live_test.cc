// `reverse: sync` on real servers: what new has acknowledged is on old, whatever becomes of new.
#include <future>

#include "movers/postgres/live_test.h"

namespace midstream::postgres::test {
namespace {

class LiveSyncReverse : public LiveTest {
 protected:
  void SetUp() override {
    LiveTest::SetUp();
    world.reverse = "sync";
  }
  void TearDown() override {
    if (!world.usable()) return;
    world.reverse.clear();
    world.new_server().sql("postgres", "ALTER SYSTEM RESET synchronous_standby_names");
    world.new_server().sql("postgres", "SELECT pg_reload_conf()");
    LiveTest::TearDown();
  }
  std::string order(int key) { return world.new_server().sql("shop", fmt::format("INSERT INTO orders (key, customer, body) VALUES ({}, 1, 'sync') RETURNING key", key)); }
  std::string rows_on_old(int key) { return world.old_server().sql("shop", fmt::format("SELECT count(*) FROM orders WHERE key = {}", key), true); }
  std::string standbys() { return world.new_server().sql("postgres", "SHOW synchronous_standby_names"); }
};

TEST_F(LiveSyncReverse, WhatIsAcknowledgedOnNewIsOnOld) {
  ASSERT_NO_FATAL_FAILURE(follow());
  OK(world.apply("switch"));
  EXPECT_EQ(standbys(), "FIRST 1 (midstream_autumn_1_rev_0)");
  ASSERT_TRUE(world.wait_reached("switch", Millis(20'000))) << world.why;
  for (int key = 1; key <= 100; ++key) {
    ASSERT_EQ(order(key), std::to_string(key));
    ASSERT_EQ(rows_on_old(key), "1") << "acknowledged, and not on old";
  }
  // To and fro: nothing waits for a side that has gone, and new waits again.
  OK(world.undo("switch"));
  EXPECT_EQ(standbys(), "");
  EXPECT_EQ(rows_on_old(100), "1");
  OK(world.apply("switch"));
  ASSERT_EQ(order(1000), "1000");
  EXPECT_EQ(rows_on_old(1000), "1");
  OK(world.apply("finish"));
  EXPECT_EQ(standbys(), "");
}

TEST_F(LiveSyncReverse, WithoutOldNewWaitsAndSaysWhatToDo) {
  ASSERT_NO_FATAL_FAILURE(follow());
  OK(world.apply("switch"));
  ASSERT_TRUE(world.wait_reached("switch", Millis(20'000))) << world.why;
  world.old_server().crash();
  auto waits = std::async(std::launch::async, [&] { return order(7); });
  EXPECT_EQ(waits.wait_for(Millis(3'000)), std::future_status::timeout) << "acknowledged with nobody but new having it";
  const auto outlook = world.observe_undo("switch");
  OK(outlook);
  EXPECT_NE(outlook->dump().find("commits on new wait for old, which does not answer (1 wait now)"), std::string::npos) << outlook->dump();
  ASSERT_TRUE(world.old_server().start());
  EXPECT_EQ(waits.get(), "7");
  EXPECT_EQ(rows_on_old(7), "1");
  // The operator's word, as it is told: new goes on alone, and the stream catches up later.
  world.old_server().crash();
  auto freed = std::async(std::launch::async, [&] { return order(8); });
  EXPECT_EQ(freed.wait_for(Millis(1'000)), std::future_status::timeout);
  world.new_server().sql("postgres", "ALTER SYSTEM RESET synchronous_standby_names");
  world.new_server().sql("postgres", "SELECT pg_reload_conf()");
  EXPECT_EQ(freed.get(), "8");
  ASSERT_TRUE(world.old_server().start());
}

TEST_F(LiveSyncReverse, StandbysOfNewItselfAreLeftAlone) {
  world.new_server().sql("postgres", "ALTER SYSTEM SET synchronous_standby_names = 'theirs'");
  world.new_server().sql("postgres", "SELECT pg_reload_conf()");
  OK(world.apply("source"));
  const auto checked = world.check("target");
  OK(checked);
  EXPECT_NE(checked->dump().find("new waits for theirs"), std::string::npos) << checked->dump();
}

// Wherever the agents die on the way back, nobody is left waiting for the one who has gone.
TEST_F(LiveSyncReverse, WhereverTheAgentsDieOnTheWayBackNobodyIsLeftWaiting) {
  ASSERT_NO_FATAL_FAILURE(follow());
  int key = 2000;
  for (const char* point : {"give.yielded", "take.stream-off", "take.owner", "after.reverse"}) {
    SCOPED_TRACE(point);
    OK(world.apply("switch"));
    ++key;
    ASSERT_EQ(order(key), std::to_string(key));
    world.crash_at(point);
    try {
      const auto done = world.undo("switch");
      ADD_FAILURE() << "nobody died: " << (done ? done->dump() : done.error().text());
    } catch (const Crash&) {
    }
    world.restart_agents(true);
    Result<Json> done = world.undo("switch");
    for (const auto until = Deadline::in(Millis(30'000)); !done && !until.expired(); done = world.undo("switch")) pause_for(Millis(50), {});
    OK(done);
    EXPECT_EQ(standbys(), "");
    EXPECT_EQ(rows_on_old(key), "1");
    ASSERT_TRUE(world.wait_reached("follow", Millis(20'000))) << world.why;
  }
}

}  // namespace
}  // namespace midstream::postgres::test
