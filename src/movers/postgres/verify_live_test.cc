// Verify on real servers: every kind of fault, planted, is found; on two sides that agree nothing is, while clients write.
#include <algorithm>
#include <cstdlib>
#include <future>

#include "movers/postgres/compare.h"
#include "movers/postgres/live_test.h"
#include "sys/file.h"

namespace midstream::postgres::test {
namespace {

// 200,000; more where a figure is wanted (docs/PERFORMANCE.md).
std::int64_t rows_wanted() {
  const char* said = std::getenv("MIDSTREAM_VERIFY_ROWS");
  return said == nullptr ? 200'000 : std::max(std::atoll(said), 1'000ll);
}

class LiveVerify : public LiveTest {
 protected:
  void SetUp() override {
    LiveTest::SetUp();
    if (IsSkipped()) return;
    // Whatever a text could depend on, otherwise on each side; and types that would show it.
    on_old("CREATE TABLE kinds (id int PRIMARY KEY, m money, f float8, i interval, t timestamptz, b bytea, n numeric, r tstzrange, e text)");
    on_old("INSERT INTO kinds SELECT g, g::money, 1.0 / g, g * interval '1 day 2 hours', 'epoch'::timestamptz + g * interval '7 hours', "
             "decode(md5(g::text), 'hex'), g / 7.0, tstzrange('epoch', now()), CASE g % 3 WHEN 0 THEN '' WHEN 1 THEN NULL ELSE 'x' END FROM "
             "generate_series(1, 2000) g");
    on_old("CREATE TABLE plain (id int PRIMARY KEY, a int8, n numeric, t text, j jsonb, c char(4), at timestamptz, u uuid, b bytea, i interval)");
    on_old("INSERT INTO plain SELECT g, g, g / 4.0, CASE g % 2 WHEN 0 THEN '' END, jsonb_build_object('k', g), 'x', 'epoch'::timestamptz + g * "
             "interval '7 hours', md5(g::text)::uuid, decode(md5(g::text), 'hex'), '1 month'::interval * g FROM generate_series(1, 2000) g");
    on_old("CREATE TABLE pairs (a text COLLATE \"C\", b uuid, v int, PRIMARY KEY (a, b)); INSERT INTO pairs SELECT md5(g::text), "
             "md5(g::text)::uuid, g FROM generate_series(1, 3000) g; CREATE TABLE lonely (v text); ALTER TABLE lonely REPLICA IDENTITY FULL; "
             "INSERT INTO lonely SELECT CASE g WHEN 5 THEN NULL WHEN 6 THEN '' ELSE 'row ' || g / 2 END FROM generate_series(1, 3000) g");
    on_old("CREATE TABLE big (id bigint PRIMARY KEY, grp int, body text NOT NULL, note text)");
    for (std::int64_t first = 1; first <= rows_wanted(); first += 1'000'000)
      on_old(fmt::format("INSERT INTO big SELECT g, g % 97, md5(g::text) || md5((g + 1)::text), CASE WHEN g % 5 = 0 THEN '' END FROM "
                           "generate_series({}, {}) g",
                           first, std::min(first + 999'999, rows_wanted())));
    on_old("VACUUM ANALYZE big");
    on_old("GRANT ALL ON ALL TABLES IN SCHEMA public TO client; SELECT lo_from_bytea(4712, decode(repeat('0123456789abcdef', 200000), 'hex')); "
             "SELECT lo_create(4713); GRANT SELECT ON LARGE OBJECT 4712 TO client; COMMENT ON LARGE OBJECT 4712 IS 'O''Hara\\''s'; INSERT INTO "
             "pg_seclabel SELECT 4712, 'pg_largeobject'::regclass, 0, 'nobody', 'secret'");
  }
  void TearDown() override {
    if (!world.usable()) return;
    (void)world.undo("verify");
    world.set_verify_rows(PostgresOptions{}.verify_rows);
    world.verified_within_ms = 0;
    LiveTest::TearDown();
  }

  // As somebody does who should not.
  void on_new(const std::string& sql) {
    const auto done = world.new_server().sql("shop", "SET session_replication_role = replica; SET midstream.allow = on; " + sql, true);
    EXPECT_FALSE(done.starts_with("ERROR")) << done;
  }
  void follow() {
    ASSERT_NO_FATAL_FAILURE(LiveTest::follow(Millis(600'000)));
    world.new_server().sql("postgres", "ALTER DATABASE shop SET DateStyle = 'SQL, DMY'");
    world.new_server().sql("postgres", "ALTER DATABASE shop SET TimeZone = 'Asia/Tokyo'");
    world.new_server().sql("postgres", "ALTER DATABASE shop SET bytea_output = 'escape'");
    world.new_server().sql("postgres", "ALTER DATABASE shop SET extra_float_digits = 0");
    world.new_server().sql("postgres", "ALTER DATABASE shop SET IntervalStyle = 'iso_8601'");
  }
  // From the start; "" where it came out clean, else what it says.
  std::string verdict() {
    if (const auto undone = world.undo("verify"); !undone) return undone.error().text();
    if (const auto begun = world.apply("verify"); !begun) return begun.error().text();
    std::string said = "no verdict";
    (void)eventually(
        [&] {
          const auto seen = world.observe("verify");
          if (seen && !seen->value("reached", false)) {
            said = "no verdict: " + seen->value("why", "");
            return false;
          }
          said = seen ? "" : seen.error().what;
          return true;
        },
        Millis(600'000));
    return said;
  }
  Progress note() {
    const auto path = world.new_server().directory().parent_path() / "state-beta" / "autumn-1-0.verify";
    const auto text = read_file(path);
    if (!text) return {};
    const auto parsed = parse_json(*text);
    return parsed ? progress_from_json(*parsed).value_or(Progress{}) : Progress{};
  }
};

// Rows that change at every look, of a table with a key and of one without.
class Busy {
 public:
  explicit Busy(World& world) : thread_([&world](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      world.old_server().sql("shop", "DO $$ BEGIN FOR i IN 1..20 LOOP UPDATE public.stock SET sold = sold + 0; UPDATE public.lonely SET v = 'row ' || "
                                     "(random() * 100)::int WHERE ctid = (SELECT ctid FROM public.lonely WHERE v IS NOT NULL LIMIT 1); UPDATE public.big SET grp = "
                                     "grp + 1 WHERE id = 77; DELETE FROM public.pairs WHERE v = 1; INSERT INTO public.pairs VALUES "
                                     "('z', md5(random()::text)::uuid, 1); COMMIT; END LOOP; END $$");
    }
  }) {}

 private:
  std::jthread thread_;
};

TEST_F(LiveVerify, NothingIsFoundOnACleanOneUnderWriteLoad) {
  Client client(world);
  Busy busy(world);
  ASSERT_NO_FATAL_FAILURE(follow());
  for (int round = 0; round < 3; ++round) EXPECT_EQ(verdict(), "") << round;
  EXPECT_EQ(world.new_server().sql("shop", "SELECT md5(lo_get(4712))", true), world.old_server().sql("shop", "SELECT md5(lo_get(4712))"));
  EXPECT_EQ(world.new_server().sql("shop", "SELECT last_value FROM tickets", true), "100") << "carried before the switch";
  // What changes on old is carried, not found.
  on_old("SELECT nextval('tickets'); SELECT lo_put(4712, 5, '\\x99'); SELECT lo_unlink(4713); SELECT lo_from_bytea(4714, 'new'); GRANT UPDATE ON "
           "LARGE OBJECT 4714 TO client; COMMENT ON LARGE OBJECT 4711 IS 'later'");
  EXPECT_EQ(verdict(), "");
  EXPECT_EQ(world.new_server().sql("shop", "SELECT obj_description(4711, 'pg_largeobject')", true), "later");
  EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM pg_largeobject_metadata WHERE oid IN (4711, 4712, 4713, 4714)", true), "3");
}

TEST_F(LiveVerify, CommentsAndLabelsOfLargeObjectsGoOverInTheSwitch) {
  const std::string said = "SELECT concat_ws(' ', obj_description(4711, 'pg_largeobject'), (SELECT label FROM pg_seclabel WHERE objoid = 4711))";
  ASSERT_NO_FATAL_FAILURE(follow());
  EXPECT_EQ(verdict(), "");
  on_old("COMMENT ON LARGE OBJECT 4711 IS 'there'; INSERT INTO pg_seclabel SELECT 4711, 'pg_largeobject'::regclass, 0, 'nobody', 'and labelled'");
  OK(world.apply("switch"));
  EXPECT_EQ(world.new_server().sql("shop", said), "there and labelled");
  EXPECT_EQ(world.new_server().sql("shop", "COMMENT ON LARGE OBJECT 4711 IS 'back'"), "");
  OK(world.undo("switch"));
  EXPECT_EQ(world.old_server().sql("shop", said), "back and labelled");
}

TEST_F(LiveVerify, EachPlantedFaultIsFound) {
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(follow());
  ASSERT_EQ(verdict(), "");
  const auto middle = rows_wanted() / 2;
  struct Fault {
    std::string name, plant, mend, says;
  };
  const std::vector<Fault> faults{
      {"one bit changed", "UPDATE public.kinds SET b = set_bit(b, 77, 1 - get_bit(b, 77)) WHERE id = 999",
       "UPDATE public.kinds SET b = set_bit(b, 77, 1 - get_bit(b, 77)) WHERE id = 999", "public.kinds: 1 rows, with keys (999)"},
      {"one bit of many rows", fmt::format("UPDATE public.big SET body = overlay(body placing chr(ascii(body) # 1) from 1 for 1) WHERE id = {}", middle),
       fmt::format("UPDATE public.big SET body = overlay(body placing chr(ascii(body) # 1) from 1 for 1) WHERE id = {}", middle),
       fmt::format("public.big: 1 rows, with keys ({})", middle)},
      {"a row missing", "DELETE FROM public.logs_1 WHERE day = 3 AND n = 3", "INSERT INTO public.logs_1 VALUES (3, 3)",
       "public.logs_1: 1 rows, with keys (3,3)"},
      {"the last row missing", fmt::format("CREATE TABLE midstream.aside AS SELECT * FROM public.big WHERE id = {0}; DELETE FROM public.big WHERE id = {0}", rows_wanted()),
       "INSERT INTO public.big SELECT * FROM midstream.aside; DROP TABLE midstream.aside", fmt::format("public.big: 1 rows, with keys ({})", rows_wanted())},
      {"a row too many", "INSERT INTO public.big VALUES (-5, 0, 'x', NULL)", "DELETE FROM public.big WHERE id = -5", "public.big: 1 rows, with keys (-5)"},
      {"NULL for an empty string", "UPDATE public.kinds SET e = NULL WHERE id = 999", "UPDATE public.kinds SET e = '' WHERE id = 999",
       "public.kinds: 1 rows, with keys (999)"},
      {"the same number with another scale", "UPDATE public.plain SET n = n + 0.00000000000000000000 WHERE id = 8", "UPDATE public.plain SET n = trim_scale(n) + 0.0000000000000000 WHERE id = 8",
       "public.plain: 1 rows, with keys (8)"},
      {"halves of a number exchanged", "UPDATE public.plain SET a = 7::int8 << 32 WHERE id = 7", "UPDATE public.plain SET a = 7 WHERE id = 7",
       "public.plain: 1 rows, with keys (7)"},
      {"NULL for an empty string, by binary form", "UPDATE public.plain SET t = NULL WHERE id = 8", "UPDATE public.plain SET t = '' WHERE id = 8",
       "public.plain: 1 rows, with keys (8)"},
      {"another key", "UPDATE public.pairs SET a = a || 'x' WHERE v = 42", "UPDATE public.pairs SET a = rtrim(a, 'x') WHERE v = 42", "public.pairs: 2 rows, with keys"},
      {"a row twice where there is no key", "INSERT INTO public.lonely VALUES ('row 9')", "DELETE FROM public.lonely WHERE ctid = (SELECT max(ctid) FROM public.lonely)",
       "public.lonely: 1 rows, with keys (\"row 9\")"},
      {"NULL for an empty string where there is no key", "UPDATE public.lonely SET v = NULL WHERE v = ''",
       "UPDATE public.lonely SET v = '' WHERE ctid = (SELECT max(ctid) FROM public.lonely)", "public.lonely: 2 rows, with keys"},
      {"a sequence behind", "SELECT setval('public.tickets', 100, false)", "SELECT setval('public.tickets', 100, true)", "sequences: 1 rows, with keys public.tickets"},
      {"a large object changed", "SELECT lo_put(4712, 100000, '\\x00')", "SELECT lo_put(4712, 100000, '\\x01')", "large objects: 1 rows, with keys 4712"},
      {"a large object missing", "SELECT lo_unlink(4713)", "SELECT lo_create(4713); ALTER LARGE OBJECT 4713 OWNER TO postgres", "large objects: 1 rows, with keys 4713"},
      {"a large object too many", "SELECT lo_create(4799)", "SELECT lo_unlink(4799)", "large objects: 1 rows, with keys 4799"},
      {"a large object of another role", "ALTER LARGE OBJECT 4711 OWNER TO client", "ALTER LARGE OBJECT 4711 OWNER TO shop_owner",
       "large objects: 1 rows, with keys 4711"},
      {"a comment lost", "COMMENT ON LARGE OBJECT 4712 IS NULL", "COMMENT ON LARGE OBJECT 4712 IS 'O''Hara\\''s'", "large objects: 1 rows, with keys 4712"},
      {"a label lost", "DELETE FROM pg_seclabel", "INSERT INTO pg_seclabel SELECT 4712, 'pg_largeobject'::regclass, 0, 'nobody', 'secret'",
       "large objects: 1 rows, with keys 4712"},
      {"rights lost", "REVOKE SELECT ON LARGE OBJECT 4712 FROM client", "GRANT SELECT ON LARGE OBJECT 4712 TO client", "large objects: 1 rows, with keys 4712"},
  };
  for (const auto& fault : faults) {
    on_new(fault.plant);
    const auto said = verdict();
    EXPECT_NE(said.find(fault.says), std::string::npos) << fault.name << ": " << said;
    EXPECT_EQ(std::ranges::count(said, ';'), 0) << fault.name << ", and nothing else: " << said;
    on_new(fault.mend);
  }
  EXPECT_EQ(verdict(), "") << "all is mended";
}

TEST_F(LiveVerify, GoesOnWhereItsAgentDied) {
  world.set_verify_rows(1'000);
  world.restart_agents(false);
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(follow());
  OK(world.apply("verify"));
  ASSERT_TRUE(eventually([&] { return note().in_table && note().table == "public.big"; }));
  world.restart_agents(false);
  const auto before = note();
  ASSERT_TRUE(before.running) << "it was over before it could be stopped: nothing is tested";
  ASSERT_FALSE(before.after.is_null());
  OK(world.apply("verify"));
  ASSERT_TRUE(world.wait_reached("verify", Millis(60'000))) << world.why;
  const auto after = note();
  EXPECT_EQ(after.began_ms, before.began_ms) << "it is the same comparison";
  EXPECT_GE(after.rows, rows_wanted());
  EXPECT_LT(after.rows, rows_wanted() + 50'000) << "no row twice";
}

TEST_F(LiveVerify, TheSwitchAsksForACleanVerdictAndNothingIsComparedWhileItHolds) {
  world.set_verify_rows(1'000);
  world.restart_agents(false);
  Client client(world);
  ASSERT_NO_FATAL_FAILURE(follow());
  world.verified_within_ms = 3'600'000;
  const auto early = world.apply("switch");
  ASSERT_FALSE(early);
  EXPECT_EQ(early.error().kind, ErrorKind::retry);
  EXPECT_NE(early.error().what.find("were not found equal within the last 3600 s"), std::string::npos) << early.error().what;
  ASSERT_EQ(verdict(), "");
  on_new("UPDATE public.kinds SET f = 3 WHERE id = 5");
  EXPECT_NE(verdict(), "");
  EXPECT_FALSE(world.apply("switch")) << "what differs is not handed over";
  on_new("UPDATE public.kinds SET f = 1.0 / 5 WHERE id = 5");
  ASSERT_EQ(verdict(), "");
  // Another one is under way when it begins.
  OK(world.undo("verify"));
  world.verified_within_ms = 0;
  OK(world.apply("verify"));
  ASSERT_TRUE(eventually([&] { return note().in_table; }));
  std::string seen = "?";
  world.once_at("give.fenced", [&] {
    seen.clear();
    for (auto* server : {&world.old_server(), &world.new_server()})
      seen += server->sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle' AND query LIKE '%midstream_row%' AND pid <> pg_backend_pid()");
  });
  OK(world.apply("switch"));
  EXPECT_EQ(seen, "00");
  ASSERT_TRUE(world.wait_reached("switch", Millis(10'000))) << world.why;
  ASSERT_TRUE(client.wait_orders(5, Millis(10'000)));
  // From the new owner's side, towards old.
  EXPECT_EQ(verdict(), "");
  client.end();
  EXPECT_EQ(client.audit(world.new_server()), "");
}

// Beside the plainest way to hash the same rows on both servers at once. A figure only with more rows than here by default.
TEST_F(LiveVerify, TakesLittleLongerThanABareHash) {
  ASSERT_NO_FATAL_FAILURE(follow());
  const auto bare = [&] {
    const auto hash = [](Server& server) {
      Session::Target target;
      target.host = server.directory();
      target.port = server.port();
      target.database = "shop";
      target.user = "midstream_autumn-1";
      target.os_user = "postgres";
      auto session = Session::connect(target, Deadline::in(Millis(10'000)), {});
      if (!session) return session.error().text();
      const auto rows = session->run("SELECT count(*) || ' ' || sum(hashtextextended(t::text, 1)) FROM ONLY public.big t", {}, Deadline::in(Millis(600'000)), {});
      return rows ? rows->text(0, 0) : rows.error().text();
    };
    auto there = std::async(std::launch::async, [&] { return hash(world.new_server()); });
    const auto here = hash(world.old_server());
    EXPECT_EQ(here, there.get());
    EXPECT_TRUE(here.starts_with(std::to_string(rows_wanted()) + " ")) << here;
  };
  std::vector<std::int64_t> bare_ms, verify_ms;
  const char* wanted = std::getenv("MIDSTREAM_VERIFY_ROUNDS");
  const int rounds = wanted == nullptr ? 3 : std::max(std::atoi(wanted), 1);
  for (int round = 0; round < rounds; ++round) {
    const auto start = boot_now();
    bare();
    bare_ms.push_back(std::chrono::duration_cast<Millis>(boot_now() - start).count());
    ASSERT_EQ(verdict(), "");
    verify_ms.push_back(note().took_ms);
    EXPECT_GE(note().rows, rows_wanted());
  }
  std::ranges::sort(bare_ms);
  std::ranges::sort(verify_ms);
  const auto bare_took = bare_ms[bare_ms.size() / 2], verify_took = verify_ms[verify_ms.size() / 2];
  fmt::print("{} rows: two bare hashes at once {} ms, verify {} ms, ratio {:.2f}\n", rows_wanted(), bare_took, verify_took,
             static_cast<double>(verify_took) / static_cast<double>(bare_took));
}

}  // namespace
}  // namespace midstream::postgres::test
