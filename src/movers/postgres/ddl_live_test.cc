// DDL while a move lasts, on whichever side owns: repeated on the other at its place in the stream, or the stream stops before it.
#include <string>
#include <vector>

#include "movers/postgres/live_test.h"

namespace midstream::postgres::test {
namespace {

// All that the schema is, and all rows of what the statements below touch, as text.
constexpr const char* kAll =
    "SELECT (SELECT string_agg(concat_ws(' ', c.relname, c.relkind, c.relpersistence, c.relreplident, pg_get_userbyid(c.relowner), c.relacl::text, obj_description(c.oid, 'pg_class'), "
    "CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END, (SELECT string_agg(concat_ws(' ', attname, format_type(atttypid, atttypmod), attnotnull, attidentity, attmissingval, "
    "pg_get_expr(adbin, adrelid)), ',' ORDER BY attname) FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped), "
    "(SELECT string_agg(pg_get_constraintdef(k.oid), ',' ORDER BY conname) FROM pg_constraint k WHERE conrelid = c.oid), (SELECT string_agg(concat(tgname, tgenabled), ',' ORDER BY tgname) FROM pg_trigger "
    "WHERE tgrelid = c.oid AND NOT tgisinternal)), E'\\n' ORDER BY n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ('public', 'more', 'hidden') AND "
    "c.relkind IN ('r', 'p', 'v', 'm', 'S', 'i', 'I')) || (SELECT string_agg(pg_get_functiondef(oid), E'\\n' ORDER BY proname) FROM pg_proc WHERE pronamespace = 'public'::regnamespace) || (SELECT "
    "string_agg(enumlabel, ',' ORDER BY enumsortorder) FROM pg_enum) || coalesce((SELECT string_agg(defaclacl::text, ',') FROM pg_default_acl), '-')";
constexpr const char* kRows =
    "SELECT concat_ws(E'\\n', (SELECT string_agg((to_jsonb(x) - 'sold')::text, ' ' ORDER BY item) FROM stock x), (SELECT string_agg(x::text, ' ' ORDER BY id) FROM more.made x), (SELECT string_agg(x::text, ' ' ORDER BY "
    "x::text) FROM keyless x), (SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM taken x), (SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM part_1 x))";

// As the client's own role would put it, in its way: with a search_path, several statements in a query, from within a function, or in a
// transaction with rows between the shapes.
const std::vector<std::string>& additive() {
  static const std::vector<std::string> all{
      "CREATE SCHEMA more",
      "SET search_path = more; CREATE TABLE made (id serial PRIMARY KEY, doc json, \"odd ; name\" text DEFAULT 'a;b')",
      "BEGIN; INSERT INTO more.made (doc) VALUES ('{}'); ALTER TABLE more.made ADD COLUMN one int DEFAULT 7; INSERT INTO more.made (doc, one) VALUES ('[]', 8); ALTER TABLE more.made ADD "
      "COLUMN two int; INSERT INTO more.made (doc, one, two) VALUES ('[1]', 9, 10); COMMIT",
      "ALTER TABLE stock ADD COLUMN since timestamptz NOT NULL DEFAULT now(), ADD COLUMN who text DEFAULT session_user",
      "ALTER TABLE stock ADD COLUMN twice int GENERATED ALWAYS AS (item * 2) STORED",
      "UPDATE stock SET who = 'x' WHERE item = 1",
      "CREATE TABLE keyless (a int, b text); INSERT INTO keyless VALUES (1, 'a'), (2, 'b'); UPDATE keyless SET b = 'c' WHERE a = 1; DELETE FROM keyless WHERE a = 2",
      "CREATE INDEX CONCURRENTLY ON stock (sold)",
      "DO $$ BEGIN FOR i IN 1..3 LOOP EXECUTE format('CREATE TABLE part_%s (id int PRIMARY KEY)', i); END LOOP; INSERT INTO part_1 VALUES (1); END $$",
      "CREATE TABLE taken AS SELECT item, sold, since FROM stock WHERE item < 4",
      "INSERT INTO taken VALUES (100, 1, '2020-01-01')",
      "CREATE VIEW seen AS SELECT * FROM stock; CREATE OR REPLACE FUNCTION add(a int) RETURNS int LANGUAGE sql AS 'SELECT a + 1'",
      "CREATE FUNCTION atomic() RETURNS int BEGIN ATOMIC SELECT 1; SELECT 2; END",
      "CREATE TYPE mood AS ENUM ('a', 'b'); ALTER TYPE mood ADD VALUE 'c'",
      "COMMENT ON TABLE stock IS 'x; y'; GRANT SELECT ON stock TO PUBLIC; ALTER DEFAULT PRIVILEGES IN SCHEMA more GRANT SELECT ON TABLES TO PUBLIC",
      "ALTER TABLE stock ADD CONSTRAINT few CHECK (sold >= 0); ALTER TABLE stock ALTER COLUMN who SET DEFAULT 'nobody'",
      "CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM stock",
      "CREATE TEMPORARY TABLE fleeting (n int); GRANT SELECT ON fleeting TO PUBLIC; DROP TABLE fleeting"};
  return all;
}

class LiveSchema : public LiveTest {
 protected:
  void SetUp() override {
    LiveTest::SetUp();
    if (!IsSkipped()) world.restart_agents(true);
  }
  void TearDown() override {
    LiveTest::TearDown();
    if (!world.usable()) return;
    for (auto* server : {&world.old_server(), &world.new_server()}) server->sql("postgres", "DROP ROLE IF EXISTS newcomer, group_of");
  }
  // In one query message, as psql -c and many drivers do.
  static void run(Server& server, const std::string& sql) {
    const auto done = server.sql("shop", sql);
    EXPECT_FALSE(done.starts_with("ERROR")) << sql << ": " << done;
  }
  // Both sides show the same before long.
  void same(const char* sql, Millis within = Millis(30'000)) {
    std::string old_side, new_side;
    for (const auto deadline = Deadline::in(within); !deadline.expired(); pause_for(Millis(50), {})) {
      old_side = world.old_server().sql("shop", sql, true);
      new_side = world.new_server().sql("shop", sql, true);
      if (old_side == new_side && !old_side.starts_with("ERROR")) return;
    }
    EXPECT_FALSE(old_side.starts_with("ERROR") || new_side.starts_with("ERROR")) << old_side << " / " << new_side;
    EXPECT_EQ(old_side, new_side);
  }
  std::string wait_why(const std::string& kind, const std::string& what) {
    for (const auto deadline = Deadline::in(Millis(30'000)); !deadline.expired(); pause_for(Millis(50), {})) {
      const auto seen = world.observe(kind);
      world.why = seen ? seen->value("why", "") : seen.error().text();
      if (world.why.find(what) != std::string::npos) break;
    }
    return world.why;
  }
};

TEST_F(LiveSchema, WhatIsAddedIsRepeatedAtItsPlaceOnBothRoads) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(follow());
  for (const auto& sql : additive()) run(world.old_server(), sql);
  same(kAll);
  same(kRows);
  ASSERT_TRUE(world.wait_reached("follow", Millis(30'000))) << world.why;
  // The other way round: what new's owner does reaches old.
  Result<Json> switched = retry("not tried");
  for (const auto deadline = Deadline::in(Millis(60'000)); !switched && !deadline.expired(); pause_for(Millis(200), {})) switched = world.apply("switch");
  OK(switched);
  ASSERT_TRUE(world.wait_reached("switch", Millis(30'000))) << world.why;
  for (const auto* sql : {"CREATE TABLE after (id int PRIMARY KEY); INSERT INTO after VALUES (1); ALTER TABLE after ADD COLUMN n int DEFAULT 3", "INSERT INTO after VALUES (2, 4)", "ALTER TABLE stock ADD COLUMN late timestamptz DEFAULT now()",
                          "DROP VIEW seen; ALTER TABLE stock RENAME COLUMN who TO whom", "ALTER TABLE taken ALTER COLUMN sold TYPE bigint", "DROP TABLE part_2"})
    run(world.new_server(), sql);
  same(kAll);
  same(kRows);
  same("SELECT string_agg(x::text, ' ' ORDER BY id) FROM after x");
  ASSERT_TRUE(client.wait_orders(20, Millis(30'000)));
  // And is there when old owns again, with what was written meanwhile.
  Result<Json> back = retry("not tried");
  for (const auto deadline = Deadline::in(Millis(60'000)); !back && !deadline.expired(); pause_for(Millis(200), {})) back = world.undo("switch");
  OK(back);
  run(world.old_server(), "INSERT INTO after VALUES (3, 5); CREATE TABLE again (id int PRIMARY KEY); INSERT INTO again VALUES (1)");
  OK(world.apply("follow"));
  ASSERT_TRUE(world.wait_reached("follow", Millis(30'000))) << world.why;
  same("SELECT (SELECT string_agg(x::text, ' ' ORDER BY id) FROM after x) || (SELECT string_agg(x::text, ' ') FROM again x)");
  ASSERT_TRUE(client.wait_orders(20, Millis(30'000)));
  client.end();
  EXPECT_EQ(client.audit(world.old_server()), "");
}

TEST_F(LiveSchema, WhatCannotBeRepeatedStopsTheStreamBeforeItAndIsSettledByHand) {
  ASSERT_NO_FATAL_FAILURE(follow());
  run(world.old_server(), "INSERT INTO stock VALUES (50, 1)");
  run(world.old_server(), "ALTER TABLE stock ADD COLUMN lot double precision DEFAULT random()");
  run(world.old_server(), "INSERT INTO stock (item, sold) VALUES (51, 1)");
  const auto why = wait_why("follow", "stopped, whole, before");
  EXPECT_NE(why.find("ALTER TABLE (table public.stock): it computes a default for every row anew"), std::string::npos) << why;
  EXPECT_NE(why.find("midstream.settle(0, 1)"), std::string::npos) << why;
  // Nothing behind it came, and nobody is held for a switch that could not be.
  EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FILTER (WHERE item = 50) || ' ' || count(*) FILTER (WHERE item = 51) FROM stock", true), "1 0");
  const auto switched = world.apply("switch");
  ASSERT_FALSE(switched);
  EXPECT_NE(switched.error().text().find("stopped, whole, before"), std::string::npos) << switched.error().text();
  const auto settled = world.new_server().sql(
      "shop", "SET midstream.allow = 'on'; SET session_replication_role = replica; ALTER TABLE stock ADD COLUMN lot double precision DEFAULT random(); SELECT midstream.settle(0, 1)", true);
  ASSERT_FALSE(settled.starts_with("ERROR")) << settled;
  ASSERT_TRUE(world.wait_reached("follow", Millis(30'000))) << world.why;
  same("SELECT count(*) || ' ' || sum(lot) FROM stock WHERE item = 51");
}

TEST_F(LiveSchema, ACommandThatFailsThereIsNamedWithItsReason) {
  ASSERT_NO_FATAL_FAILURE(follow());
  const auto odd = world.new_server().sql("shop", "SET midstream.allow = 'on'; CREATE TABLE clash (n int)", true);
  ASSERT_FALSE(odd.starts_with("ERROR")) << odd;
  run(world.old_server(), "CREATE TABLE clash (id int PRIMARY KEY); INSERT INTO clash VALUES (1)");
  const auto why = wait_why("follow", "stopped, whole, before");
  EXPECT_NE(why.find("relation \"clash\" already exists"), std::string::npos) << why;
  world.new_server().sql("shop", "SET midstream.allow = 'on'; DROP TABLE clash", true);
  EXPECT_TRUE(world.wait_reached("follow", Millis(30'000))) << world.why;
  same("SELECT string_agg(id::text, ' ') FROM clash");
}

// Of role `newcomer`, and of what all have.
constexpr const char* kShared =
    "SELECT concat_ws(' ', (SELECT string_agg(concat_ws(' ', rolname, rolcanlogin, rolconnlimit, rolpassword), ',' ORDER BY rolname) FROM pg_authid WHERE rolname IN ('newcomer', 'group_of', 'client')), "
    "(SELECT string_agg(roleid::regrole || ' ' || member::regrole || admin_option, ',' ORDER BY roleid::regrole::text, member::regrole::text) FROM pg_auth_members WHERE roleid::regrole::text IN "
    "('newcomer', 'group_of', 'shop_owner')), (SELECT string_agg(coalesce(setrole::regrole::text, '') || setconfig::text, ',' ORDER BY setrole::regrole::text) FROM pg_db_role_setting WHERE setdatabase "
    "= 0 OR setdatabase = (SELECT oid FROM pg_database WHERE datname = 'shop')), (SELECT string_agg(a::text, ',' ORDER BY a::text) FROM pg_database, unnest(datacl) a WHERE datname = 'shop' AND "
    "a::text !~ 'midstream'))";

TEST_F(LiveSchema, RolesComeWithTheCommandsThatNeedThemAndInFullBeforeTheSwitch) {
  ASSERT_NO_FATAL_FAILURE(follow());
  auto& old_server = world.old_server();
  old_server.sql("postgres", "CREATE ROLE group_of; CREATE ROLE newcomer LOGIN PASSWORD 'secret-of-newcomer' CONNECTION LIMIT 7 IN ROLE group_of");
  old_server.sql("postgres", "GRANT CREATE ON DATABASE shop TO newcomer; GRANT newcomer TO client WITH ADMIN OPTION; ALTER ROLE newcomer IN DATABASE shop SET work_mem = '6MB'; ALTER DATABASE shop SET "
                             "search_path = pg_catalog, public; ALTER ROLE client PASSWORD 'another-password' CONNECTION LIMIT 40");
  run(old_server, "GRANT SELECT ON stock TO newcomer; SET ROLE newcomer; CREATE SCHEMA of_newcomer; CREATE TABLE of_newcomer.it (id int PRIMARY KEY)");
  same("SELECT relowner::regrole || ' ' || (SELECT rolcanlogin FROM pg_roles WHERE rolname = 'group_of') FROM pg_class WHERE relname = 'it'");
  EXPECT_EQ(world.new_server().sql("postgres", "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'newcomer'", true), "f");
  Result<Json> switched = retry("not tried");
  for (const auto deadline = Deadline::in(Millis(60'000)); !switched && !deadline.expired(); pause_for(Millis(200), {})) switched = world.apply("switch");
  OK(switched);
  EXPECT_NE(switched->dump().find("role client"), std::string::npos) << switched->dump();
  same(kShared);
  world.new_server().sql("postgres", "ALTER ROLE newcomer RENAME TO newcomer_two", true);
  world.new_server().sql("postgres", "ALTER ROLE newcomer_two RENAME TO newcomer; ALTER ROLE newcomer CONNECTION LIMIT 8; REVOKE newcomer FROM client", true);
  Result<Json> back = retry("not tried");
  for (const auto deadline = Deadline::in(Millis(60'000)); !back && !deadline.expired(); pause_for(Millis(200), {})) back = world.undo("switch");
  OK(back);
  same(kShared);
  // Undone, nothing of it is left on new.
  OK(world.undo("follow"));
  OK(world.undo("target"));
  EXPECT_EQ(world.new_server().sql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname IN ('newcomer', 'group_of')"), "0");
}

TEST_F(LiveSchema, BetweenTheSchemaAndTheSnapshotItIsRepeatedBeforeTheCopy) {
  OK(world.apply("source"));
  run(world.old_server(), "CREATE TABLE early (id int PRIMARY KEY); INSERT INTO early VALUES (1)");
  OK(world.apply("target"));
  run(world.old_server(), "CREATE TABLE between (id int PRIMARY KEY); INSERT INTO between VALUES (1); ALTER TABLE early ADD COLUMN lot double precision DEFAULT random()");
  OK(world.apply("follow"));
  ASSERT_TRUE(world.wait_reached("follow", Millis(60'000))) << world.why;
  run(world.old_server(), "INSERT INTO between VALUES (2); INSERT INTO early VALUES (2)");
  same("SELECT (SELECT string_agg(x::text, ' ' ORDER BY id) FROM early x) || (SELECT string_agg(x::text, ' ' ORDER BY id) FROM between x)");
  same(kAll);
}

}  // namespace
}  // namespace midstream::postgres::test
