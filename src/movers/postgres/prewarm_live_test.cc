// New's buffers after a switch, as the server itself shows them (pg_buffercache): what is hot on old is there.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "movers/postgres/live_clusters.h"

namespace midstream::postgres::test {
namespace {

#define OK(...)                                           \
  do {                                                    \
    const auto& ok_result_ = (__VA_ARGS__);               \
    ASSERT_TRUE(ok_result_) << ok_result_.error().text(); \
  } while (false)

class LivePrewarm : public testing::Test {
 protected:
  void SetUp() override {
    if (!world.usable()) GTEST_SKIP() << "needs root, PostgreSQL 15 and a network namespace";
    world.make_shop();
    world.forget();
    world.restart_agents(false);
    world.new_server().sql("postgres", "CREATE EXTENSION pg_buffercache");
  }
  void TearDown() override {
    if (!world.usable()) return;
    world.new_server().sql("postgres", "DROP EXTENSION pg_buffercache");
    world.drop_shop();
    world.forget_acts();
  }
  void old_side(const std::string& sql) {
    const auto done = world.old_server().sql("shop", sql);
    EXPECT_FALSE(done.starts_with("ERROR")) << done;
  }
  std::int64_t pages(const std::string& relation) {
    return std::atoll(world.new_server().sql("shop", fmt::format("SELECT pg_relation_size('public.{}') / 8192", relation), true).c_str());
  }
  std::int64_t buffered(const std::string& relation) {
    const auto file = world.new_server().sql("shop", fmt::format("SELECT pg_relation_filenode('public.{}')", relation), true);
    return std::atoll(world.new_server().sql("postgres", fmt::format("SELECT count(*) FROM pg_buffercache WHERE relfilenode = {} AND relforknumber = 0", file)).c_str());
  }

  World& world = World::get();
};

TEST_F(LivePrewarm, WhatIsHotOnOldIsReadOnNewAndNothingIsLeftBehind) {
  for (const char* name : {"hot", "cold"})
    old_side(fmt::format("CREATE TABLE {0} (id int PRIMARY KEY, body text); INSERT INTO {0} SELECT g, md5(g::text) FROM generate_series(1, 100000) g; ANALYZE {0}", name));
  for (const char* kind : {"source", "target", "follow"}) OK(world.apply(kind));
  ASSERT_TRUE(world.wait_reached("follow", Millis(60'000))) << world.why;
  // What was read to fill and to copy them says nothing about users.
  old_side("SELECT pg_stat_reset()");
  old_side("SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT sum(length(body)) FROM hot WHERE id > 0");
  ASSERT_TRUE(world.new_server().stop() && world.new_server().start());
  ASSERT_TRUE(world.wait_reached("follow", Millis(60'000))) << world.why;
  ASSERT_EQ(buffered("hot_pkey"), 0);
  OK(world.apply("switch"));
  EXPECT_EQ(buffered("hot_pkey"), pages("hot_pkey"));
  EXPECT_EQ(buffered("hot"), pages("hot"));
  EXPECT_LT(buffered("cold_pkey"), 10);
  EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM pg_extension WHERE extname = 'pg_prewarm'", true), "0");
}

TEST_F(LivePrewarm, AnExtensionThatIsThereIsUsedAndStays) {
  old_side("CREATE SCHEMA tools; CREATE EXTENSION pg_prewarm SCHEMA tools");
  for (const char* kind : {"source", "target", "follow"}) OK(world.apply(kind));
  ASSERT_TRUE(world.wait_reached("follow", Millis(60'000))) << world.why;
  old_side("SELECT pg_stat_reset()");
  old_side("SET enable_seqscan = off; SELECT count(*) FROM orders WHERE id > 0; SELECT count(*) FROM customers WHERE id > 0");
  ASSERT_TRUE(world.new_server().stop() && world.new_server().start());
  ASSERT_TRUE(world.wait_reached("follow", Millis(60'000))) << world.why;
  OK(world.apply("switch"));
  EXPECT_EQ(buffered("customers_pkey"), pages("customers_pkey"));
  EXPECT_EQ(world.new_server().sql("shop", "SELECT nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'pg_prewarm'", true), "tools");
}

}  // namespace
}  // namespace midstream::postgres::test
