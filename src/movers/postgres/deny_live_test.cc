// The triggers that deny writes on a side that does not own its database, against a session that has prepared for them.

#include "movers/postgres/live_test.h"

namespace midstream::postgres::test {
namespace {

// `=` of texts is always true there.
constexpr const char* kOddOperator =
    "CREATE SCHEMA odd; GRANT USAGE ON SCHEMA odd TO PUBLIC; CREATE FUNCTION odd.same(text, text) RETURNS bool IMMUTABLE LANGUAGE sql AS 'SELECT true'; "
    "CREATE OPERATOR odd.= (LEFTARG = text, RIGHTARG = text, FUNCTION = odd.same)";

using LiveDeny = LiveTest;

TEST_F(LiveDeny, AnOperatorOfTheSessionsOwnOpensNothing) {
  on_old(kOddOperator);
  ASSERT_NO_FATAL_FAILURE(follow());
  Session::Target target;
  target.host = world.new_server().directory();
  target.port = world.new_server().port();
  target.database = "shop";
  target.user = "midstream_autumn-1";  // past the fence that keeps everybody else out, with nothing allowed
  target.os_user = "postgres";
  target.application = "test";
  auto session = Session::connect(target, Deadline::in(Millis(10'000)), {});
  ASSERT_TRUE(session) << session.error().text();
  const auto says = [&](const std::string& sql) {
    const auto done = session->query(sql, {}, Deadline::in(Millis(10'000)), {});
    return done ? std::string() : done.error().sqlstate;
  };
  EXPECT_EQ(says("SET search_path = odd, pg_catalog, public"), "");
  EXPECT_EQ(says("DELETE FROM public.stock"), "25006");
  EXPECT_EQ(says("CREATE TABLE public.slipped (n int)"), "25006");
  EXPECT_EQ(says("SET midstream.allow = 'of course'; DELETE FROM public.stock"), "25006");
}

}  // namespace
}  // namespace midstream::postgres::test
