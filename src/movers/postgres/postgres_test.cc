// The mover on real servers: two clusters in a network namespace of this process, a client that never stops.
#include "movers/postgres/postgres.h"

#include <signal.h>

#include "movers/postgres/access.h"
#include "movers/postgres/cluster.h"
#include "movers/postgres/live_test.h"
#include "sys/child.h"
#include "sys/file.h"

namespace midstream::postgres::test {
namespace {

class Live : public LiveTest {
 protected:
  void expect_no_trace_in_shop(Server& server) {
    EXPECT_EQ(server.sql("shop", "SELECT count(*) FROM pg_namespace WHERE nspname = 'midstream'"), "0");
    EXPECT_EQ(server.sql("shop", "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'midstream%'"), "0");
    EXPECT_EQ(server.sql("shop", "SELECT count(*) FROM pg_event_trigger"), "0");
    EXPECT_EQ(server.sql("shop", "SELECT count(*) FROM pg_publication"), "0");
  }
};

void expect_proven(const Json& figures) {
  int at_old = 0, at_new = 0;
  for (const auto& one : figures.at("fence_proof")) {
    EXPECT_TRUE(one.at("refused").get<bool>()) << one.dump();
    (one.at("host") == "alpha" ? at_old : at_new) += 1;
  }
  EXPECT_GE(at_old, 10);
  EXPECT_GE(at_new, 10);
}

void show(const char* what, const Json& figures, const Client& client) {
  auto shop = figures.at("databases").value("shop", Json::object());
  fmt::print(
      "{}: fence {} ms, proof {} ms, barrier {} ms, give {} ms, take {} ms, total {} ms, {} sessions cut, "
      "client's longest "
      "pause {} ms\n",
      what, figures["fence_ms"].dump(), shop["proof_ms"].dump(), figures["barrier_ms"].dump(), shop["give_ms"].dump(),
      shop["took_ms"].dump(), figures["total_ms"].dump(), figures["sessions_cut"].dump(),
      client.longest_pause().count());
}

// Going back is possible while the stream back runs, and no longer when somebody stops it on old.
void expect_way_back_is_watched(World& world) {
  const auto possible = [&](const std::string& kind) {
    const auto seen = world.observe_undo(kind);
    world.why = seen ? seen->value("why", "") : seen.error().text();
    return seen && seen->value("possible", false);
  };
  const auto becomes = [&](bool wanted) {
    for (const auto deadline = Deadline::in(Millis(10'000)); !deadline.expired(); pause_for(Millis(20), {}))
      if (possible("switch") == wanted) return true;
    return false;
  };
  EXPECT_TRUE(becomes(true)) << world.why;
  EXPECT_TRUE(possible("source")) << world.why;
  const auto name = world.old_server().sql("shop", "SELECT subname FROM pg_subscription WHERE subenabled", true);
  const auto alter = [&](const char* what) {  // old is fenced
    EXPECT_EQ(world.old_server().sql("shop", fmt::format("SET midstream.allow = on; ALTER SUBSCRIPTION \"{}\" {}", name, what), true), "");
  };
  alter("DISABLE");
  EXPECT_TRUE(becomes(false));
  EXPECT_NE(world.why.find("the stream of shop back to old is not connected"), std::string::npos) << world.why;
  alter("ENABLE");
  EXPECT_TRUE(becomes(true)) << world.why;
}

TEST_F(Live, WholeMoveThereAndBackAndThere) {
  Client client(world);
  ASSERT_TRUE(client.wait_orders(50, Millis(5000)));
  ASSERT_NO_FATAL_FAILURE(follow());
  ASSERT_NO_FATAL_FAILURE(verify());

  client.forget_pause();
  auto there = world.apply("switch");
  OK(there);
  ASSERT_TRUE(client.wait_orders(50, Millis(10'000)));
  show("switch", *there, client);
  expect_proven(*there);
  ASSERT_TRUE(world.wait_reached("switch", Millis(10'000))) << world.why;
  expect_way_back_is_watched(world);
  ASSERT_NO_FATAL_FAILURE(verify());
  EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM carts"), "30");
  EXPECT_EQ(world.new_server().sql("shop", "SELECT encode(lo_get(4711), 'hex')"), "00ff10");
  EXPECT_EQ(world.new_server().sql("shop", "SELECT nextval('tickets')"), "105");
  EXPECT_EQ(world.new_server().sql("postgres", "SELECT datconnlimit FROM pg_database WHERE datname = 'shop'"), "50");

  client.forget_pause();
  auto back = world.undo("switch");
  OK(back);
  ASSERT_TRUE(client.wait_orders(50, Millis(10'000)));
  show("back", *back, client);
  expect_proven(*back);
  EXPECT_EQ(world.old_server().sql("shop", "SELECT nextval('tickets')"), "110");
  ASSERT_TRUE(world.wait_reached("follow", Millis(10'000))) << world.why;
  ASSERT_NO_FATAL_FAILURE(verify());

  client.forget_pause();
  auto again = world.apply("switch");
  OK(again);
  ASSERT_TRUE(client.wait_orders(50, Millis(10'000)));
  show("again", *again, client);
  ASSERT_NO_FATAL_FAILURE(verify());
  client.end();
  EXPECT_EQ(client.audit(world.new_server()), "");
  EXPECT_EQ(side_changes(world), 3);

  // Every secret of the move, and every role's verifier, is in no log.
  for (auto* server : {&world.old_server(), &world.new_server()}) {
    const auto log = server->log();
    ASSERT_NE(log.find("INSERT INTO public.orders"), std::string::npos) << "statements are logged";
    EXPECT_EQ(log.find("SCRAM-SHA-256$"), std::string::npos);
    for (const char* host : {"alpha", "beta"}) {
      const auto path = server->directory().parent_path() / (std::string("state-") + host) / "autumn-1.json";
      const auto record = parse_json(read_file(path).value_or("{}")).value_or(Json::object());
      for (const char* key : {"own_password", "peer_password", "probe_password"}) {
        ASSERT_TRUE(record.contains(key)) << key;
        EXPECT_EQ(log.find(record[key].get<std::string>()), std::string::npos) << key;
      }
    }
  }
  OK(world.apply("finish"));
  OK(world.apply("finish"));
  expect_nothing_of_ours();
  expect_no_trace_in_shop(world.new_server());
  EXPECT_NE(world.old_server().sql("shop", "SELECT 1").find("not currently accepting connections"), std::string::npos);
  EXPECT_FALSE(world.undo("finish"));
}

TEST_F(Live, UndoneStepByStepNothingIsLeft) {
  Client client(world);
  ASSERT_TRUE(client.wait_orders(20, Millis(5000)));
  ASSERT_NO_FATAL_FAILURE(follow());
  // New is fenced before its first row, for everybody.
  EXPECT_NE(world.new_server().sql("shop", "SELECT 1").find("pg_hba.conf rejects"), std::string::npos);
  for (const char* kind : {"follow", "target", "source"}) {
    OK(world.undo(kind));
    OK(world.undo(kind));
  }
  ASSERT_TRUE(client.wait_orders(20, Millis(5000)));
  client.end();
  EXPECT_EQ(client.audit(world.old_server()), "");
  expect_nothing_of_ours();
  expect_no_trace_in_shop(world.old_server());
  EXPECT_EQ(world.new_server().sql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'shop'"), "0");
  EXPECT_EQ(
      world.new_server().sql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname IN ('client', 'shop_owner')"),
      "0");
}

TEST_F(Live, EveryCrashIsGoneOnFromOrUndone) {
  Client client(world);
  for (const char* point : {"source.recorded", "source.roles", "source.title"})
    EXPECT_TRUE(crashes(point, [&] { (void)world.apply("source"); })) << point;
  OK(world.apply("source"));
  for (const char* point : {"target.roles", "target.recorded", "target.database"})
    EXPECT_TRUE(crashes(point, [&] { (void)world.apply("target"); })) << point;
  OK(world.apply("target"));
  EXPECT_TRUE(crashes("follow.slot", [&] { (void)world.apply("follow"); }));
  ASSERT_NO_FATAL_FAILURE(follow());
  int turns = 0;
  for (const char* point : {"prepare.analyzed", "switch.prepared", "give.closing", "give.fenced", "give.barrier",
                            "give.yielded", "switch.given", "take.arrived", "take.stream-off", "take.slot",
                            "take.owner", "switch.taken", "after.reverse"}) {
    EXPECT_TRUE(crashes(point, [&] { (void)world.apply("switch"); })) << point;
    OK(world.apply("switch"));
    ASSERT_TRUE(world.wait_reached("switch", Millis(10'000))) << point << ": " << world.why;
    ASSERT_TRUE(client.wait_orders(5, Millis(10'000))) << point;
    EXPECT_TRUE(crashes(point, [&] { (void)world.undo("switch"); })) << point;
    OK(world.undo("switch"));
    EXPECT_EQ(world.observe("switch").value_or(Json::object()).value("owner", ""), "old") << point;
    ASSERT_TRUE(client.wait_orders(5, Millis(10'000))) << point;
    turns += 2;
  }
  ASSERT_TRUE(world.wait_reached("follow", Millis(10'000))) << world.why;
  ASSERT_NO_FATAL_FAILURE(verify());
  client.end();
  EXPECT_EQ(client.audit(world.old_server()), "");
  EXPECT_EQ(side_changes(world), turns);
  OK(world.apply("switch"));
  for (const char* point : {"finish.old.removed", "finish.old"})
    EXPECT_TRUE(crashes(point, [&] { (void)world.apply("finish"); })) << point;
  OK(world.apply("finish"));
  expect_nothing_of_ours();
  EXPECT_EQ(client.audit(world.new_server()), "");
}

// A copy in many parts, stopped in the middle.
class LiveCopy : public Live {
 protected:
  void SetUp() override {
    Live::SetUp();
    if (IsSkipped()) return;
    world.set_copy_chunk(1 << 20);
    world.restart_agents(false);
    world.old_server().sql("shop",
                           fmt::format("CREATE TABLE big (id int PRIMARY KEY, body text NOT NULL, tag name[], part "
                                       "tstzrange); INSERT INTO big SELECT g, repeat(md5(g::text), 4), ARRAY['a'::name], "
                                       "tstzrange(now(), NULL) FROM generate_series(1, {}) g; CREATE TABLE kinds (id int PRIMARY KEY, kind regclass, "
                                       "types regtype[]); INSERT INTO kinds VALUES (1, 'big', ARRAY['orders'::regtype]); "
                                       "GRANT ALL ON big, kinds TO client",
                                       rows_));
  }
  void TearDown() override {
    seen_ = true;
    world.set_copy_chunk(32 << 20);
    Live::TearDown();
  }

  int parts() { return std::atoi(world.new_server().sql("shop", "SELECT count(*) FROM midstream.copied", true).c_str()); }
  // Until some parts are there, and not all.
  void begin_and_wait_for_some() {
    for (const char* kind : {"source", "target", "follow"}) OK(world.apply(kind));
    ASSERT_TRUE(eventually([&] { return parts() >= 5; }));
    const auto seen = world.observe("follow");
    OK(seen);
    ASSERT_EQ((*seen)["phase"], "copying") << "it was over before it could be stopped: nothing is tested";
  }
  void to_the_end(Client& client) {
    ASSERT_TRUE(world.wait_reached("follow", Millis(60'000))) << world.why;
    ASSERT_NO_FATAL_FAILURE(verify());
    OK(world.apply("switch"));
    ASSERT_TRUE(client.wait_orders(5, Millis(10'000)));
    client.end();
    EXPECT_EQ(client.audit(world.new_server()), "");
    EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM big", true), std::to_string(rows_));
    EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM pg_class WHERE relname = 'copied'", true), "0");
  }
  std::string why() { return world.observe("follow").value_or(Json::object()).value("why", ""); }
  // Before what makes it so: the copy does not come to its end before expect_why() has seen it.
  void hold_the_end() {
    world.once_at("copy.rows", [this] { eventually([this] { return seen_.load(); }, Millis(60'000)); });
  }
  void expect_why(const std::string& words) {
    EXPECT_TRUE(eventually([&] { return why().find(words) != std::string::npos; }, Millis(30'000))) << why();
    seen_ = true;
  }

 protected:
  int rows_ = 400'000;  // for a copy that can be stopped in the middle

 private:
  std::atomic<bool> seen_ = false;
};

TEST_F(LiveCopy, GoesOnWhereItsAgentDied) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(begin_and_wait_for_some());
  world.restart_agents(false);
  const auto there = parts();
  EXPECT_GE(there, 5);
  OK(world.apply("follow"));
  EXPECT_EQ(why().find("begun again"), std::string::npos) << why();
  ASSERT_NO_FATAL_FAILURE(to_the_end(client));
  // Rows of parts that were cut off are written twice, no more.
  const auto written = [&] {
    return std::atoi(world.new_server().sql("shop", "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'big'", true).c_str());
  };
  ASSERT_TRUE(eventually([&] { return written() >= rows_; })) << written();
  EXPECT_LE(written(), rows_ * 11 / 10);
}

TEST_F(LiveCopy, BeginsAgainWhereTheSnapshotDied) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(begin_and_wait_for_some());
  const auto killed = run_child({"pkill", "-KILL", "-f", "midstream-agent hold-snapshot"}, "", Deadline::in(Millis(5'000)));
  OK(killed);
  ASSERT_EQ(killed->code, 0) << "no process held the snapshot";
  world.restart_agents(false);
  hold_the_end();
  OK(world.apply("follow"));
  expect_why("begun again (round 2)");
  ASSERT_NO_FATAL_FAILURE(to_the_end(client));
}

TEST_F(LiveCopy, OutlivesACrashOfEitherServer) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(begin_and_wait_for_some());
  world.new_server().crash();
  ASSERT_TRUE(world.new_server().start());
  ASSERT_TRUE(eventually([&] { return parts() >= 10; })) << why();
  EXPECT_EQ(why().find("begun again"), std::string::npos) << why();
  hold_the_end();
  world.old_server().crash();
  ASSERT_TRUE(world.old_server().start());
  expect_why("begun again (round ");  // 3 where it tried while the server started
  ASSERT_NO_FATAL_FAILURE(to_the_end(client));
}

// With more indexes on the large table, and new's power cut at a named point of the copy: another agent goes on.
class LiveIndexes : public LiveCopy {
 protected:
  LiveIndexes() { rows_ = 100'000; }  // it is stopped at a point, however long it takes
  static constexpr int kSetAside = 5;  // with the key; the ones on an expression and with a condition stay

  void power_cut_at(const std::string& point) {
    ASSERT_EQ(world.old_server().sql("shop", "CREATE INDEX big_body ON big (body); CREATE UNIQUE INDEX big_both ON big (id, body); "
                                             "CREATE INDEX big_part ON big USING gist (part); CREATE INDEX big_id ON big (id DESC); "
                                             "CREATE INDEX big_low ON big (lower(body)); CREATE INDEX big_few ON big (id) WHERE id < 100; "
                                             "CREATE TABLE pointing (big int REFERENCES big, n int PRIMARY KEY); INSERT INTO pointing "
                                             "VALUES (7, 1); ALTER TABLE big CLUSTER ON big_body"),
              "");
    std::atomic<bool> cut = false;
    world.once_at(point, [&] {
      world.new_server().crash();
      cut = true;
    });
    for (const char* kind : {"source", "target", "follow"}) OK(world.apply(kind));
    ASSERT_TRUE(eventually([&] { return cut.load(); }, Millis(60'000))) << why();
    world.restart_agents(false);
    ASSERT_TRUE(world.new_server().start());
  }
  std::string at_new(const std::string& sql) { return world.new_server().sql("shop", sql, true); }
  int unbuilt() { return std::atoi(at_new("SELECT count(*) FROM pg_index WHERE NOT indisready").c_str()); }
  // Every index is there as on old, and has every row.
  void expect_whole() {
    constexpr const char* kIndexes = "SELECT string_agg(pg_get_indexdef(indexrelid) || indisvalid || indisready || indisclustered || "
                                     "indisprimary, ' ' ORDER BY indexrelid::regclass::text) FROM pg_index WHERE indrelid = 'big'::regclass";
    EXPECT_EQ(at_new(kIndexes), world.old_server().sql("shop", kIndexes, true));
    EXPECT_EQ(at_new("SELECT count(*) FROM pg_index WHERE NOT indisready OR NOT indisvalid"), "0");
    EXPECT_EQ(at_new("SET midstream.allow = 'on'; CREATE EXTENSION amcheck"), "");
    EXPECT_EQ(at_new("SELECT count(bt_index_check(i.indexrelid, true)) FROM pg_index i JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON "
                     "a.oid = relam WHERE amname = 'btree' AND relkind = 'i' AND relpersistence = 'p'")
                  .find("ERROR"),
              std::string::npos);
    EXPECT_EQ(at_new("SET midstream.allow = 'on'; DROP EXTENSION amcheck"), "");
  }
};

TEST_F(LiveIndexes, AreBuiltWhereNewLostPowerBeforeTheFirst) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(power_cut_at("copy.rows"));
  EXPECT_EQ(unbuilt(), kSetAside);
  const auto written = at_new("SELECT max(xmin::text::bigint) FROM big");
  OK(world.apply("follow"));
  ASSERT_TRUE(world.wait_reached("follow", Millis(60'000))) << world.why;
  EXPECT_EQ(at_new("SELECT count(*) FROM pg_stats WHERE tablename = 'big' AND attname = 'id'"), "1") << "it was not analyzed";
  ASSERT_NO_FATAL_FAILURE(to_the_end(client));
  expect_whole();
  EXPECT_EQ(at_new("SELECT max(xmin::text::bigint) FROM big"), written) << "rows were copied again";
}

TEST_F(LiveIndexes, AreGoneOnWithWhereNewLostPowerBetweenTwo) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(power_cut_at("copy.index"));
  const auto left = unbuilt();
  EXPECT_GE(left, 1);
  EXPECT_LT(left, kSetAside);
  constexpr const char* kFiles = "SELECT string_agg(relfilenode::text, ' ' ORDER BY relname) FROM pg_class WHERE oid::text = ANY ('{{{}}}')";
  const auto built = at_new("SELECT string_agg(indexrelid::text, ',') FROM pg_index WHERE indrelid = 'big'::regclass AND indisready");
  const auto files = at_new(fmt::format(kFiles, built));
  OK(world.apply("follow"));
  ASSERT_NO_FATAL_FAILURE(to_the_end(client));
  expect_whole();
  EXPECT_EQ(at_new(fmt::format(kFiles, built)), files) << "an index was built twice";
}

// Undone meanwhile, and begun anew: nothing of the first copy is in the way.
TEST_F(LiveIndexes, MayBeUndoneBetween) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(power_cut_at("copy.index"));
  OK(world.undo("follow"));
  OK(world.apply("follow"));
  ASSERT_NO_FATAL_FAILURE(to_the_end(client));
  expect_whole();
}

// Rows are on other pages then, or not to be seen under the snapshot at all.
TEST_F(LiveCopy, BeginsAgainWhereATableWasRewritten) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(begin_and_wait_for_some());
  hold_the_end();
  ASSERT_EQ(world.old_server().sql("shop", "ALTER TABLE big ALTER COLUMN id TYPE bigint"), "");
  expect_why("was rewritten on old");
  ASSERT_NO_FATAL_FAILURE(to_the_end(client));
  EXPECT_EQ(world.new_server().sql("shop", "SELECT kind::text || types::text FROM kinds", true), "big{orders}");
}

// Old's table of hand-overs may have rows of a move that went before: on new one would pass for a hand-over that arrived.
TEST_F(Live, AnEarlierHandOverIsNotCopied) {
  for (const char* kind : {"source", "target"}) OK(world.apply(kind));
  ASSERT_EQ(world.old_server().sql("shop", "SET midstream.allow = 'on'; INSERT INTO midstream.handover VALUES (5, 1, '[]', '{}')", true), "");
  world.restart_agents(true);
  OK(world.apply("follow"));
  ASSERT_TRUE(world.wait_reached("follow", Millis(20'000))) << world.why;
  EXPECT_EQ(world.new_server().sql("shop", "SELECT state || (SELECT count(*) FROM midstream.handover) FROM midstream.owner", true), "standby0");
}

TEST_F(Live, TablesMadeSinceTheMoveBeganPostponeTheSwitch) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(follow());
  // Without having been written down: else it is followed like the others (ddl_live_test.cc).
  const std::string made = "CREATE TABLE made_since (id int PRIMARY KEY)", silent = "ALTER EVENT TRIGGER \"!midstream_2_ddl_command_end_autumn-1\" ";
  ASSERT_EQ(world.old_server().sql("shop", silent + "DISABLE; " + made + "; " + silent + "ENABLE ALWAYS"), "");
  ASSERT_EQ(world.new_server().sql("shop", "SET midstream.allow = 'on'; " + made + "; ALTER TABLE made_since OWNER TO postgres", true), "");
  OK(world.apply("target"));  // else new's fence is found to lack a trigger first
  const auto switched = world.apply("switch");
  ASSERT_FALSE(switched);
  EXPECT_NE(switched.error().what.find("not carried over: public.made_since"), std::string::npos) << switched.error().what;
  ASSERT_TRUE(client.wait_orders(5, Millis(5'000)));
  ASSERT_EQ(world.old_server().sql("shop", "DROP TABLE made_since"), "");
  for (const auto deadline = Deadline::in(Millis(10'000)); !deadline.expired(); pause_for(Millis(20), {}))
    if (world.new_server().sql("shop", "SELECT to_regclass('made_since') IS NULL", true) == "t") break;
  OK(world.apply("switch"));
}

// A slot waits for whoever has written and is still open; nothing is left of one that did not come to be.
TEST_F(Live, AnOpenTransactionKeepsTheCopyFromBeginningAndIsNamed) {
  for (const char* kind : {"source", "target"}) OK(world.apply(kind));
  const auto target = a_client("shop");
  auto writer = Session::login(target, Deadline::in(Millis(5'000)), {});
  ASSERT_TRUE(writer);
  ASSERT_TRUE(writer->query("BEGIN; INSERT INTO public.stock VALUES (77, 0)", {}, Deadline::in(Millis(5'000)), {}));
  world.patience = Millis(2'500);
  const auto begun = world.apply("follow");
  world.patience = Millis(30'000);
  ASSERT_FALSE(begun);
  EXPECT_EQ(begun.error().kind, ErrorKind::retry) << begun.error().text();
  EXPECT_NE(begun.error().what.find("a transaction of role client (pid "), std::string::npos) << begun.error().what;
  EXPECT_EQ(world.old_server().sql("postgres", "SELECT count(*) FROM pg_replication_slots"), "0");
  ASSERT_TRUE(writer->query("COMMIT", {}, Deadline::in(Millis(5'000)), {}));
  ASSERT_NO_FATAL_FAILURE(follow());
  EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM stock WHERE item = 77", true), "1");
}

TEST_F(LiveCopy, IsUndoneInTheMiddle) {
  ASSERT_NO_FATAL_FAILURE(begin_and_wait_for_some());
  ASSERT_NO_FATAL_FAILURE(undo_all());
  expect_nothing_of_ours();
  EXPECT_EQ(run_child({"pgrep", "-f", "midstream-agent hold-snapshot"}, "", Deadline::in(Millis(5'000)))->code, 1)
      << "the snapshot is still held";
}

// The rows that came by the stream there are not sent back, also where new lost everything that no checkpoint had
// written: PostgreSQL keeps the position of a slot no better than that.
TEST_F(Live, CrashOfTheServerThatTookOverRepeatsNoRow) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(follow());
  const auto crash_of = [&](Server& server) {
    return [&] {
      server.crash();
      ASSERT_TRUE(server.start());
      throw Crash{"take.owner"};
    };
  };
  for (int round = 0; round < 2; ++round) {
    // Rows between the making of the slot for the way back and the hand-over.
    world.once_at("switch.prepared", [&] { EXPECT_TRUE(client.wait_orders(20, Millis(5000))); });
    world.once_at("take.owner", crash_of(world.new_server()));
    EXPECT_THROW((void)world.apply("switch"), Crash);
    world.restart_agents(false);
    ASSERT_TRUE(client.wait_orders(20, Millis(10'000)));
    OK(world.apply("switch"));
    ASSERT_TRUE(world.wait_reached("switch", Millis(10'000))) << world.why;
    ASSERT_NO_FATAL_FAILURE(verify());

    world.once_at("switch.prepared", [&] { EXPECT_TRUE(client.wait_orders(20, Millis(5000))); });
    world.once_at("take.owner", crash_of(world.old_server()));
    EXPECT_THROW((void)world.undo("switch"), Crash);
    world.restart_agents(false);
    ASSERT_TRUE(client.wait_orders(20, Millis(10'000)));
    OK(world.undo("switch"));
    ASSERT_TRUE(world.wait_reached("follow", Millis(10'000))) << world.why;
    ASSERT_NO_FATAL_FAILURE(verify());
  }
  client.end();
  EXPECT_EQ(client.audit(world.old_server()), "");
  EXPECT_EQ(side_changes(world), 4);
}

// A line that somebody else breaks is named, and the fence is not touched for it: neither lost nor stuck.
TEST_F(Live, BadLineOfSomebodyElseLosesNoFence) {
  constexpr const char* kBad = "host all all 0.0.0.0/0 nonsense\n";
  const auto break_file = [&](Server& server) { server.write("pg_hba.conf", server.read("pg_hba.conf") + kBad); };
  const auto mend_file = [&](Server& server) {
    auto text = server.read("pg_hba.conf");
    ASSERT_NE(text.find(kBad), std::string::npos) << "the line was theirs";
    server.write("pg_hba.conf", text.erase(text.find(kBad), std::string_view(kBad).size()));
  };
  const auto block = [](Server& server) { return find_block(server.read("pg_hba.conf"), "autumn-1").lines; };
  const auto expect_named = [](const auto& done) {
    ASSERT_FALSE(done);
    EXPECT_EQ(done.error().kind, ErrorKind::refused) << done.error().text();
    EXPECT_NE(done.error().what.find("pg_hba.conf on "), std::string::npos) << done.error().what;
    EXPECT_NE(done.error().what.find("nonsense"), std::string::npos) << done.error().what;
  };
  auto& old_server = world.old_server();
  auto& new_server = world.new_server();
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(follow());
  // On new, before the switch: new stays fenced, old serves.
  const auto hard = block(new_server);
  break_file(new_server);
  expect_named(world.apply("switch"));
  EXPECT_EQ(block(new_server), hard);
  mend_file(new_server);
  new_server.sql("postgres", "SELECT pg_reload_conf()");
  EXPECT_NE(new_server.sql("shop", "SELECT 1").find("pg_hba.conf rejects"), std::string::npos);
  ASSERT_TRUE(client.wait_orders(5, Millis(5000)));
  // On old, once it has yielded: old stays fenced, also when the line is mended and nobody has told midstream.
  world.once_at("after.reverse", [&] { break_file(old_server); });
  expect_named(world.apply("switch"));
  EXPECT_NE(block(old_server), "");
  ASSERT_NO_FATAL_FAILURE(mend_file(old_server));
  old_server.sql("postgres", "SELECT pg_reload_conf()");
  EXPECT_NE(old_server.sql("shop", "UPDATE customers SET name = 'x'").find("pg_hba.conf rejects"), std::string::npos);
  // In the moment of the reload: the file is as it shall be, the server has not read it, and that is said.
  world.once_at("access.written", [&] { break_file(old_server); });
  expect_named(world.apply("switch"));
  EXPECT_NE(block(old_server).find("all reject"), std::string::npos);
  ASSERT_NO_FATAL_FAILURE(mend_file(old_server));
  OK(world.apply("switch"));  // tells the server once more
  ASSERT_TRUE(world.wait_reached("switch", Millis(10'000))) << world.why;
  ASSERT_TRUE(client.wait_orders(5, Millis(10'000)));
  client.end();
  EXPECT_EQ(client.audit(new_server), "");
  EXPECT_EQ(side_changes(world), 1);
  // At the end nothing is taken out by half.
  break_file(old_server);
  expect_named(world.apply("finish"));
  EXPECT_NE(block(old_server), "");
  ASSERT_NO_FATAL_FAILURE(mend_file(old_server));
  OK(world.apply("finish"));
  expect_nothing_of_ours();
}

TEST_F(Live, WhatIsLeftClosedOpensByItself) {
  world.restart_agents(true, Millis(1500));
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(follow());
  world.crash_at("give.fenced");
  EXPECT_THROW((void)world.apply("switch"), Crash);
  EXPECT_EQ(world.observe("switch").value_or(Json::object())["titles"]["shop"]["old"]["state"], "closing");
  const auto start = boot_now();
  ASSERT_TRUE(client.wait_orders(5, Millis(10'000)));  // nobody but the lease opened it
  EXPECT_GE(std::chrono::duration_cast<Millis>(boot_now() - start).count(), 500);
  // An agent that begins anew opens at once what its forerunner left.
  world.restart_agents(true, Millis(600'000));
  world.crash_at("give.barrier");
  EXPECT_THROW((void)world.apply("switch"), Crash);
  world.restart_agents(true, Millis(600'000));
  ASSERT_TRUE(client.wait_orders(5, Millis(10'000)));
  // And new's completes what was yielded, alone.
  world.crash_at("give.yielded");
  EXPECT_THROW((void)world.apply("switch"), Crash);
  ASSERT_TRUE(client.wait_orders(5, Millis(10'000)));
  EXPECT_EQ(world.observe("switch").value_or(Json::object()).value("owner", ""), "new");
  OK(world.apply("switch"));
  ASSERT_TRUE(world.wait_reached("switch", Millis(10'000))) << world.why;
  client.end();
  EXPECT_EQ(client.audit(world.new_server()), "");
  EXPECT_EQ(side_changes(world), 1);
}

// A role that is dropped and made again is another one: sessions of the first one are of no use to it.
TEST_F(Live, ASessionOnLoanIsDroppedWithTheOthers) {
  Session::Target target;
  target.host = world.old_server().directory();
  target.port = world.old_server().port();
  target.database = target.user = "postgres";
  target.os_user = "postgres";
  Pool pool;
  const auto pid = [&](bool drop_meanwhile) -> std::string {
    auto loan = pool.get(target, Deadline::in(Millis(5'000)), {});
    if (!loan) return loan.error().text();
    if (drop_meanwhile) pool.drop_all();
    const auto rows = (*loan)->run("SELECT pg_backend_pid()", {}, Deadline::in(Millis(5'000)), {});
    return rows ? rows->text(0, 0) : rows.error().text();
  };
  const auto first = pid(false);
  EXPECT_EQ(pid(true), first);
  EXPECT_NE(pid(false), first);
}

// Whoever takes the stream of `server` is gone for good, and `server` goes on writing.
void write_for_nobody(Server& server, Server& gone) {
  const auto subscription = gone.sql("shop", "SELECT subname FROM pg_subscription", true);
  ASSERT_EQ(gone.sql("shop", "SET midstream.allow = on; ALTER SUBSCRIPTION \"" + subscription + "\" DISABLE", true), "");
  for (int i = 0; i < 24; ++i) server.sql("postgres", "SELECT pg_logical_emit_message(false, 'x', 'x'), pg_switch_wal()");
  server.sql("postgres", "CHECKPOINT");
  ASSERT_EQ(server.sql("postgres", "SELECT string_agg(wal_status, ' ') FROM pg_replication_slots"), "extended");
}

constexpr std::int64_t kMoreThanAnyDisk = std::int64_t{1} << 60;

TEST_F(Live, ASlotForNobodyIsGivenUpBeforeTheDiskIsFull) {
  const auto slots = [](Server& server) { return server.sql("postgres", "SELECT count(*) FROM pg_replication_slots"); };
  const auto given_up = [&](Server& server) {
    for (const auto limit = Deadline::in(Millis(10'000)); !limit.expired(); pause_for(Millis(50), {}))
      if (slots(server) == "0") return true;
    return false;
  };
  const auto free = static_cast<std::int64_t>(std::filesystem::space(world.old_server().directory()).available);
  Client client(world);
  world.restart_agents(true);
  ASSERT_NO_FATAL_FAILURE(follow());
  write_for_nobody(world.old_server(), world.new_server());
  // With room enough it is kept, for as long as it takes; where it gets tight, that is said.
  pause_for(Millis(2'500), {});
  auto seen = world.observe("follow");
  OK(seen);
  EXPECT_FALSE(seen->contains("alarm")) << seen->dump();
  EXPECT_GT((*seen)["wal"]["shop"]["retained_bytes"].get<std::int64_t>(), 256 << 20) << seen->dump();
  world.set_wal_floor(free * 6 / 10);
  world.restart_agents(true);
  pause_for(Millis(2'500), {});
  seen = world.observe("follow");
  OK(seen);
  EXPECT_NE(seen->value("alarm", "").find("MiB free"), std::string::npos) << seen->dump();
  EXPECT_EQ(slots(world.old_server()), "1");

  // Noted by an agent that died before it dropped it, and now there is room: it goes on.
  const auto slot = world.old_server().sql("postgres", "SELECT slot_name FROM pg_replication_slots");
  const auto note = world.old_server().directory().parent_path() / "state-alpha" / (slot + ".given-up");
  OK(write_file_durably(note, R"({"why": "the disk was full"})"));
  EXPECT_FALSE(world.observe("follow"));
  world.set_wal_floor(1);
  world.restart_agents(true);
  for (const auto limit = Deadline::in(Millis(10'000)); std::filesystem::exists(note) && !limit.expired();) pause_for(Millis(50), {});
  OK(world.observe("follow"));
  EXPECT_EQ(slots(world.old_server()), "1");

  world.set_wal_floor(kMoreThanAnyDisk);
  world.restart_agents(true);
  ASSERT_TRUE(given_up(world.old_server()));
  ASSERT_TRUE(client.wait_orders(20, Millis(10'000))) << "old serves on";
  seen = world.observe("follow");
  ASSERT_FALSE(seen) << seen->dump();
  EXPECT_EQ(seen.error().kind, ErrorKind::refused);
  EXPECT_NE(seen.error().what.find("the copy on new must start again"), std::string::npos) << seen.error().what;
  EXPECT_FALSE(world.apply("switch")) << "a copy with a gap must never own";

  // The copy starts again, and the move goes on.
  world.set_wal_floor(0);
  world.restart_agents(true);
  OK(world.undo("follow"));
  OK(world.apply("follow"));
  ASSERT_TRUE(world.wait_reached("follow", Millis(20'000))) << world.why;
  OK(world.apply("switch"));
  ASSERT_TRUE(world.wait_reached("switch", Millis(10'000))) << world.why;

  // The same on the way back: new goes on serving, and going back is refused rather than done with a gap.
  write_for_nobody(world.new_server(), world.old_server());
  world.set_wal_floor(kMoreThanAnyDisk);
  world.restart_agents(true);
  ASSERT_TRUE(given_up(world.new_server()));
  ASSERT_TRUE(client.wait_orders(20, Millis(10'000))) << "new serves on";
  seen = world.observe("switch");
  OK(seen);
  EXPECT_NE(seen->value("alarm", "").find("going back is not possible"), std::string::npos) << seen->dump();
  const auto back = world.undo("switch");
  ASSERT_FALSE(back);
  EXPECT_EQ(back.error().kind, ErrorKind::refused);
  EXPECT_NE(back.error().what.find("going back is not possible"), std::string::npos) << back.error().what;
  EXPECT_EQ(slots(world.old_server()), "0") << "what was made for the way back is gone again";
  client.end();
  EXPECT_EQ(client.audit(world.new_server()), "");
  EXPECT_EQ(side_changes(world), 1);
  world.set_wal_floor(0);
}

// What was committed just before is on its way for seconds: nobody is held for that.
TEST_F(Live, ALargeUpdateJustBeforePostponesTheHoldInsteadOfLengtheningIt) {
  world.old_server().sql("shop", "CREATE TABLE much (id int PRIMARY KEY, v text); INSERT INTO much SELECT g, md5(g::text) FROM generate_series(1, 300000) g");
  ASSERT_NO_FATAL_FAILURE(follow());
  world.old_server().sql("shop", "UPDATE much SET v = v || 'x'");
  Result<Json> done = world.apply("switch");
  for (const auto deadline = Deadline::in(Millis(60'000)); !done && !deadline.expired(); done = world.apply("switch"))
    ASSERT_EQ(done.error().kind, ErrorKind::retry) << done.error().text();
  OK(done);
  EXPECT_LT((*done)["barrier_ms"].get<int>(), 500) << "to apply them takes seconds; " << done->dump();
  EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM much WHERE v LIKE '%x'"), "300000");
}

TEST_F(Live, PostponedAndRefusedWithTheReason) {
  const auto findings = world.check("source");
  OK(findings);
  for (const auto& one : *findings) EXPECT_TRUE(one.at("ok").get<bool>()) << one.dump();
  const auto hba = world.old_server().read("pg_hba.conf");
  world.old_server().write("pg_hba.conf", hba + "nonsense\n");
  const auto unread = world.check("source");
  world.old_server().write("pg_hba.conf", hba);
  OK(unread);
  EXPECT_TRUE(std::ranges::any_of(*unread, [](const Json& one) {
    return !one.at("ok").get<bool>() && one.at("detail").get<std::string>().find("pg_hba.conf") != std::string::npos;
  })) << unread->dump();

  ASSERT_NO_FATAL_FAILURE(follow());
  OK(world.check("target"));
  // An old write transaction is in the way, and named.
  const auto target = a_client("nightly-job");
  auto writer = Session::connect(target, Deadline::in(Millis(5000)), {});
  ASSERT_TRUE(writer) << writer.error().text();
  ASSERT_TRUE(writer->run("BEGIN; UPDATE public.customers SET note = 'x' WHERE id = 1; SELECT pg_sleep(0.6)", {},
                          Deadline::in(Millis(5000)), {}));
  // (Making the slot for the way back waits on new only; old is asked before it is closed.)
  const auto late = world.apply("switch");
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().kind, ErrorKind::retry);
  EXPECT_NE(late.error().what.find("nightly-job"), std::string::npos) << late.error().what;
  ASSERT_TRUE(writer->run("COMMIT", {}, Deadline::in(Millis(5000)), {})) << "the writer was not touched";
  // A schema that is otherwise stops the switch before harm.
  ASSERT_EQ(world.new_server().sql("shop", "SET midstream.allow = 'on'; ALTER TABLE customers ADD COLUMN extra int", true), "");
  const auto changed = world.apply("switch");
  ASSERT_FALSE(changed);
  EXPECT_NE(changed.error().what.find("schemas of shop differ"), std::string::npos) << changed.error().what;
  ASSERT_EQ(world.new_server().sql("shop", "SET midstream.allow = 'on'; ALTER TABLE customers DROP COLUMN extra", true), "");
  // An older epoch is turned away.
  world.epoch = 0;
  const auto old_epoch = world.apply("switch");
  ASSERT_FALSE(old_epoch);
  EXPECT_EQ(old_epoch.error().kind, ErrorKind::fenced) << old_epoch.error().what;
}

}  // namespace
}  // namespace midstream::postgres::test
