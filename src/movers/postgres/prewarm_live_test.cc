// New's buffers after a switch, as the server itself shows them (pg_buffercache): what is hot on old is there.

#include "movers/postgres/live_test.h"

namespace midstream::postgres::test {
namespace {

class LivePrewarm : public LiveTest {
 protected:
  void SetUp() override {
    LiveTest::SetUp();
    if (!IsSkipped()) world.new_server().sql("postgres", "CREATE EXTENSION pg_buffercache");
  }
  void TearDown() override {
    if (world.usable()) world.new_server().sql("postgres", "DROP EXTENSION pg_buffercache");
    LiveTest::TearDown();
  }
  std::int64_t pages(const std::string& relation) {
    return std::atoll(world.new_server().sql("shop", fmt::format("SELECT pg_relation_size('public.{}') / 8192", relation), true).c_str());
  }
  std::int64_t buffered(const std::string& relation) {
    const auto file = world.new_server().sql("shop", fmt::format("SELECT pg_relation_filenode('public.{}')", relation), true);
    return std::atoll(world.new_server().sql("postgres", fmt::format("SELECT count(*) FROM pg_buffercache WHERE relfilenode = {} AND relforknumber = 0", file)).c_str());
  }
};

TEST_F(LivePrewarm, WhatIsHotOnOldIsReadOnNewAndNothingIsLeftBehind) {
  for (const char* name : {"hot", "cold"})
    on_old(fmt::format("CREATE TABLE {0} (id int PRIMARY KEY, body text); INSERT INTO {0} SELECT g, md5(g::text) FROM generate_series(1, 100000) g; ANALYZE {0}", name));
  ASSERT_NO_FATAL_FAILURE(follow());
  // What was read to fill and to copy them says nothing about users.
  on_old("SELECT pg_stat_reset()");
  on_old("SET enable_seqscan = off; SET enable_bitmapscan = off; SELECT sum(length(body)) FROM hot WHERE id > 0");
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
  on_old("CREATE SCHEMA tools; CREATE EXTENSION pg_prewarm SCHEMA tools");
  ASSERT_NO_FATAL_FAILURE(follow());
  on_old("SELECT pg_stat_reset()");
  on_old("SET enable_seqscan = off; SELECT count(*) FROM orders WHERE id > 0; SELECT count(*) FROM customers WHERE id > 0");
  ASSERT_TRUE(world.new_server().stop() && world.new_server().start());
  ASSERT_TRUE(world.wait_reached("follow", Millis(60'000))) << world.why;
  OK(world.apply("switch"));
  EXPECT_EQ(buffered("customers_pkey"), pages("customers_pkey"));
  EXPECT_EQ(world.new_server().sql("shop", "SELECT nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'pg_prewarm'", true), "tools");
}

}  // namespace
}  // namespace midstream::postgres::test
