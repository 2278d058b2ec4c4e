// The physical road on real servers: two clusters in a network namespace of this process, and a client that never stops writing.

#include "movers/postgres/live_test.h"
#include "sys/child.h"
#include "sys/file.h"

namespace midstream::postgres::test {
namespace {

namespace fs = std::filesystem;

class Physical : public LiveTest {
 protected:
  void SetUp() override {
    LiveTest::SetUp();
    if (IsSkipped()) return;
    world.use_road("physical");
    hba_ = {world.old_server().read("pg_hba.conf"), world.new_server().read("pg_hba.conf")};
    world.new_server().sql("postgres", "CREATE TABLE IF NOT EXISTS was_there AS SELECT 7 AS n");
    world.new_server().write("of_the_host.pem", "new's own");
  }
  void TearDown() override {
    if (!world.usable()) return;
    world.forget_acts();
    world.cut_agents(false);
    world.restore_new();
    world.restore_old();
    ASSERT_TRUE(world.usable()) << "a server does not come up again";
    LiveTest::TearDown();
    world.use_road("");
  }
  void follow() {
    ASSERT_NO_FATAL_FAILURE(LiveTest::follow());
    ASSERT_TRUE(world.wait_reached("verify", Millis(10'000))) << world.why;
  }
  fs::path new_dir(const std::string& name) { return world.new_server().directory() / name; }
  std::string state(Server& server) {
    return server.sql("shop", "SELECT CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE state END FROM midstream.owner", true);
  }
  bool writable(Server& server) { return server.running() && state(server) == "owner"; }
  // Goes to new, or back, and is cut off where `point` is reached.
  void cut_off_at(const std::string& point, bool to_new) {
    world.crash_at(point);
    try {
      const auto done = to_new ? world.apply("switch") : world.undo("switch");
      EXPECT_TRUE(done) << done.error().text();
      ADD_FAILURE() << point << " was never reached";
    } catch (const Crash&) {
    }
    world.crash_at("");
    EXPECT_FALSE(writable(world.old_server()) && writable(world.new_server())) << point;
    world.restart_agents(false);
  }
  // As the engine does: what says "later" is tried again.
  void go(bool to_new) {
    for (const auto until = Deadline::in(Millis(30'000));; pause_for(Millis(50), {})) {
      const auto done = to_new ? world.apply("switch") : world.undo("switch");
      if (!done && done.error().kind == ErrorKind::retry && !until.expired()) continue;
      OK(done);
      return;
    }
  }
  Server& owner(bool to_new) { return to_new ? world.new_server() : world.old_server(); }
  // The owner has all of it, and the other one follows as its standby.
  void expect_follows(bool to_new) {
    auto& taker = owner(to_new);
    auto& giver = owner(!to_new);
    EXPECT_EQ(state(taker), "owner");
    EXPECT_EQ(state(giver), "standby");
    EXPECT_TRUE(eventually([&] { return taker.sql("postgres", "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "1"; }));
    EXPECT_EQ(giver.sql("postgres", "SELECT count(*) FROM pg_replication_slots"), "0") << "it would keep its log for nobody";
  }
  // Where new cannot reach old, or the other way round: what `server` streams from is elsewhere.
  void cut_stream(Server& server) {
    conninfo_ = server.sql("postgres", "SHOW primary_conninfo");
    server.sql("postgres", "ALTER SYSTEM SET primary_conninfo = 'host=127.0.0.1 port=5999'");
    server.sql("postgres", "SELECT pg_reload_conf()");
    EXPECT_TRUE(eventually([&] { return server.sql("postgres", "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'") == "0"; }));
  }
  void mend_stream(Server& server) {
    server.sql("postgres", fmt::format("ALTER SYSTEM SET primary_conninfo = {}", quote(conninfo_)));
    server.sql("postgres", "SELECT pg_reload_conf()");
  }

  std::vector<std::string> hba_;
  std::string conninfo_;
};

TEST_F(Physical, WholeMoveThereAndBackAndThere) {
  Client client(world);
  ASSERT_TRUE(client.wait_orders(50, Millis(5000)));
  ASSERT_NO_FATAL_FAILURE(follow());
  EXPECT_EQ(state(world.new_server()), "standby");
  EXPECT_EQ(world.new_server().read("of_the_host.pem"), "new's own");
  const auto checked = world.check("target");
  OK(checked);
  for (const auto& one : *checked) EXPECT_TRUE(one.at("ok").get<bool>()) << one.dump();
  for (const bool to_new : {true, false, true}) {
    client.forget_pause();
    auto done = to_new ? world.apply("switch") : world.undo("switch");
    OK(done);
    ASSERT_TRUE(client.wait_orders(50, Millis(20'000)));
    fmt::print("pause {} ms; {}\n", client.longest_pause().count(), done->at("databases").dump());
    EXPECT_FALSE(done->at("fence_proof").empty());
    expect_follows(to_new);
    EXPECT_TRUE(world.wait_reached(to_new ? "switch" : "follow", Millis(10'000))) << world.why;
    EXPECT_EQ(owner(to_new).sql("shop", "SELECT count(*) FROM carts"), "30") << "rows of unlogged tables";
    EXPECT_EQ(owner(to_new).sql("shop", "SELECT encode(lo_get(4711), 'hex')"), "00ff10");
    EXPECT_EQ(owner(to_new).sql("postgres", "SELECT datconnlimit FROM pg_database WHERE datname = 'shop'"), "50");
    if (to_new) {
      EXPECT_FALSE(world.undo("follow")) << "new owns: its cluster must stay";
      const auto back = world.observe_undo("switch");
      OK(back);
      EXPECT_EQ(back->value("why", ""), "");
    }
  }
  client.end();
  EXPECT_EQ(client.audit(world.new_server()), "");
  OK(world.apply("finish"));
  OK(world.apply("finish"));
  EXPECT_FALSE(world.old_server().running());
  EXPECT_TRUE(fs::exists(world.old_server().directory() / "data/standby.signal")) << "whoever starts it gets no second writer";
  EXPECT_EQ(world.new_server().sql("postgres", "SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolname LIKE 'midstream%'"), "");
  EXPECT_EQ(world.new_server().sql("postgres", "SELECT string_agg(slot_name, ' ') FROM pg_replication_slots"), "");
  EXPECT_EQ(world.new_server().sql("postgres", "SHOW primary_conninfo"), "");
  EXPECT_EQ(world.new_server().read("pg_hba.conf"), hba_[1]);
  EXPECT_FALSE(fs::exists(new_dir("data/midstream.seed")));
}

TEST_F(Physical, NeedsNoIdentityAndBringsEverything) {
  world.old_server().sql("shop", "CREATE TABLE bare (n int); INSERT INTO bare VALUES (1), (1); GRANT ALL ON bare TO client");
  ASSERT_NO_FATAL_FAILURE(follow());
  world.old_server().sql("shop", "CREATE TABLE made_later AS SELECT 5 AS n; ALTER TABLE customers ADD added int DEFAULT 3");
  ASSERT_EQ(world.old_server().sql("postgres", "CREATE ROLE later LOGIN PASSWORD 'x'"), "");
  ASSERT_NO_FATAL_FAILURE(go(true));
  EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM bare"), "2");
  EXPECT_EQ(world.new_server().sql("shop", "SELECT n FROM made_later"), "5");
  EXPECT_EQ(world.new_server().sql("shop", "SELECT sum(added) FROM customers"), "1500");
  EXPECT_EQ(world.new_server().sql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'later'"), "1");
  world.new_server().sql("postgres", "DROP ROLE later");
}

constexpr std::array kFollowPoints{"follow.seed", "seed.slot", "seed.backup", "seed.copied", "seed.compared", "seed.adopted", "seed.stopped", "seed.exchanged", "seed.swapped", "seed.followed"};

TEST_F(Physical, CopyIsUndoneFromWhereverItsAgentDied) {
  Client client(world);
  for (const char* point : kFollowPoints) {
    for (const char* kind : {"source", "target"}) OK(world.apply(kind));
    world.crash_at(point);
    try {
      (void)world.apply("follow");
    } catch (const Crash&) {
    }
    ASSERT_TRUE(eventually([&] { return world.crashed(); }, Millis(60'000))) << point;
    world.crash_at("");
    world.restart_agents(false);
    ASSERT_NO_FATAL_FAILURE(undo_all()) << point;
    EXPECT_EQ(world.new_server().sql("postgres", "SELECT n FROM was_there"), "7") << point;
    EXPECT_EQ(world.old_server().sql("postgres", "SELECT string_agg(slot_name, ' ') FROM pg_replication_slots"), "") << point;
    EXPECT_EQ(world.old_server().sql("postgres", "SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolname LIKE 'midstream%'"), "") << point;
    EXPECT_EQ(world.old_server().read("pg_hba.conf"), hba_[0]);
    EXPECT_EQ(world.new_server().read("pg_hba.conf"), hba_[1]);
    ASSERT_TRUE(client.wait_orders(3, Millis(10'000))) << point;
    ASSERT_FALSE(HasFailure()) << point;
  }
  client.end();
  EXPECT_EQ(client.audit(world.old_server()), "");
}

constexpr std::array kSwitchPoints{"switch.prepared", "give.held",    "give.closing", "give.fenced",   "give.barrier",  "give.kept",    "give.yielded", "stop.signal",   "stop.stopped",
                                   "stop.noted",      "switch.given", "take.arrived", "take.access", "take.promoted", "take.owner",   "switch.taken", "rejoin.started"};

TEST_F(Physical, GoesOnWhereverTheSwitchIsCutOff) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(follow());
  bool to_new = true;
  for (const char* point : kSwitchPoints) {
    ASSERT_NO_FATAL_FAILURE(cut_off_at(point, to_new));
    ASSERT_NO_FATAL_FAILURE(go(to_new)) << point;
    ASSERT_TRUE(client.wait_orders(5, Millis(20'000))) << point;
    expect_follows(to_new);
    ASSERT_FALSE(HasFailure()) << point;
    to_new = !to_new;
  }
  client.end();
  EXPECT_EQ(client.audit(owner(!to_new)), "");
}

// The supervisor starts what has stopped, or the host was without power: whatever is up again is no second owner.
TEST_F(Physical, ServersMayComeUpAgainAtEveryPoint) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(follow());
  bool to_new = true;
  for (const char* point : kSwitchPoints) {
    world.crash_at(point);
    try {
      (void)(to_new ? world.apply("switch") : world.undo("switch"));
    } catch (const Crash&) {
    }
    ASSERT_TRUE(world.crashed()) << point;
    for (auto* server : {&world.old_server(), &world.new_server()}) {
      server->crash();
      ASSERT_TRUE(server->start()) << point;
    }
    EXPECT_FALSE(writable(world.old_server()) && writable(world.new_server())) << point;
    world.restart_agents(false);
    ASSERT_NO_FATAL_FAILURE(go(to_new)) << point;
    ASSERT_TRUE(client.wait_orders(5, Millis(20'000))) << point;
    expect_follows(to_new);
    ASSERT_FALSE(HasFailure()) << point;
    to_new = !to_new;
  }
  client.end();
  EXPECT_EQ(client.audit(owner(!to_new)), "");
}

// What the taker lacks when old has stopped, it gets from old as a standby; until then it is not promoted.
TEST_F(Physical, NothingIsPromotedBeforeTheShutdownCheckpointHasArrived) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(follow());
  world.once_at("give.kept", [&] { cut_stream(world.new_server()); });
  const auto done = world.apply("switch");
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().text().find("shutdown checkpoint at"), std::string::npos) << done.error().text();
  EXPECT_EQ(state(world.old_server()), "standby") << "it sends what is missing";
  EXPECT_EQ(state(world.new_server()), "standby");
  const auto seen = world.observe("switch");
  OK(seen);
  EXPECT_TRUE(seen->at("held").get<bool>());
  mend_stream(world.new_server());
  ASSERT_NO_FATAL_FAILURE(go(true));
  ASSERT_TRUE(client.wait_orders(5, Millis(20'000)));
  expect_follows(true);
  client.end();
  EXPECT_EQ(client.audit(world.new_server()), "");
}

// No question and no answer gets through between the agents from that point on. (`rejoin.started` is not among them: nobody asks the
// other after it, and the switch succeeds.)
TEST_F(Physical, LinkBetweenTheAgentsMayBeCutAtEveryPoint) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(follow());
  bool to_new = true;
  for (const char* point : {"give.closing", "give.kept", "give.yielded", "stop.stopped", "stop.noted", "take.promoted", "take.owner"}) {
    world.once_at(point, [&] { world.cut_agents(true); });
    EXPECT_FALSE(to_new ? world.apply("switch") : world.undo("switch")) << point;
    EXPECT_FALSE(writable(world.old_server()) && writable(world.new_server())) << point;
    world.cut_agents(false);
    ASSERT_NO_FATAL_FAILURE(go(to_new)) << point;
    ASSERT_TRUE(client.wait_orders(5, Millis(20'000))) << point;
    expect_follows(to_new);
    ASSERT_FALSE(HasFailure()) << point;
    to_new = !to_new;
  }
  client.end();
  EXPECT_EQ(client.audit(owner(!to_new)), "");
}

TEST_F(Physical, StaysOnOldWhereTheStandbyDoesNotAnswerInTime) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(follow());
  world.once_at("give.closing", [&] { cut_stream(world.new_server()); });
  const auto done = world.apply("switch");
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().text().find("stays on"), std::string::npos) << done.error().text();
  ASSERT_TRUE(client.wait_orders(20, Millis(10'000)));
  EXPECT_EQ(state(world.old_server()), "owner");
  EXPECT_FALSE(fs::exists(world.old_server().directory() / "data/standby.signal"));
  mend_stream(world.new_server());
  ASSERT_TRUE(world.wait_reached("follow", Millis(20'000))) << world.why;
  ASSERT_NO_FATAL_FAILURE(go(true));
  ASSERT_TRUE(client.wait_orders(5, Millis(20'000)));
  client.end();
  EXPECT_EQ(client.audit(world.new_server()), "");
}

TEST_F(Physical, TheLeaseOpensOldAgainAndNeverAfterItHasYielded) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(follow());
  world.restart_agents(false, Millis(4'000));
  ASSERT_NO_FATAL_FAILURE(cut_off_at("give.kept", true));
  EXPECT_EQ(state(world.old_server()), "closing");
  world.restart_agents(true, Millis(4'000));
  ASSERT_TRUE(eventually([&] { return state(world.old_server()) == "owner"; }));
  ASSERT_TRUE(client.wait_orders(5, Millis(10'000)));
  ASSERT_NO_FATAL_FAILURE(cut_off_at("give.yielded", true));
  world.restart_agents(true, Millis(500));
  pause_for(Millis(3'000), {});
  EXPECT_EQ(state(world.old_server()), "yielded");
  EXPECT_EQ(state(world.new_server()), "standby");
  ASSERT_NO_FATAL_FAILURE(go(true));
  ASSERT_TRUE(client.wait_orders(5, Millis(10'000)));
  client.end();
  EXPECT_EQ(client.audit(world.new_server()), "");
}

}  // namespace
}  // namespace midstream::postgres::test
