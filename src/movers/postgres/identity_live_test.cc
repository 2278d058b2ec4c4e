// Tables without key, on real servers: each gets an identity, rows of it are changed and removed in both directions, and it has in the end
// what it had.
#include <algorithm>
#include <map>

#include "movers/postgres/live_test.h"

namespace midstream::postgres::test {
namespace {

// Every way of having no identity that tells rows apart, and what each is given. All have columns n and v.
const std::map<std::string, std::string> kGiven{
    {"heap", "f"},        // no index at all
    {"weak", "f"},        // unique indexes that will not do: nullable, partial, of an expression, deferrable
    {"late", "f"},        // a primary key that is deferrable
    {"keyed", "i keyed_n"},
    {"nothing", "d"},     // a primary key, and told not to use it
    {"gone", "f"},        // its index was dropped
    {"shapes", "f"},      // types without equality, and a generated column
};
constexpr const char* kTables = R"sql(
CREATE TABLE heap (n int, v text);
CREATE TABLE weak (n int NOT NULL, v text, w int UNIQUE, d int NOT NULL UNIQUE DEFERRABLE);
CREATE UNIQUE INDEX weak_partial ON weak (n) WHERE n > 0;
CREATE UNIQUE INDEX weak_expression ON weak ((n + 1));
CREATE TABLE late (n int PRIMARY KEY DEFERRABLE, v text);
CREATE TABLE keyed (v text NOT NULL, n int NOT NULL);
CREATE UNIQUE INDEX keyed_n ON keyed (n) INCLUDE (v);
CREATE UNIQUE INDEX keyed_both ON keyed (n, v);
CREATE TABLE nothing (n int PRIMARY KEY, v text);
ALTER TABLE nothing REPLICA IDENTITY NOTHING;
CREATE TABLE gone (n int NOT NULL, v text);
CREATE UNIQUE INDEX gone_n ON gone (n);
ALTER TABLE gone REPLICA IDENTITY USING INDEX gone_n;
DROP INDEX gone_n;
CREATE TYPE part AS (at point, what json);
CREATE DOMAIN page AS xml;
CREATE TABLE shapes (n int, j json, p point, x page, b box[], c part, v text, g int GENERATED ALWAYS AS (n * 2) STORED);
CREATE TABLE own (n int, v text);
ALTER TABLE own REPLICA IDENTITY FULL;
)sql";

class LiveIdentity : public LiveTest {
 protected:
  void SetUp() override {
    LiveTest::SetUp();
    if (IsSkipped()) return;
    on_old(kTables);
    for (const auto& [table, given] : kGiven) {
      const char* more = table == "weak" ? ", w, d" : table == "shapes" ? ", j, p, x, b, c" : "";
      const char* values = table == "weak" ? ", g, g" : table == "shapes" ? R"(, '{"a": 1}', '(0,-0)', '<a/>', '{(1,1),(0,0)}', ROW(point '(1,2)', json '{}')::part)" : "";
      on_old(fmt::format("INSERT INTO {} (n, v{}) SELECT g, 'row ' || g{} FROM generate_series(1, 60) g", table, more, values));
    }
    before_ = identities(world.old_server());
  }
  void TearDown() override {
    if (!world.usable()) return;
    (void)world.undo("verify");
    LiveTest::TearDown();
  }

