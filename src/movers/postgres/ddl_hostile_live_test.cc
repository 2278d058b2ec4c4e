// DDL of somebody who means harm, or of an application that does what one may do: it gives nobody rights on the other side, leaves nothing
// set for the rows of others, and costs the owner's users nothing that they could do before.
#include "movers/postgres/live_test.h"

namespace midstream::postgres::test {
namespace {

class LiveHostile : public LiveTest {
 protected:
  void SetUp() override {
    LiveTest::SetUp();
    if (IsSkipped()) return;
    world.old_server().sql("postgres", "CREATE ROLE evil LOGIN; CREATE ROLE other LOGIN");
    on_old("CREATE SCHEMA ev AUTHORIZATION evil; CREATE SCHEMA oth AUTHORIZATION other; CREATE TABLE pay (id int PRIMARY KEY); INSERT INTO pay VALUES (1)");
    ASSERT_NO_FATAL_FAILURE(follow());
  }
  void TearDown() override {
    if (world.usable()) (void)world.undo("verify");
    LiveTest::TearDown();
    if (!world.usable()) return;
    for (auto* server : {&world.old_server(), &world.new_server()}) server->sql("postgres", "DROP ROLE IF EXISTS evil, other, pwned");
  }
  void as(const std::string& role, const std::string& sql) { on_old(fmt::format("SET SESSION AUTHORIZATION {}; {}", role, sql)); }
  void same(const std::string& sql) {
    std::string here, there;
    (void)eventually([&] {
      here = world.old_server().sql("shop", sql, true);
      there = world.new_server().sql("shop", sql, true);
      return here == there;
    });
    EXPECT_EQ(here, there) << sql;
    EXPECT_FALSE(here.starts_with("ERROR")) << here;
    EXPECT_FALSE(here.empty()) << sql;
  }
  // What was done is there, and the sides are as like each other as a switch wants them.
  void switches() {
    ASSERT_TRUE(world.wait_reached("follow", Millis(30'000))) << world.why;
    ASSERT_NO_FATAL_FAILURE(verify());
    OK(world.apply("switch"));
  }
};

TEST_F(LiveHostile, NobodyWritesDownWhatHeHasNotDone) {
  const auto denied = [&](const std::string& sql) {
    const auto done = world.old_server().sql("shop", "SET SESSION AUTHORIZATION evil; " + sql);
    EXPECT_NE(done.find("permission denied"), std::string::npos) << sql << ": " << done;
  };
  denied("INSERT INTO midstream.ddl (role, tag, about, settings) VALUES ('evil', 'X', '', '{}')");
  denied("INSERT INTO midstream.ddl (tag, about, command, settings, roles) VALUES ('X', '', 'SELECT 1', '{}', '[[\"evil\", [\"postgres\"], true, true]]')");
  denied("INSERT INTO midstream.acting (role) VALUES ('postgres')");
  denied("INSERT INTO midstream.settled VALUES (0, 1)");
  denied("SELECT midstream.settle(0, 1)");
  denied("SELECT midstream.adopt_tables(true)");
  denied("SELECT midstream.record('postgres', 'ddl_command_end', 'CREATE TABLE', '', 'public', 0)");
  // Notes of himself that nobody asked for make nobody else of who comes after him, nor him of anybody.
  as("evil", "INSERT INTO midstream.acting (mark) VALUES (1), (2); CREATE TABLE ev.one (id int PRIMARY KEY); INSERT INTO midstream.acting (mark) VALUES (3)");
  on_old("CREATE TABLE two (id int PRIMARY KEY)");
  EXPECT_EQ(world.old_server().sql("shop", "SELECT string_agg(role || ' ' || split_part(about, ',', 1), ', ' ORDER BY n) FROM midstream.ddl"), "evil table ev.one, postgres table public.two");
  same("SELECT string_agg(relname || pg_get_userbyid(relowner), ' ' ORDER BY relname) FROM pg_class WHERE relname IN ('one', 'two')");
}

TEST_F(LiveHostile, FunctionsInFrontOfTheServersOwnGainNothing) {
  as("evil", "CREATE FUNCTION ev.set_config(text, text, boolean) RETURNS text LANGUAGE plpgsql AS $$BEGIN EXECUTE 'CREATE ROLE pwned SUPERUSER'; RETURN pg_catalog.set_config($1, $2, $3); END$$;"
             "CREATE FUNCTION ev.jsonb_each_text(jsonb, OUT key text, OUT value text) RETURNS SETOF record LANGUAGE plpgsql AS $$BEGIN EXECUTE 'CREATE ROLE pwned SUPERUSER'; END$$");
  as("evil", "CREATE FUNCTION ev.yes(text, text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN EXECUTE 'CREATE ROLE pwned SUPERUSER'; RETURN $1 OPERATOR(pg_catalog.=) $2; END$$;"
             "CREATE OPERATOR ev.= (LEFTARG = text, RIGHTARG = text, FUNCTION = ev.yes); CREATE OPERATOR ev.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = ev.yes)");
  as("evil", "SET search_path = ev, pg_catalog, public; CREATE TABLE bt (id int PRIMARY KEY)");
  as("evil", "SET search_path = midstream, ev, public; CREATE TABLE ev.ct (id int PRIMARY KEY)");
  same("SELECT string_agg(relname || pg_get_userbyid(relowner), ' ' ORDER BY relname) FROM pg_class WHERE relname IN ('bt', 'ct')");
  for (auto* server : {&world.old_server(), &world.new_server()}) EXPECT_EQ(server->sql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'pwned'"), "0");
  switches();
}

TEST_F(LiveHostile, WhatACommandLeavesSetIsNotThereForTheRowsOfOthers) {
  as("other", "CREATE TABLE oth.lists (id int PRIMARY KEY, v text[])");
  as("evil", "CREATE FUNCTION ev.leak(int) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN PERFORM set_config('array_nulls', 'off', false), set_config('search_path', 'ev', false), "
             "set_config('midstream.before_copy', 'on', false), set_config('lock_timeout', '1ms', false); RETURN true; END$$;"
             "CREATE TABLE ev.lt (id int PRIMARY KEY); INSERT INTO ev.lt VALUES (1)");
  as("evil", "ALTER TABLE ev.lt ADD CHECK (ev.leak(id))");
  as("other", "INSERT INTO oth.lists VALUES (2, ARRAY['x', NULL])");
  same("SELECT v::text || coalesce(v[2], 'none') FROM oth.lists");
  // A command that computes rows anew still stops: nothing has told that a copy is to come.
  on_old("ALTER TABLE pay ADD COLUMN lot double precision DEFAULT random()");
  EXPECT_TRUE(eventually([&] { return world.observe("follow").value_or(Json::object()).value("why", "").find("stopped, whole, before") != std::string::npos; }));
}

TEST_F(LiveHostile, ATriggerThatTheStreamWouldFireIsMadeByNobody) {
  as("evil", "CREATE TABLE ev.tt (id int PRIMARY KEY); CREATE FUNCTION ev.g() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN EXECUTE 'CREATE ROLE pwned SUPERUSER'; RETURN NULL; END$$;"
             "CREATE TRIGGER g AFTER INSERT ON ev.tt FOR EACH ROW EXECUTE FUNCTION ev.g()");
  as("evil", "ALTER TABLE ev.tt ENABLE REPLICA TRIGGER g");
  as("evil", "INSERT INTO ev.tt VALUES (1)");
  EXPECT_TRUE(eventually([&] { return world.observe("follow").value_or(Json::object()).value("why", "").find("ENABLE ALWAYS or REPLICA") != std::string::npos; }));
  EXPECT_EQ(world.new_server().sql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname = 'pwned'"), "0");
}

TEST_F(LiveHostile, WhatUsersMayDoTheyStillMay) {
  // A key that goes: rows can be changed and removed as before.
  on_old("CREATE TABLE k1 (id int PRIMARY KEY, v int); INSERT INTO k1 VALUES (1, 1), (2, 2); CREATE TABLE k2 (id int NOT NULL, v int); CREATE UNIQUE INDEX k2_id ON k2 (id);"
         "ALTER TABLE k2 REPLICA IDENTITY USING INDEX k2_id; INSERT INTO k2 VALUES (1, 1), (2, 2); CREATE TABLE k3 (id int PRIMARY KEY, v int); INSERT INTO k3 VALUES (1, 1), (2, 2)");
  on_old("ALTER TABLE k1 DROP CONSTRAINT k1_pkey");
  on_old("DROP INDEX k2_id");
  on_old("ALTER TABLE k3 DROP COLUMN id");
  for (const char* table : {"k1", "k2", "k3"}) on_old(fmt::format("UPDATE {0} SET v = 7 WHERE v = 1; DELETE FROM {0} WHERE v = 2", table));
  // Rows of CREATE TABLE AS in a transaction that is prepared; by a role that may make no temporary table.
  world.old_server().sql("postgres", "REVOKE TEMPORARY ON DATABASE shop FROM PUBLIC");
  on_old("BEGIN; CREATE TABLE g1 AS SELECT 1 AS a, 'x'::text AS b; PREPARE TRANSACTION 'p1'");
  on_old("COMMIT PREPARED 'p1'");
  as("other", "CREATE TABLE oth.g2 AS SELECT n FROM generate_series(1, 3) n");
  // Words that only look like a command's; several in one query, and one that no event tells of.
  on_old("CREATE TABLE ce (id int PRIMARY KEY, mode text DEFAULT 'CONCURRENTLY'); COMMENT ON TABLE ce IS 'REFRESH CONCURRENTLY x'; CREATE INDEX ce_mode ON ce (mode); INSERT INTO ce VALUES (1)");
  on_old("DROP INDEX CONCURRENTLY ce_mode");
  on_old("ALTER TABLE ce ADD a int; REINDEX TABLE ce; ALTER TABLE ce ADD b int; ALTER TABLE ce ADD c int");
  on_old("SELECT lo_create(4799)");
  on_old("GRANT SELECT ON LARGE OBJECT 4799 TO other");
  on_old("CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10); INSERT INTO part VALUES (1)");
  on_old("ALTER TABLE part DETACH PARTITION part_1");
  same("SELECT (SELECT string_agg(v::text, ' ') FROM k1) || (SELECT string_agg(v::text, ' ') FROM k2) || (SELECT string_agg(v::text, ' ') FROM k3)");
  same("SELECT (SELECT string_agg(x::text, ' ') FROM g1 x) || (SELECT string_agg(x::text, ' ' ORDER BY n) FROM oth.g2 x) || (SELECT string_agg(x::text, ' ') FROM ce x) || "
       "obj_description('ce'::regclass) || (SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE adrelid = 'ce'::regclass) || (SELECT count(*) FROM pg_inherits WHERE inhparent = 'part'::regclass)");
  switches();
}

TEST_F(LiveHostile, ATableWhoseRowsCannotBeToldApartIsNamed) {
  on_old("CREATE TABLE doc (a json, v int)");
  EXPECT_TRUE(eventually([&] { return world.observe("follow").value_or(Json::object()).value("why", "").find("could not be told apart") != std::string::npos; }));
}

TEST_F(LiveHostile, ADetachThatLeavesAConstraintIsNamed) {
  on_old("CREATE TABLE part (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10)");
  on_old("ALTER TABLE part DETACH PARTITION part_1 CONCURRENTLY");
  EXPECT_TRUE(eventually([&] { return world.observe("follow").value_or(Json::object()).value("why", "").find("leaves a constraint") != std::string::npos; }));
}

}  // namespace
}  // namespace midstream::postgres::test
