// Bulk reads on real servers whose commits become slow, by commit_delay on old: PostgreSQL itself waits that long before it flushes.
#include <algorithm>

#include "base/text.h"
#include "movers/postgres/live_test.h"
#include "sys/clock.h"
#include "sys/file.h"

namespace midstream::postgres::test {
namespace {

constexpr int kRows = 1'000'000;

class LiveManners : public LiveTest {
 protected:
  void SetUp() override {
    LiveTest::SetUp();
    if (IsSkipped()) return;
    world.commit_latency_ms = 20;
    world.set_copy_chunk(1 << 20);
    world.set_verify_rows(5'000);
    world.restart_agents(false);
    on_old("CREATE TABLE big (id bigint PRIMARY KEY, body text NOT NULL)");
    on_old(fmt::format("INSERT INTO big SELECT g, repeat(md5(g::text), 4) FROM generate_series(1, {}) g", kRows));
    on_old("VACUUM ANALYZE big");
  }
  void TearDown() override {
    if (!world.usable()) return;
    world.commit_latency_ms = 0;
    world.set_copy_chunk(PostgresOptions{}.copy_chunk);
    world.set_verify_rows(PostgresOptions{}.verify_rows);
    commits_take(0);
    world.restore_new();
    world.use_road("");
    world.restart_agents(false);
    LiveTest::TearDown();
  }

  void commits_take(int ms) {
    world.old_server().sql("postgres", "ALTER SYSTEM SET commit_siblings = 0");
    world.old_server().sql("postgres", fmt::format("ALTER SYSTEM SET commit_delay = {}", ms * 1000));
    world.old_server().sql("postgres", "SELECT pg_reload_conf()");
  }
  // Looks until what it says of `kind` is so; false where it is over before.
  bool says(const std::string& kind, const std::function<bool(const std::string& why)>& so) {
    for (const auto until = Deadline::in(Millis(60'000)); !until.expired(); pause_for(Millis(20), {})) {
      const auto seen = world.observe(kind);
      if (!seen) ADD_FAILURE() << seen.error().text();
      if (!seen || seen->value("reached", false)) return false;
      told = seen->value("why", "");
      done_bytes = seen->value("copied_bytes", std::int64_t{0});
      if (so(told)) return true;
    }
    return false;
  }
  // The lowest share that it goes down to.
  bool reaches_the_least(const std::string& kind) {
    return says(kind, [](const std::string& why) { return why.contains("limit 20 ms; 3 % of the time is read in"); });
  }
  // Bytes a second from here on, over `span`; the best of it where `best` of 300 ms.
  double rate_of_follow(Millis span, bool best) {
    double most = 0;
    const auto from = done_bytes;
    const auto begun = boot_now();
    auto before = from;
    auto since = begun;
    (void)says("follow", [&](const auto&) {
      const auto now = boot_now();
      if (now - since >= Millis(300)) {
        most = std::max(most, static_cast<double>(done_bytes - before) / std::chrono::duration<double>(now - since).count());
        before = done_bytes;
        since = now;
      }
      return now - begun >= span;
    });
    return best ? most : static_cast<double>(done_bytes - from) / std::chrono::duration<double>(boot_now() - begun).count();
  }

  std::string told;
  std::int64_t done_bytes = 0;
};

TEST_F(LiveManners, ACopyMakesWayForCommitsOnOld) {
  for (const char* kind : {"source", "target"}) OK(world.apply(kind));
  commits_take(60);
  OK(world.apply("follow"));
  ASSERT_TRUE(reaches_the_least("follow")) << told;
  EXPECT_TRUE(told.contains("throttled: commits on old take ")) << told;
  const auto throttled = rate_of_follow(Millis(4'000), false);
  EXPECT_TRUE(told.contains("throttled")) << told;
  EXPECT_GT(throttled, 0) << "it goes on";
  commits_take(0);
  const auto freed = rate_of_follow(Millis(60'000), true);
  ASSERT_TRUE(world.wait_reached("follow", Millis(60'000))) << world.why;
  fmt::print("throttled {:.1f} MB/s, free {:.1f} MB/s\n", throttled / 1e6, freed / 1e6);
  // Whatever the machine: at the least share, 1/32 of the 100 MiB/s that stand until its own speed is known, and room for what was under way.
  EXPECT_LT(throttled, 8e6);
  EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM big", true), std::to_string(kRows));
}

TEST_F(LiveManners, AComparisonMakesWayForCommitsOnOld) {
  for (const char* kind : {"source", "target", "follow"}) OK(world.apply(kind));
  ASSERT_TRUE(world.wait_reached("follow", Millis(60'000))) << world.why;
  const auto begun = boot_now();
  OK(world.apply("verify"));
  ASSERT_TRUE(world.wait_reached("verify", Millis(60'000))) << world.why;
  const auto free = std::chrono::duration_cast<Millis>(boot_now() - begun);
  OK(world.undo("verify"));
  commits_take(60);
  OK(world.apply("verify"));
  const auto until = boot_now() + 3 * free;
  EXPECT_TRUE(says("verify", [&](const auto&) { return boot_now() > until; })) << "it has not made way: without slow commits it took " << free.count() << " ms";
  EXPECT_TRUE(told.contains("throttled: commits on old take")) << told;
  commits_take(0);
  ASSERT_TRUE(world.wait_reached("verify", Millis(60'000))) << world.why;
}

TEST_F(LiveManners, ABaseBackupMakesWayForCommitsOnOld) {
  world.use_road("seeded", 32 << 20);  // it would be over at once
  on_old("CHECKPOINT");
  for (const char* kind : {"source", "target"}) OK(world.apply(kind));
  commits_take(60);
  OK(world.apply("follow"));
  ASSERT_TRUE(reaches_the_least("follow")) << told;
  // Who reads what old sends is seen resting, most of the time; what it reads between is what the sockets held.
  const auto reader = world.new_server().directory() / ".midstream-autumn-1-5502" / "backup.reader";
  int looks = 0, resting = 0;
  const auto before = done_bytes;
  const auto until = boot_now() + Millis(4'000);
  EXPECT_TRUE(says("follow", [&](const auto&) {
    const auto number = read_file(reader);
    const auto status = read_file(fmt::format("/proc/{}/stat", number ? trim(*number) : "0"));
    ++looks;
    if (status && status->find(") T ") != std::string::npos) ++resting;
    return boot_now() > until;
  })) << "it is over in 4 s, though commits are slow";
  EXPECT_TRUE(told.contains("throttled")) << told;
  const auto throttled = static_cast<double>(done_bytes - before) / 4;
  commits_take(0);
  ASSERT_TRUE(world.wait_reached("follow", Millis(60'000))) << world.why;
  fmt::print("throttled {:.1f} MB/s, resting in {} of {} looks\n", throttled / 1e6, resting, looks);
  EXPECT_GT(3 * resting, looks);
  EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM big", true), std::to_string(kRows));
}

// Nobody asked for it: nothing is committed on old for it, and nothing is slowed down.
TEST_F(LiveManners, WithoutALimitNothingIsWatched) {
  world.commit_latency_ms = 0;
  for (const char* kind : {"source", "target"}) OK(world.apply(kind));
  commits_take(60);
  OK(world.apply("follow"));
  EXPECT_FALSE(says("follow", [](const auto& why) { return why.contains("throttled"); })) << told;
  EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM big", true), std::to_string(kRows));
}

}  // namespace
}  // namespace midstream::postgres::test