  // As our own role where it is there: on a side that does not own nobody else is let in.
  static std::string identity(Server& server, const std::string& table) {
    const bool ours = server.sql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'midstream_autumn-1'") == "1";
    return server.sql("shop",
                      fmt::format("SELECT concat_ws(' ', relreplident, (SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid WHERE "
                                  "x.indrelid = c.oid AND x.indisreplident)) FROM pg_class c WHERE oid = '{}'::regclass",
                                  table),
                      ours);
  }
  // Of every table of the application, and how many operator classes there are.
  static std::string identities(Server& server) {
    return server.sql("shop",
                      "SELECT string_agg(concat_ws(' ', relname, relreplident, (SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = "
                      "x.indexrelid WHERE x.indrelid = c.oid AND x.indisreplident)), ', ' ORDER BY relname) || (SELECT count(*) FROM pg_opclass) FROM "
                      "pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')");
  }
  // A row of each is changed and another removed, beginning at `first`.
  void change_rows(Server& server, int first) {
    for (const auto& [table, given] : kGiven) {
      at(server, fmt::format("UPDATE {} SET v = v || ' changed' WHERE n BETWEEN {} AND {}", table, first, first + 4));
      at(server, fmt::format("DELETE FROM {} WHERE n BETWEEN {} AND {}", table, first + 5, first + 9));
    }
  }
  std::string before_;
};

TEST_F(LiveIdentity, IsGivenWhileTheMoveLastsAndPutBack) {
  const auto findings = world.check("source");
  OK(findings);
  for (const auto& [table, given] : kGiven)
    EXPECT_TRUE(std::ranges::any_of(*findings, [&, name = "public." + table](const Json& one) {
      return one.at("what").get<std::string>().find(name) != std::string::npos && one.at("ok").get<bool>() &&
             one.at("detail").get<std::string>().find(given == "f" ? "FULL" : given == "d" ? "DEFAULT" : "USING INDEX public.keyed_n") != std::string::npos;
    })) << table << ": " << findings->dump();
  ASSERT_NO_FATAL_FAILURE(follow());
  for (auto* server : {&world.old_server(), &world.new_server()})
    for (const auto& [table, given] : kGiven) EXPECT_EQ(identity(*server, table), given) << table;
  change_rows(world.old_server(), 1);
  ASSERT_NO_FATAL_FAILURE(verify());
  OK(world.apply("switch"));
  change_rows(world.new_server(), 11);
  ASSERT_NO_FATAL_FAILURE(verify());
  OK(world.undo("switch"));
  change_rows(world.old_server(), 21);
  ASSERT_TRUE(world.wait_reached("follow", Millis(20'000))) << world.why;
  ASSERT_NO_FATAL_FAILURE(verify());
  EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM shapes WHERE v LIKE '% changed'", true), "15");
  ASSERT_NO_FATAL_FAILURE(undo_all());
  EXPECT_EQ(identities(world.old_server()), before_);
}

TEST_F(LiveIdentity, IsWhatItWasOnBothSidesAfterFinish) {
  ASSERT_NO_FATAL_FAILURE(follow());
  at(world.old_server(), "ALTER TABLE keyed RENAME TO renamed");
  ASSERT_TRUE(eventually([&] { return world.new_server().sql("shop", "SELECT to_regclass('renamed') IS NOT NULL", true) == "t"; }));
  OK(world.apply("switch"));
  OK(world.apply("finish"));
  at(world.new_server(), "ALTER TABLE renamed RENAME TO keyed");
  EXPECT_EQ(identities(world.new_server()), before_);
  EXPECT_EQ(world.old_server().sql("postgres", "ALTER DATABASE shop WITH ALLOW_CONNECTIONS true"), "");
  at(world.old_server(), "ALTER TABLE renamed RENAME TO keyed");
  EXPECT_EQ(identities(world.old_server()), before_);
}

TEST_F(LiveIdentity, NoCrashLosesWhatItWas) {
  // Each of seven tables: the agent dies right after its change.
  for (std::size_t i = 0; i < kGiven.size(); ++i)
    EXPECT_TRUE(crashes("identity.given", [&] { (void)world.apply("source"); })) << i;
  OK(world.apply("source"));
  for (std::size_t i = 0; i < kGiven.size(); ++i)
    EXPECT_TRUE(crashes("identity.taken", [&] { (void)world.undo("source"); })) << i;
  OK(world.undo("source"));
  EXPECT_EQ(identities(world.old_server()), before_);
  EXPECT_TRUE(crashes("identity.given", [&] { (void)world.apply("source"); }));
  OK(world.undo("source"));
  EXPECT_EQ(identities(world.old_server()), before_);
}

TEST_F(LiveIdentity, WhatSomebodyElseHasSetStays) {
  OK(world.apply("source"));
  at(world.old_server(), "ALTER TABLE late REPLICA IDENTITY NOTHING");
  OK(world.undo("source"));
  EXPECT_EQ(identity(world.old_server(), "late"), "n");
}

TEST_F(LiveIdentity, TriggersForReplicatedRowsAreQuietWhileTheMoveLasts) {
  at(world.old_server(), "CREATE TABLE entries (n int PRIMARY KEY); CREATE TABLE counts (what text PRIMARY KEY, n int); INSERT INTO counts VALUES ('entries', 0); "
                         "CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE public.counts SET n = n + 1; RETURN NULL; END $$; CREATE TRIGGER "
                         "always AFTER INSERT ON entries FOR EACH ROW EXECUTE FUNCTION count_it(); CREATE TRIGGER replicated AFTER INSERT ON entries FOR EACH ROW "
                         "EXECUTE FUNCTION count_it(); ALTER TABLE entries ENABLE ALWAYS TRIGGER always, ENABLE REPLICA TRIGGER replicated");
  const std::string enabled = "SELECT string_agg(concat_ws(' ', tgname, tgenabled), ', ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'entries'::regclass AND tgname <> "
                              "'midstream_deny'";
  ASSERT_NO_FATAL_FAILURE(follow());
  at(world.old_server(), "INSERT INTO entries SELECT generate_series(1, 10)");
  ASSERT_NO_FATAL_FAILURE(verify());
  EXPECT_EQ(world.new_server().sql("shop", "SELECT n FROM counts", true), "10");
  OK(world.apply("switch"));
  at(world.new_server(), "INSERT INTO entries SELECT generate_series(11, 15)");
  EXPECT_EQ(world.new_server().sql("shop", "SELECT n FROM counts"), "15");
  ASSERT_NO_FATAL_FAILURE(verify());
  OK(world.apply("finish"));
  EXPECT_EQ(world.new_server().sql("shop", enabled), "always A, replicated R");
  EXPECT_EQ(world.old_server().sql("postgres", "ALTER DATABASE shop WITH ALLOW_CONNECTIONS true"), "");
  EXPECT_EQ(world.old_server().sql("shop", enabled), "always A, replicated R");
}

TEST_F(LiveIdentity, RowsThatAreOlderThanTheirConstraintAreCopied) {
  at(world.old_server(), "CREATE TABLE checked (n int PRIMARY KEY, CHECK (n < 1000)); INSERT INTO checked VALUES (-1), (1); ALTER TABLE checked ADD CONSTRAINT "
                         "positive CHECK (n > 0) NOT VALID");
  ASSERT_NO_FATAL_FAILURE(follow());
  ASSERT_NO_FATAL_FAILURE(verify());
  OK(world.apply("switch"));
  EXPECT_NE(world.new_server().sql("shop", "INSERT INTO checked VALUES (-2)").find("positive"), std::string::npos);
  EXPECT_NE(world.new_server().sql("shop", "INSERT INTO checked VALUES (1001)").find("checked_n_check"), std::string::npos);
  EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM checked"), "2");
}

TEST_F(LiveIdentity, ViewsAreFilledThatOldHasFilled) {
  at(world.old_server(), "CREATE MATERIALIZED VIEW a_reader AS SELECT 1 AS n; CREATE MATERIALIZED VIEW z_base AS SELECT count(*) AS n FROM heap; CREATE OR REPLACE "
                         "FUNCTION read_base() RETURNS bigint LANGUAGE sql AS 'SELECT n FROM public.z_base'; DROP MATERIALIZED VIEW a_reader; CREATE MATERIALIZED VIEW "
                         "a_reader AS SELECT public.read_base() AS n; CREATE MATERIALIZED VIEW empty AS SELECT 1 / 0 AS n WITH NO DATA");
  ASSERT_NO_FATAL_FAILURE(follow());
  OK(world.apply("switch"));
  EXPECT_EQ(world.new_server().sql("shop", "SELECT n FROM a_reader"), "60");
  EXPECT_EQ(world.new_server().sql("shop", "SELECT relispopulated FROM pg_class WHERE relname = 'empty'"), "f");
}

TEST_F(LiveIdentity, NobodyQueuesBehindALongTransaction) {
  const auto session = [&] {
    Session::Target target;
    target.host = world.old_server().directory();
    target.port = world.old_server().port();
    target.database = "shop";
    target.user = target.os_user = "postgres";
    return Session::connect(target, Deadline::in(Millis(10'000)), {});
  };
  auto reporter = session(), reader = session();
  OK(reporter);
  OK(reader);
  OK(reporter->run("BEGIN; SELECT count(*) FROM public.heap", {}, Deadline::in(Millis(5'000)), {}));
  std::atomic<std::int64_t> longest = 0;
  std::atomic<bool> failed = false;
  std::jthread reading([&](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      const auto start = boot_now();
      failed = failed || !reader->run("SELECT count(*) FROM public.heap", {}, Deadline::in(Millis(30'000)), {});
      longest = std::max<std::int64_t>(longest, std::chrono::duration_cast<Millis>(boot_now() - start).count());
    }
  });
  const auto tried = world.apply("source");
  reading.request_stop();
  reading.join();
  ASSERT_FALSE(tried);
  EXPECT_EQ(tried.error().kind, ErrorKind::retry) << tried.error().text();
  EXPECT_NE(tried.error().what.find("public.heap"), std::string::npos) << tried.error().what;
  EXPECT_NE(tried.error().what.find(fmt::format("pid {}", reporter->pid())), std::string::npos) << tried.error().what;
  EXPECT_FALSE(failed);
  EXPECT_LT(longest, 1'000) << "readers queued";
  OK(reporter->run("COMMIT", {}, Deadline::in(Millis(5'000)), {}));
  OK(world.apply("source"));
  OK(world.undo("source"));
  EXPECT_EQ(identities(world.old_server()), before_);
}

TEST_F(LiveIdentity, AnAutovacuumGivesWay) {
  auto& old_side = world.old_server();
  at(old_side, "INSERT INTO heap SELECT g, repeat('x', 500) FROM generate_series(1, 30000) g; ALTER TABLE heap SET (autovacuum_vacuum_cost_delay = 100, "
               "autovacuum_vacuum_cost_limit = 1, autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0); DELETE FROM heap WHERE n % 2 = 0");
  at(old_side, "ALTER SYSTEM SET autovacuum_naptime = '1s'");
  at(old_side, "SELECT pg_reload_conf()");
  const auto vacuums = [&] { return old_side.sql("shop", "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'autovacuum: VACUUM%public.heap%'"); };
  const bool seen = eventually([&] { return vacuums() == "1"; }, Millis(90'000));
  at(old_side, "ALTER SYSTEM RESET autovacuum_naptime");
  at(old_side, "SELECT pg_reload_conf()");
  ASSERT_TRUE(seen) << "no autovacuum of the table is to be seen: nothing is tested";
  OK(world.apply("source"));
  OK(world.undo("source"));
}

}  // namespace
}  // namespace midstream::postgres::test
