// The seeded road on real servers: two clusters in a network namespace of this process, a client that never stops writing on
// old, and one that never stops trying to write on new.
#include <signal.h>

#include <set>

#include "movers/postgres/live_test.h"
#include "movers/postgres/server_unit.h"
#include "sys/child.h"
#include "sys/file.h"

namespace midstream::postgres::test {
namespace {

namespace fs = std::filesystem;

// Whoever wants in on new, all along: an ordinary role over TCP, and superusers over the socket and TCP.
class Intruder {
 public:
  explicit Intruder(World& world) : world_(world), thread_([this](const std::stop_token& stop) { run(stop); }) {}
  void end() {
    thread_.request_stop();
    if (thread_.joinable()) thread_.join();
  }
  ~Intruder() { end(); }
  int tries() const { return tries_; }
  int logins() const { return logins_; }  // into the database that moves

 private:
  void run(const std::stop_token& stop) {
    struct Who {
      std::string host, user, password, os_user;
    };
    const std::vector<Who> all{{"127.0.0.1", "client", "client-password", ""},
                               {"127.0.0.1", "root_too", "other-password", ""},
                               {world_.new_server().directory(), "postgres", "", "postgres"}};
    while (!stop.stop_requested()) {
      for (const auto& who : all) {
        Session::Target target;
        target.host = who.host;
        target.port = world_.new_server().port();
        target.database = "shop";
        target.user = who.user;
        target.password = who.password;
        target.os_user = who.os_user;
        target.quiet = false;
        ++tries_;
        if (Session::login(target, Deadline::in(Millis(1000)), {})) ++logins_;
      }
    }
  }
  World& world_;
  std::atomic<int> tries_ = 0, logins_ = 0;
  std::jthread thread_;
};

class Seeded : public LiveTest {
 protected:
  void SetUp() override {
    LiveTest::SetUp();
    if (IsSkipped()) return;
    world.use_road("seeded");
    // What was in new's cluster is there again after undo; the copy never has it.
    world.new_server().sql("postgres", "CREATE TABLE IF NOT EXISTS was_there AS SELECT 7 AS n");
    world.new_server().write("of_the_host.pem", "new's own");
  }
  void TearDown() override {
    if (!world.usable()) return;
    world.forget_acts();
    world.restore_new();
    LiveTest::TearDown();
    world.use_road("");
  }

