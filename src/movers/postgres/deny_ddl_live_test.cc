// DDL on a side that does not own its database: what a session makes of temporary objects, in the way of the gate, passes; nothing else
// does, whatever the session has set and however it is put.
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "movers/postgres/live_test.h"

namespace midstream::postgres::test {
namespace {

constexpr const char* kFurnish =
    "GRANT TEMPORARY, CREATE ON DATABASE shop TO client; GRANT CREATE ON SCHEMA public TO client; SET ROLE client; CREATE SCHEMA odd; "
    "CREATE TABLE mine (n int PRIMARY KEY); INSERT INTO mine VALUES (1); "
    "CREATE FUNCTION unset(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('midstream.temporary', 'off', false); RETURN 1; END $$; "
    "CREATE FUNCTION makes(int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN CREATE TABLE by_function (n int); RETURN true; END $$; "
    "CREATE FUNCTION odd.same(text, text) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT true'; "
    "CREATE OPERATOR odd.= (LEFTARG = text, RIGHTARG = text, FUNCTION = odd.same)";
// Everything that the hostile statements are about.
constexpr const char* kState =
    "SELECT (SELECT string_agg(concat_ws(' ', relname, relkind, relacl, relnatts, relhassubclass, obj_description(c.oid, 'pg_class')), ', ' ORDER BY relname) FROM pg_class c WHERE relnamespace = "
    "'public'::regnamespace) || (SELECT coalesce(string_agg(attname || attacl::text, ',' ORDER BY attname), '') FROM pg_attribute WHERE attrelid = 'public.mine'::regclass AND attacl IS NOT NULL) || "
    "(SELECT string_agg(proname || coalesce(proacl::text, ''), ',' ORDER BY proname) FROM pg_proc WHERE pronamespace = 'public'::regnamespace) || (SELECT count(*) FROM public.mine)";

class LiveDdl : public LiveTest {
 protected:
  void SetUp() override {
    LiveTest::SetUp();
    if (IsSkipped()) return;
    const auto done = world.old_server().sql("shop", kFurnish);
    ASSERT_FALSE(done.starts_with("ERROR")) << done;
    ASSERT_NO_FATAL_FAILURE(follow());
  }
  void TearDown() override {
    session_.reset();
    LiveTest::TearDown();
  }
  // As `client` on new, past the fence that keeps it out.
  void begin() {
    Session::Target target;
    target.host = world.new_server().directory();
    target.port = world.new_server().port();
    target.database = "shop";
    target.user = "midstream_autumn-1";
    target.os_user = "postgres";
    target.application = "test";
    auto session = Session::connect(target, Deadline::in(Millis(10'000)), {});
    ASSERT_TRUE(session) << session.error().text();
    session_.emplace(std::move(*session));
    EXPECT_EQ(says("SET SESSION AUTHORIZATION client; SET search_path = public; SET midstream.temporary = 'on'"), "");
  }
  // "" or the SQLSTATE.
  std::string says(const std::string& sql) {
    const auto done = session_->query(sql, {}, Deadline::in(Millis(10'000)), {});
    return done ? "" : done.error().sqlstate;
  }
  static std::string in_do(const std::string& sql) { return fmt::format("DO $do$ BEGIN {}; END $do$", sql); }

  std::optional<Session> session_;
};

TEST_F(LiveDdl, ASessionMakesItsOwnTemporaryObjectsAndNothingElse) {
  ASSERT_NO_FATAL_FAILURE(begin());
  const auto before = world.new_server().sql("shop", kState, true);
  for (const auto* sql :
       {"CREATE TEMPORARY TABLE pg_temp.x (id int GENERATED ALWAYS AS IDENTITY, v text, u int)", "CREATE TEMPORARY SEQUENCE pg_temp.s", "ALTER SEQUENCE pg_temp.s OWNED BY pg_temp.x.u",
        "ALTER TABLE pg_temp.x ADD CONSTRAINT p PRIMARY KEY (id)", "CREATE INDEX i ON pg_temp.x (v)", "GRANT SELECT ON TABLE pg_temp.x TO PUBLIC", "COMMENT ON COLUMN pg_temp.x.v IS 'c'",
        "COMMENT ON CONSTRAINT p ON pg_temp.x IS 'c'", "COMMENT ON INDEX pg_temp.i IS 'c'"})
    EXPECT_EQ(says(in_do(sql)), "") << sql;
  EXPECT_EQ(says("INSERT INTO pg_temp.x (v) VALUES ('a')"), "");
  std::vector<std::string> hostile{
      // Several statements in one query, of which the first is harmless.
      "CREATE TEMPORARY TABLE pg_temp.y (n int); CREATE TABLE public.a (n int)", "COMMENT ON TABLE pg_temp.x IS 'y'; DROP TABLE public.mine",
      "CREATE INDEX j ON public.mine (n); SELECT ' ON pg_temp.'", "GRANT ALL ON public.mine TO PUBLIC; SELECT ' ON TABLE pg_temp.'", "ALTER TABLE pg_temp.x ADD w int; ALTER TABLE public.mine ADD w int",
      in_do("CREATE TEMPORARY TABLE pg_temp.y (n int); CREATE TABLE public.a (n int)"),
      // It would be there before its end is judged.
      "CREATE INDEX CONCURRENTLY j ON public.mine (n)",
      // The setting is off when the command ends; a function of the client's makes more.
      in_do("CREATE INDEX j ON public.mine (unset(n))"), in_do("ALTER TABLE pg_temp.x ADD CONSTRAINT c CHECK (makes(id))"), "SET search_path = odd, pg_catalog; CREATE TABLE public.a (n int)",
      "SET search_path = odd, pg_catalog; DO 'BEGIN CREATE TABLE public.a (n int); END'", "SET search_path = odd, pg_catalog; DELETE FROM public.mine"};
  for (const auto* sql :
       {"CREATE TABLE public.a (n int)", "CREATE TABLE public.a AS SELECT 1", "ALTER TABLE public.mine ADD m int", "ALTER TABLE public.mine RENAME TO yours", "CREATE INDEX ON public.mine (n)",
        "GRANT SELECT ON public.mine TO PUBLIC", "GRANT SELECT (n) ON public.mine TO PUBLIC", "GRANT SELECT ON pg_temp.x, public.mine TO PUBLIC", "GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC",
        "BEGIN GRANT SELECT ON public.mine TO PUBLIC; EXCEPTION WHEN division_by_zero THEN NULL; END", "GRANT EXECUTE ON FUNCTION public.unset(int) TO PUBLIC", "COMMENT ON TABLE public.mine IS 'x'",
        "DROP TABLE public.mine", "TRUNCATE public.mine", "CREATE TEMPORARY TABLE pg_temp.y () INHERITS (public.mine)", "CREATE SEQUENCE public.s", "CREATE VIEW public.v AS SELECT 1",
        "CREATE TEMPORARY TABLE IF NOT EXISTS pg_temp.x (n int)"})
    hostile.push_back(in_do(sql));
  for (const auto& sql : hostile) EXPECT_EQ(says(sql), "25006") << sql;
  EXPECT_EQ(world.new_server().sql("shop", kState, true), before);
  // Who begins it has nobody to judge it: then nothing passes.
  for (const auto* name : {"midstream_end_autumn-1", "midstream_drop_autumn-1"}) {
    world.new_server().sql("shop", fmt::format("ALTER EVENT TRIGGER \"{}\" DISABLE", name), true);
    EXPECT_EQ(says(in_do("CREATE TEMPORARY TABLE pg_temp.z (n int)")), "25006") << name;
    world.new_server().sql("shop", fmt::format("ALTER EVENT TRIGGER \"{}\" ENABLE ALWAYS", name), true);
  }
  EXPECT_EQ(says("RESET midstream.temporary"), "");
  EXPECT_EQ(says(in_do("CREATE TEMPORARY TABLE pg_temp.z (n int)")), "25006");
}

}  // namespace
}  // namespace midstream::postgres::test