  fs::path new_dir(const std::string& name) { return world.new_server().directory() / name; }
  fs::path box() { return new_dir(".midstream-autumn-1-5502"); }
  bool swapped() { return fs::exists(new_dir("data/midstream.seed")); }
  std::string why() {
    const auto seen = world.observe("follow");
    return seen ? seen->value("why", "") : seen.error().text();
  }
  Json note() {
    return parse_json(read_file(world.state_of("beta") / "autumn-1.seed").value_or("{}")).value_or(Json::object());
  }
  // The next point at which the agent dies, and another agent.
  void die_at(const std::string& point) {
    world.crash_at(point);
    try {
      (void)world.apply("follow");
    } catch (const Crash&) {
    }
    EXPECT_TRUE(eventually([&] { return world.crashed(); }, Millis(60'000))) << point << ": " << why();
    world.crash_at("");
    world.restart_agents(false);
  }
  void expect_new_as_it_was() {
    EXPECT_EQ(world.new_server().sql("postgres", "SELECT n FROM was_there"), "7");
    EXPECT_EQ(world.new_server().sql("postgres", "SELECT string_agg(datname, ' ' ORDER BY 1) FROM pg_database WHERE NOT datistemplate"), "postgres");
    EXPECT_EQ(world.new_server().sql("postgres", "SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolname NOT LIKE 'pg\\_%'"), "postgres");
    EXPECT_EQ(world.new_server().read("of_the_host.pem"), "new's own");
    for (const auto& entry : fs::directory_iterator(world.new_server().directory())) {
      const auto name = entry.path().filename().native();
      EXPECT_TRUE(name == "data" || name == "log" || name.starts_with(".s.PGSQL")) << name << " is left";
    }
  }
};

TEST_F(Seeded, WholeMoveThereAndBackAndThere) {
  Client client(world);
  ASSERT_TRUE(client.wait_orders(50, Millis(5000)));
  ASSERT_EQ(world.old_server().sql("postgres", "ALTER SYSTEM SET log_autovacuum_min_duration = '17s'"), "");
  Intruder intruder(world);
  ASSERT_NO_FATAL_FAILURE(follow());
  EXPECT_TRUE(swapped());
  EXPECT_TRUE(fs::exists(new_dir("data.before-autumn-1/PG_VERSION")));
  // It is old's cluster with new's configuration.
  EXPECT_EQ(world.new_server().sql("postgres", "SELECT (SELECT system_identifier FROM pg_control_system())"),
            world.old_server().sql("postgres", "SELECT (SELECT system_identifier FROM pg_control_system())"));
  EXPECT_EQ(world.new_server().sql("shop", "SELECT 'orders'::regclass::oid", true), world.old_server().sql("shop", "SELECT 'orders'::regclass::oid"));
  EXPECT_EQ(world.new_server().read("of_the_host.pem"), "new's own");
  EXPECT_EQ(world.new_server().sql("postgres", "SHOW log_autovacuum_min_duration"), "10min");
  EXPECT_EQ(world.new_server().sql("postgres", "SELECT to_regclass('was_there')"), "");
  world.old_server().sql("postgres", "ALTER SYSTEM RESET ALL");
  OK(world.apply("follow"));
  OK(world.apply("target"));
  ASSERT_TRUE(world.wait_reached("target", Millis(5'000))) << world.why;
  ASSERT_NO_FATAL_FAILURE(verify());
  const auto checked = world.check("target");
  OK(checked);
  for (const auto& one : *checked) EXPECT_TRUE(one.at("ok").get<bool>()) << one.dump();
  intruder.end();
  EXPECT_GT(intruder.tries(), 100);
  EXPECT_EQ(intruder.logins(), 0);

  OK(world.apply("switch"));
  ASSERT_TRUE(client.wait_orders(50, Millis(10'000)));
  ASSERT_TRUE(world.wait_reached("switch", Millis(10'000))) << world.why;
  ASSERT_NO_FATAL_FAILURE(verify());
  EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM carts"), "30");
  EXPECT_EQ(world.new_server().sql("shop", "SELECT encode(lo_get(4711), 'hex')"), "00ff10");
  EXPECT_EQ(world.new_server().sql("shop", "SELECT nextval('tickets')"), "105");
  EXPECT_EQ(world.new_server().sql("postgres", "SELECT datconnlimit FROM pg_database WHERE datname = 'shop'"), "50");
  EXPECT_FALSE(world.undo("follow")) << "new owns: its cluster must stay";
  EXPECT_FALSE(world.undo("target"));
  OK(world.undo("switch"));
  ASSERT_TRUE(client.wait_orders(50, Millis(10'000)));
  ASSERT_TRUE(world.wait_reached("follow", Millis(10'000))) << world.why;
  ASSERT_NO_FATAL_FAILURE(verify());
  OK(world.apply("switch"));
  ASSERT_TRUE(client.wait_orders(50, Millis(10'000)));
  ASSERT_NO_FATAL_FAILURE(verify());
  client.end();
  EXPECT_EQ(client.audit(world.new_server()), "");
  EXPECT_EQ(side_changes(world), 3);
  OK(world.apply("finish"));
  OK(world.apply("finish"));
  expect_nothing_of_ours();
  EXPECT_FALSE(swapped());
  EXPECT_FALSE(fs::exists(box()));
  EXPECT_TRUE(fs::exists(new_dir("data.before-autumn-1/PG_VERSION"))) << "we did not make it: it stays";
}

constexpr std::array kPoints{"follow.seed",  "seed.slot",    "seed.backup",  "seed.copied",    "seed.slots",      "seed.prepared",
                             "seed.pointed", "seed.started", "seed.recovered", "seed.roles",   "seed.fenced",     "seed.ended",
                             "seed.adopted", "seed.stopped", "seed.exchanged", "seed.swapped", "seed.subscribed", "seed.followed"};

TEST_F(Seeded, GoesOnWhereverItsAgentDies) {
  Client client(world);
  Intruder intruder(world);
  for (const char* kind : {"source", "target"}) OK(world.apply(kind));
  std::set<std::string> backups;
  for (const char* point : kPoints) {
    ASSERT_NO_FATAL_FAILURE(die_at(point));
    if (fs::exists(box() / "backup.pid")) backups.insert(read_file(box() / "backup.pid").value_or("?"));
    ASSERT_TRUE(client.wait_orders(3, Millis(10'000)));
  }
  OK(world.apply("follow"));
  ASSERT_TRUE(world.wait_reached("follow", Millis(60'000))) << world.why;
  EXPECT_EQ(backups.size(), 1u) << "a base backup was made twice";
  intruder.end();
  EXPECT_EQ(intruder.logins(), 0);
  ASSERT_NO_FATAL_FAILURE(verify());
  OK(world.apply("switch"));
  ASSERT_TRUE(client.wait_orders(20, Millis(10'000)));
  client.end();
  EXPECT_EQ(client.audit(world.new_server()), "");
  EXPECT_EQ(side_changes(world), 1);
}

TEST_F(Seeded, IsUndoneFromWhereverItsAgentDied) {
  Client client(world);
  for (const char* point : kPoints) {
    for (const char* kind : {"source", "target"}) OK(world.apply(kind));
    ASSERT_NO_FATAL_FAILURE(die_at(point));
    // And the undo's agent dies as well, and another goes on.
    for (const char* later : {"undo.seed.noted", "undo.seed.stopped", "undo.seed.exchanged", "undo.seed.started", "undo.seed.removed"}) {
      world.crash_at(later);
      try {
        (void)world.undo("follow");
      } catch (const Crash&) {
        world.restart_agents(false);
      }
      world.crash_at("");
    }
    ASSERT_NO_FATAL_FAILURE(undo_all()) << point;
    expect_new_as_it_was();
    expect_nothing_of_ours();
    ASSERT_TRUE(client.wait_orders(3, Millis(10'000))) << point;
    ASSERT_FALSE(HasFailure()) << point;
  }
  client.end();
  EXPECT_EQ(client.audit(world.old_server()), "");
}

// Enough for a base backup that can be stopped in the middle.
class SeededSlowly : public Seeded {
 protected:
  void SetUp() override {
    Seeded::SetUp();
    if (IsSkipped()) return;
    ASSERT_EQ(world.old_server().sql("shop", "CREATE TABLE big (id int PRIMARY KEY, body text); INSERT INTO big SELECT g, repeat(md5(g::text), 8) FROM "
                                             "generate_series(1, 120000) g; GRANT ALL ON big TO client"),
              "");
    // A base backup with a limit waits for a checkpoint that is spread out: over a tenth of this.
    ASSERT_EQ(world.old_server().sql("postgres", "ALTER SYSTEM SET checkpoint_timeout = '30s'"), "");
    ASSERT_EQ(world.old_server().sql("postgres", "ALTER SYSTEM SET checkpoint_completion_target = 0.1"), "");
    ASSERT_EQ(world.old_server().sql("postgres", "SELECT pg_reload_conf(); CHECKPOINT"), "");
    world.use_road("seeded", 12 << 20);
  }
  void TearDown() override {
    for (const char* name : {"checkpoint_timeout", "checkpoint_completion_target"})
      world.old_server().sql("postgres", fmt::format("ALTER SYSTEM RESET {}", name));
    Seeded::TearDown();
  }
  void begin_and_wait_for_some() {
    for (const char* kind : {"source", "target", "follow"}) OK(world.apply(kind));
    ASSERT_TRUE(eventually([&] { return percent() >= 25; }, Millis(60'000))) << why();
    ASSERT_LT(percent(), 90) << "it was over before it could be stopped: nothing is tested";
  }
  int percent() {
    const auto seen = world.observe("follow").value_or(Json::object());
    const auto total = seen.value("total_bytes", std::int64_t{0});
    return total > 0 ? static_cast<int>(seen.value("copied_bytes", std::int64_t{0}) * 100 / total) : 0;
  }
  std::string backup() { return read_file(box() / "backup.pid").value_or(""); }
  void to_the_end(Client& client) {
    OK(world.apply("follow"));
    ASSERT_TRUE(world.wait_reached("follow", Millis(120'000))) << world.why;
    ASSERT_NO_FATAL_FAILURE(verify());
    OK(world.apply("switch"));
    ASSERT_TRUE(client.wait_orders(5, Millis(10'000)));
    client.end();
    EXPECT_EQ(client.audit(world.new_server()), "");
    EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM big"), "120000");
  }
};

TEST_F(SeededSlowly, BaseBackupOutlivesItsAgentAndTellsHowFarItIs) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(begin_and_wait_for_some());
  EXPECT_NE(why().find("limited to 12.0 MiB/s"), std::string::npos) << why();
  EXPECT_NE(why().find("s left"), std::string::npos) << why();
  const auto same = backup();
  const auto before = percent();
  world.restart_agents(false);
  OK(world.apply("follow"));
  ASSERT_TRUE(eventually([&] { return percent() > 0; })) << why();
  EXPECT_GE(percent(), before);
  EXPECT_EQ(backup(), same);
  EXPECT_EQ(note().value("round", 0), 1);
  // No secret is in its command line.
  const auto listed = run_child({"ps", "-eo", "args"}, "", Deadline::in(Millis(5'000)));
  OK(listed);
  ASSERT_NE(listed->out.find("pg_basebackup"), std::string::npos);
  for (const char* host : {"alpha", "beta"}) {
    const auto record = parse_json(read_file(world.state_of(host) / "autumn-1.json").value_or("{}")).value_or(Json::object());
    for (const char* key : {"own_password", "peer_password", "probe_password"}) EXPECT_EQ(listed->out.find(record.value(key, "?")), std::string::npos) << key;
  }
  ASSERT_NO_FATAL_FAILURE(to_the_end(client));
}

TEST_F(SeededSlowly, BeginsAgainWhereTheBaseBackupDied) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(begin_and_wait_for_some());
  ASSERT_EQ(::kill(-std::atoi(backup().c_str()), SIGKILL), 0);
  ASSERT_TRUE(eventually([&] { return why().find("begun again (round 2): the base backup ended") != std::string::npos; })) << why();
  ASSERT_NO_FATAL_FAILURE(to_the_end(client));
}

TEST_F(SeededSlowly, OutlivesCrashesOfEveryServer) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(begin_and_wait_for_some());
  // New's own server has no part in it yet; old's takes the base backup along.
  world.new_server().crash();
  ASSERT_TRUE(world.new_server().start());
  EXPECT_EQ(note().value("round", 0), 1);
  world.old_server().crash();
  ASSERT_TRUE(world.old_server().start());
  ASSERT_TRUE(eventually([&] { return note().value("round", 0) >= 2; })) << why();
  // The copy's, while it recovers and just when it has become writable; and old's once more.
  std::atomic<int> killed = 0;
  const auto kill_the_copy = [&] {
    // It was started just now: its number may not be written yet.
    killed += eventually([&] {
      const int pid = std::atoi(read_file(box() / "cluster/postmaster.pid").value_or("0").c_str());
      return pid > 0 && ::kill(pid, SIGKILL) == 0;
    }, Millis(5'000));
  };
  world.once_at("seed.started", [&] {
    world.old_server().crash();
    kill_the_copy();
    EXPECT_TRUE(world.old_server().start());
  });
  world.once_at("seed.fenced", kill_the_copy);
  ASSERT_NO_FATAL_FAILURE(to_the_end(client));
  EXPECT_EQ(killed, 2);
}

// The worst fault there is: the copy is seen as the owner that old was when it was copied.
TEST_F(Seeded, ACopyThatIsNotFencedIsShownToNobody) {
  Client client(world);
  Intruder intruder(world);
  const auto private_sql = [&](const std::string& sql) {
    Session::Target target;
    target.host = box();
    target.port = world.new_server().port();
    target.database = "shop";
    target.user = "midstream_autumn-1";
    target.os_user = "postgres";
    auto session = Session::connect(target, Deadline::in(Millis(10'000)), {});
    ASSERT_TRUE(session) << session.error().text();
    const auto done = session->run("BEGIN; SET LOCAL midstream.allow = 'on'; " + sql + "; COMMIT", {}, Deadline::in(Millis(10'000)), {});
    ASSERT_TRUE(done) << done.error().text();
  };
  struct Fault {
    const char* sql;
    const char* words;
  };
  for (const auto& fault : std::vector<Fault>{{"UPDATE midstream.owner SET state = 'owner'", "the title of shop is 'owner'"},
                                              {"INSERT INTO midstream.handover VALUES (1, 1, '[]', '{}')", "arrived 1"},
                                              {"ALTER DATABASE shop CONNECTION LIMIT 50", "takes 50 connections"},
                                              {"ALTER TABLE public.orders DISABLE TRIGGER midstream_deny", "1 tables of shop have no deny trigger"},
                                              {"REVOKE \"midstream_fence_autumn-1_0\" FROM root_too", "superusers are not fenced off"}}) {
    for (const char* kind : {"source", "target"}) OK(world.apply(kind));
    world.once_at("seed.fenced", [&] { private_sql(fault.sql); });
    OK(world.apply("follow"));
    EXPECT_TRUE(eventually([&] { return why().find(fault.words) != std::string::npos; })) << fault.sql << ": " << why();
    EXPECT_FALSE(swapped()) << fault.sql;
    EXPECT_TRUE(eventually([&] { return postmaster_of(box() / "cluster") == 0; })) << "the copy's server still runs";
    ASSERT_NO_FATAL_FAILURE(undo_all());
    expect_new_as_it_was();
  }
  // And where it was seen to be fenced, and is not when it is in its place: its server is stopped.
  for (const char* kind : {"source", "target"}) OK(world.apply(kind));
  world.once_at("seed.swapped", [&] { EXPECT_EQ(world.new_server().sql("shop", "SET midstream.allow = 'on'; UPDATE midstream.owner SET state = 'owner'", true), ""); });
  OK(world.apply("follow"));
  EXPECT_TRUE(eventually([&] { return why().find("the title of shop is 'owner'") != std::string::npos; })) << why();
  EXPECT_TRUE(eventually([&] { return !world.new_server().running(); }));
  intruder.end();
  EXPECT_EQ(intruder.logins(), 0);
  ASSERT_NO_FATAL_FAILURE(undo_all());
  expect_new_as_it_was();
  client.end();
  EXPECT_EQ(client.audit(world.old_server()), "");
}

TEST_F(Seeded, SubscriptionsOfOldDoNotRunTwice) {
  auto& old = world.old_server();
  for (const char* kind : {"source", "target"}) OK(world.apply(kind));
  // Made behind the check's back, while the seed begins.
  world.once_at("seed.slot", [&] {
    EXPECT_EQ(old.sql("postgres", "CREATE TABLE feed (n int PRIMARY KEY); CREATE PUBLICATION feed FOR TABLE feed"), "");
    EXPECT_EQ(old.sql("postgres", "SELECT 1 FROM pg_create_logical_replication_slot('feed', 'pgoutput')"), "1");
    EXPECT_EQ(old.sql("shop", fmt::format("CREATE SUBSCRIPTION feed CONNECTION 'host={} port={} dbname=postgres user=postgres' PUBLICATION feed WITH (connect = "
                                          "false, slot_name = 'feed'); ALTER SUBSCRIPTION feed ENABLE",
                                          old.directory().native(), old.port())),
              "");
  });
  OK(world.apply("follow"));
  EXPECT_TRUE(world.wait_reached("follow", Millis(60'000))) << world.why;
  EXPECT_EQ(world.new_server().sql("postgres", "SELECT subenabled FROM pg_subscription WHERE subname = 'feed'"), "f");
  EXPECT_EQ(old.sql("shop", "SELECT subenabled FROM pg_subscription WHERE subname = 'feed'"), "t");
  old.sql("shop", "ALTER SUBSCRIPTION feed DISABLE; ALTER SUBSCRIPTION feed SET (slot_name = NONE); DROP SUBSCRIPTION feed");
  old.sql("postgres", "DROP PUBLICATION feed; DROP TABLE feed");
}

// Prepared before the slot's point, committed behind it: once on each side, and in nobody's way.
TEST_F(Seeded, APreparedTransactionComesOnce) {
  auto& old = world.old_server();
  Session::Target target;
  target.host = old.directory();
  target.port = old.port();
  target.database = "shop";
  target.user = "postgres";
  target.os_user = "postgres";
  const auto open = [&](int item) {
    auto session = Session::connect(target, Deadline::in(Millis(10'000)), {});
    EXPECT_TRUE(session && session->run(fmt::format("BEGIN; INSERT INTO public.stock VALUES ({}, 0)", item), {}, Deadline::in(Millis(5'000)), {}));
    return std::move(*session);
  };
  const auto waits_for = [&](Session& session) {
    const auto xid = session.run("SELECT pg_current_xact_id()::xid", {}, Deadline::in(Millis(5'000)), {});
    return eventually([&] { return old.sql("postgres", fmt::format("SELECT count(*) FROM pg_locks WHERE NOT granted AND transactionid = '{}'", xid->text(0, 0))) == "1"; });
  };
  const auto end = [](Session& session, const char* how) { EXPECT_TRUE(session.run(how, {}, Deadline::in(Millis(5'000)), {})); };
  for (const char* kind : {"source", "target"}) OK(world.apply(kind));
  std::optional<Session> first;
  world.once_at("seed.copied", [&] { first.emplace(open(101)); });
  OK(world.apply("follow"));
  ASSERT_TRUE(eventually([&] { return first.has_value(); }));
  ASSERT_TRUE(waits_for(*first)) << why();
  auto second = open(102);
  end(*first, "COMMIT");
  ASSERT_TRUE(waits_for(second)) << why();
  auto third = open(103);
  end(third, "PREPARE TRANSACTION 'third'");
  end(second, "COMMIT");
  ASSERT_TRUE(eventually([&] { return note().value("stage", "") != "copied"; })) << why();
  ASSERT_TRUE(world.wait_reached("follow", Millis(60'000))) << world.why;
  EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM stock WHERE item > 100", true), "2");
  EXPECT_EQ(old.sql("shop", "COMMIT PREPARED 'third'"), "");
  EXPECT_TRUE(eventually([&] { return world.new_server().sql("shop", "SELECT count(*) FROM stock WHERE item > 100", true) == "3"; }));
  ASSERT_NO_FATAL_FAILURE(verify());
}

TEST_F(Seeded, IsGivenUpBeforeOldsDiskIsFull) {
  world.set_wal_floor(std::int64_t{1} << 50);  // every disk is too small
  world.restart_agents(true);
  for (const char* kind : {"source", "target"}) OK(world.apply(kind));
  std::atomic<bool> seen = false;
  // With more log than max_wal_size the slot is what burdens the disk.
  world.once_at("seed.copied", [&] {
    for (int i = 0; i < 40 && world.old_server().sql("postgres", "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE '%seed'") != "0"; ++i)
      world.old_server().sql("shop", "SELECT pg_logical_emit_message(false, 'x', repeat('x', 20000000)); SELECT pg_switch_wal(); CHECKPOINT");
    seen = true;
  });
  OK(world.apply("follow"));
  EXPECT_TRUE(eventually([&] { return seen && why().find("the agent on alpha dropped slot midstream_autumn_1_seed") != std::string::npos; }, Millis(60'000))) << why();
  EXPECT_FALSE(swapped());
  world.set_wal_floor(0);
  world.restart_agents(false);
  ASSERT_NO_FATAL_FAILURE(undo_all());
  expect_new_as_it_was();
  expect_nothing_of_ours();
}

TEST_F(Seeded, IsRefusedWhereTheRoadIsClosed) {
  OK(world.apply("source"));
  const auto closed = [&](const std::string& words) {
    const auto findings = world.check("target").value_or(Json::array());
    for (const auto& one : findings)
      if (one.at("what") == "road seeded (taken)") {
        EXPECT_EQ(one.at("ok").get<bool>(), words.empty()) << one.dump();
        EXPECT_NE(one.at("detail").get<std::string>().find(words.empty() ? "open" : words), std::string::npos) << one.dump();
      }
    const auto done = world.apply("target");
    EXPECT_EQ(done.has_value(), words.empty());
    if (!done) {
      EXPECT_NE(done.error().what.find(words), std::string::npos) << done.error().what;
    }
  };
  auto& old = world.old_server();
  auto& fresh = world.new_server();
  old.sql("postgres", "CREATE DATABASE ledger");
  closed("databases on old that are not in the move: ledger");
  old.sql("postgres", "DROP DATABASE ledger");
  fresh.sql("postgres", "CREATE ROLE somebody");
  closed("roles that old has not: somebody");
  fresh.sql("postgres", "DROP ROLE somebody; ");
  fresh.sql("postgres", "CREATE DATABASE other");
  closed("new's cluster is not empty: databases: other");
  fresh.sql("postgres", "DROP DATABASE other");
  fresh.sql("postgres", "SELECT pg_create_physical_replication_slot('standby')");
  closed("new's cluster is not empty: slots: standby");
  fresh.sql("postgres", "SELECT pg_drop_replication_slot('standby')");
  old.sql("shop", "CREATE FUNCTION far() RETURNS int LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler'; UPDATE pg_proc SET probin = '$libdir/nowhere' WHERE proname = 'far'");
  closed("libraries of old's functions that new has not: $libdir/nowhere");
  old.sql("shop", "DROP FUNCTION far");
  closed("");
}

}  // namespace
}  // namespace midstream::postgres::test
