// The gate's switch between two real PostgreSQL 15 with real clients: nothing that belongs to a session is missed on the other
// side, nothing fails, and who cannot go is named. The titles are flipped by the test, as the postgres mover does it.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <libpq-fe.h>
#include <poll.h>
#include <pwd.h>
#include <signal.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <memory>
#include <set>
#include <thread>

#include "base/json.h"
#include "base/text.h"
#include "gate/gate.h"
#include "gate/live_client.h"
#include "gate/live_server.h"
#include "sys/child.h"
#include "sys/clock.h"
#include "sys/net.h"
#include "sys/stream.h"

namespace midstream::gate {
namespace {

namespace fs = std::filesystem;
using namespace std::literals;
constexpr int kGatePort = 6432;

// Two servers with one title, and the gate before them.
class World {
 public:
  static World& get() {
    static World world;
    return world;
  }
  const std::string& trouble() const { return trouble_; }
  LiveServer& server(const std::string& label) { return label == "old" ? *old_ : *new_; }
  std::string info(const std::string& more = "") const {
    return fmt::format("host=127.0.0.1 port={} user=app dbname=app password=w0rd sslmode=disable {}", kGatePort, more);
  }
  Json ask(Json request) {
    request["database"] = "app";
    auto answer = ask_gate(root_ / "gate.sock", request);
    return answer ? *answer : Json{{"failed", answer.error().text()}};
  }
  Json sessions() { return ask({{"verb", "sessions"}})["sessions"]; }
  void title(const std::string& label, const char* state) {
    EXPECT_EQ(server(label).sql(fmt::format("UPDATE midstream.owner SET state = '{}'", state), "app").code, 0);
  }
  // Waits until everybody who can is ready to go; the last answer.
  Json prepared(const std::string& to, Millis within = Millis(20'000)) {
    auto ready = ask({{"verb", "prepare"}, {"to", to}, {"for_ms", 60'000}});
    for (const auto deadline = Deadline::in(within); !deadline.expired(); pause_for(Millis(10), {})) {
      ready = ask({{"verb", "ready"}, {"to", to}});
      const auto waits = [](const Json& one) { return one.value("why", "").find("yet") != std::string::npos && one.value("why", "") != "it is not held yet"; };
      if (!ready.contains("in_the_way") || std::ranges::none_of(ready["in_the_way"], waits)) break;
    }
    return ready;
  }
  Json close(const std::string& to, int within_ms = 2'000, int for_ms = 5'000) {
    return ask({{"verb", "close"}, {"to", to}, {"for_ms", for_ms}, {"within_ms", within_ms}});
  }
  // As the postgres mover does it: hold, close, keep, yield, own, go over.
  Json go(const std::string& to) {
    const std::string from = to == "old" ? "new" : "old";
    prepared(to);
    auto closed = close(to);
    if (closed.contains("failed")) return closed;
    title(from, "closing");
    const auto kept = ask({{"verb", "keep"}, {"to", to}});
    if (kept.contains("failed")) return title(from, "owner"), kept;
    title(from, "yielded");
    title(to, "owner");
    auto over = ask({{"verb", "over"}, {"to", to}});
    over["close_ms"] = closed["ms"];
    return over;
  }
  // From old to new, between close and over.
  void hand_over() {
    title("old", "closing");
    ASSERT_FALSE(ask({{"verb", "keep"}, {"to", "new"}}).contains("failed"));
    title("old", "yielded");
    title("new", "owner");
  }
  Json go_when_possible(const std::string& to) {
    for (const auto deadline = Deadline::in(Millis(30'000));; pause_for(Millis(20), {})) {
      auto gone = go(to);
      if (!gone.contains("failed") || deadline.expired()) return gone;
    }
  }
  void home() {
    if (server("old").value("SELECT state FROM midstream.owner", "app") == "owner") return;
    const auto gone = go_when_possible("old");
    EXPECT_FALSE(gone.contains("failed")) << gone.dump();
  }
  void start_gate() {
    auto child = Child::start({"setpriv", "--pdeathsig", "KILL", MIDSTREAM_PROGRAM, "gate", root_ / "gate.yaml"});
    if (!child) return;
    gate_.emplace(std::move(*child));
    const auto deadline = Deadline::in(Millis(20'000));
    while (!connect_tcp("127.0.0.1", kGatePort, deadline))
      if (deadline.expired() || !pause_for(Millis(10), {})) trouble_ = "the gate does not start";
  }
  // Every process of a server stands still, or goes on: it neither answers nor refuses.
  void freeze(const std::string& label, bool on) {
    const auto pid = server(label).postmaster();
    const std::string signal = on ? "-STOP" : "-CONT";
    (void)run_program({"kill", signal, pid});
    (void)run_program({"pkill", signal, "-P", pid});
  }
  void kill_gate(int signal) { ::kill(gate_->pid(), signal); }
  void replace_gate() {
    kill_gate(SIGKILL);
    gate_.reset();
    start_gate();
  }
  ~World() {
    gate_.reset();
    old_.reset();
    new_.reset();
    if (!root_.empty()) fs::remove_all(root_);
  }

 private:
  World() {
    trouble_ = cannot_run_live();
    if (!trouble_.empty()) return;
    std::string name = (fs::temp_directory_path() / "midstream-switch-XXXXXX").string();
    root_ = ::mkdtemp(name.data());
    const auto* user = ::getpwnam("postgres");
    if (::chown(root_.c_str(), user->pw_uid, user->pw_gid) != 0) trouble_ = "chown";
    fs::permissions(root_, fs::perms::others_exec | fs::perms::others_read, fs::perm_options::add);
    old_ = std::make_unique<LiveServer>(root_, "old", 5432, std::vector<std::string>{"fsync=off", "max_connections=400"});
    new_ = std::make_unique<LiveServer>(root_, "new", 5433, std::vector<std::string>{"fsync=off", "max_connections=400"});
    furnish("old", "owner", "");
    furnish("new", "standby", old_->value("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'"));
    std::ofstream(root_ / "looker") << "l00ker\n";
    std::ofstream(root_ / "gate.yaml") << fmt::format(
        "listen: 127.0.0.1:{1}\ncontrol: {0}/gate.sock\nservers:\n  old: {{ host: 127.0.0.1, port: 5432 }}\n  new: {{ host: 127.0.0.1, port: 5433 }}\n"
        "databases: app\nlookup: {{ user: looker, password_file: {0}/looker }}\n", root_.string(), kGatePort);
    start_gate();
  }
  // Roles are carried with their verifiers; the looker has one password on both sides.
  void furnish(const std::string& label, const char* state, const std::string& verifier) {
    auto& here = server(label);
    if (const auto failed = here.start(); !failed.empty()) trouble_ = failed;
    for (const auto& sql : {fmt::format("CREATE ROLE app LOGIN PASSWORD '{}'", verifier.empty() ? "w0rd" : verifier), "CREATE ROLE teller"s, "GRANT teller TO app"s,
                            "CREATE ROLE looker LOGIN SUPERUSER PASSWORD 'l00ker'"s, "CREATE DATABASE app OWNER app"s})
      if (const auto done = here.sql(sql); done.code != 0) trouble_ = done.err;
    const auto done = here.sql(fmt::format(
        "CREATE SCHEMA midstream; GRANT USAGE ON SCHEMA midstream TO PUBLIC; CREATE TABLE midstream.owner (state text); GRANT SELECT ON midstream.owner TO PUBLIC;"
        "INSERT INTO midstream.owner VALUES ('{}');"
        "CREATE TABLE ledger (client int, n int); GRANT ALL ON ledger TO app, teller;"
        "CREATE FUNCTION deny() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF (SELECT state FROM midstream.owner) <> 'owner' THEN RAISE 'not the owner'; "
        "END IF; RETURN NULL; END $$; CREATE TRIGGER deny BEFORE INSERT ON ledger FOR EACH STATEMENT EXECUTE FUNCTION deny()", state), "app");
    if (done.code != 0) trouble_ = done.err;
  }

  fs::path root_;
  std::string trouble_;
  std::unique_ptr<LiveServer> old_, new_;
  std::optional<Child> gate_;
};

class Switch : public testing::Test {
 protected:
  void SetUp() override {
    if (!World::get().trouble().empty()) GTEST_SKIP() << World::get().trouble();
    world.home();
  }
  World& world = World::get();
};

TEST_F(Switch, CarriesEverythingThatBelongsToASession) {
  Client client(world.info("options='-c work_mem=3MB'"));
  for (const auto* sql : {"SET application_name = 'till'", "SET TimeZone = 'Asia/Tokyo'", "SET search_path = public, pg_temp", "SET app.tenant = 'o''brien \\ co'",
                          "SELECT set_config('app.mode', 'fast', false)", "SET statement_timeout = '77s'", "PREPARE answer (int) AS SELECT $1 + 1",
                          "SELECT pg_advisory_lock(5000000001)", "SELECT pg_advisory_lock_shared(-3, -4)", "LISTEN \"News Flash\"", "SET ROLE teller"})
    client.run(sql);
  PQclear(PQprepare(client.get(), "by name", "SELECT $1::text || '!'", 0, nullptr));
  PQclear(PQprepare(client.get(), "", "SELECT 'unnamed ' || $1::int", 0, nullptr));
  ASSERT_EQ(client.prepared("", {"1"}), "unnamed 1");
  const auto over = world.go("new");
  ASSERT_EQ(over.value("moved", -1), 1) << over.dump();
  EXPECT_TRUE(over.value("ended", Json::array()).empty()) << over.dump();
  EXPECT_EQ(client.prepared("", {"2"}), "unnamed 2");
  EXPECT_EQ(client.run("SELECT generic_plans || ' ' || custom_plans FROM pg_prepared_statements WHERE name = 'by name'"), "1 0")
      << "planned there before the switch, and not run";
  EXPECT_EQ(client.prepared("by name", {"hello"}), "hello!");
  for (const auto& [sql, wanted] : std::vector<std::pair<const char*, const char*>>{
           {"SELECT inet_server_port()", "5433"}, {"SHOW work_mem", "3MB"}, {"SHOW TimeZone", "Asia/Tokyo"}, {"SHOW search_path", "public, pg_temp"},
           {"SHOW app.tenant", "o'brien \\ co"}, {"SHOW app.mode", "fast"}, {"SHOW statement_timeout", "77s"}, {"EXECUTE answer (41)", "42"},
           {"SELECT current_user", "teller"}, {"SELECT session_user", "app"}, {"SELECT pg_listening_channels()", "News Flash"}})
    EXPECT_EQ(client.run(sql), wanted) << sql;
  EXPECT_EQ(client.told("application_name"), "till");
  EXPECT_EQ(client.told("TimeZone"), "Asia/Tokyo");
  const auto* locks = "SELECT string_agg(format('%s %s %s %s', classid, objid, objsubid, mode), ', ' ORDER BY objsubid) FROM pg_locks WHERE locktype = 'advisory'";
  EXPECT_EQ(world.server("new").value(locks, "app"), "1 705032705 1 ExclusiveLock, 4294967293 4294967292 2 ShareLock");
  EXPECT_EQ(client.run("SELECT pg_advisory_unlock(5000000001)"), "t");
  EXPECT_EQ(client.run("SELECT pg_advisory_unlock_shared(-3, -4)"), "t");
  EXPECT_EQ(client.run("RESET work_mem"), "RESET");
  EXPECT_EQ(client.run("SHOW work_mem"), "3MB") << "what the client asked for at its start is the default of its session";
  // And nothing of it is left where it was.
  const auto left = [&] { return world.server("old").value("SELECT count(*) FROM pg_stat_activity WHERE usename = 'app'", "app"); };
  for (const auto deadline = Deadline::in(Millis(10'000)); left() != "0" && !deadline.expired();) pause_for(Millis(20), {});
  EXPECT_EQ(left(), "0");
  EXPECT_EQ(world.ask({{"verb", "ready"}, {"to", "new"}}).value("leaving", -1), 0);
}

TEST_F(Switch, WhatChangesAfterThePreparationIsCarriedToo) {
  Client client(world.info());
  client.run("SET app.tenant = 'first'");
  client.run("SELECT pg_advisory_lock(1)");
  world.prepared("new");
  client.run("SET app.tenant = 'second'");
  client.run("SELECT pg_advisory_unlock(1)");
  client.run("SELECT pg_advisory_lock(2)");
  client.run("PREPARE late AS SELECT 7");
  const auto over = world.go("new");
  ASSERT_EQ(over.value("moved", -1), 1) << over.dump();
  EXPECT_EQ(client.run("SHOW app.tenant"), "second");
  EXPECT_EQ(client.run("EXECUTE late"), "7");
  EXPECT_EQ(world.server("new").value("SELECT string_agg(objid::text, ',') FROM pg_locks WHERE locktype = 'advisory'", "app"), "2");
}

TEST_F(Switch, WhatChangesAfterThePreparationIsAskedBeforeTheHold) {
  Client client(world.info());
  world.prepared("new");
  EXPECT_EQ(client.run("SET app.tenant = 'second'"), "SET");
  EXPECT_EQ(client.run("PREPARE late AS SELECT 7"), "PREPARE");
  const auto fresh = [&] { return world.sessions().at(0).value("fresh", false); };
  for (const auto deadline = Deadline::in(Millis(5'000)); !fresh() && !deadline.expired();) pause_for(Millis(5), {});
  EXPECT_TRUE(fresh());
  const auto over = world.go("new");
  ASSERT_EQ(over.value("moved", -1), 1) << over.dump();
  EXPECT_EQ(client.run("SHOW app.tenant"), "second");
  EXPECT_EQ(client.run("EXECUTE late"), "7");
}

TEST_F(Switch, WhatARunningStatementChangesIsAskedInTheHold) {
  Client client(world.info());
  world.prepared("new");
  ASSERT_EQ(PQsendQuery(client.get(), "SELECT pg_sleep(0.3), set_config('app.tenant', 'third', false), pg_advisory_lock(3)"), 1);
  const auto running = [&] { return world.sessions().at(0).value("why", "") == "a request is not answered yet"; };
  for (const auto deadline = Deadline::in(Millis(5'000)); !running() && !deadline.expired();) pause_for(Millis(1), {});
  const auto over = world.go("new");
  ASSERT_EQ(over.value("moved", -1), 1) << over.dump();
  while (PGresult* result = PQgetResult(client.get())) PQclear(result);
  EXPECT_EQ(client.run("SHOW app.tenant"), "third");
  EXPECT_EQ(world.server("new").value("SELECT string_agg(objid::text, ',') FROM pg_locks WHERE locktype = 'advisory'", "app"), "3");
}

TEST_F(Switch, CarriesTemporaryTables) {
  Client client(world.info());
  for (const auto* sql : {"SET DateStyle = 'German'", "SET default_transaction_read_only = on", "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE", "SET ROLE teller",
                          "CREATE TEMP TABLE \"of a \"\"teller\" (n int PRIMARY KEY, v text)", "INSERT INTO \"of a \"\"teller\" VALUES (3, 'c'), (1, E'a\\tb\\\\N'), (2, NULL)",
                          "RESET ROLE",
                          "CREATE TEMP TABLE big (id serial PRIMARY KEY, i int GENERATED ALWAYS AS IDENTITY (START 10 INCREMENT 10), v varchar(10) COLLATE \"C\" NOT NULL DEFAULT 'x''y', "
                          "f float8, ts timestamptz(3), a numeric(10,2)[], b bytea, g int GENERATED ALWAYS AS (length(v)) STORED, CONSTRAINT short CHECK (length(v) < 5)) WITH (fillfactor=70)",
                          "INSERT INTO big (v, f, ts, a, b) VALUES ('one', 0.1::float8 + 0.2, '1890-01-01 00:00:00.123+00', '{1.50,NULL}', '\\x00ff'), ('two', 'NaN', 'infinity', NULL, NULL)",
                          "UPDATE big SET v = 'ONE' WHERE id = 1", "ALTER TABLE big ADD COLUMN gone int", "ALTER TABLE big DROP COLUMN gone",
                          "CREATE TEMP TABLE child (p int REFERENCES big ON DELETE CASCADE, r int4range, EXCLUDE USING gist (r WITH &&))", "INSERT INTO child VALUES (1, '[1,3)'), (2, '[3,4)')",
                          "CREATE UNIQUE INDEX \"by p\" ON child (abs(p)) WHERE p > 0", "COMMENT ON COLUMN child.p IS 'it''s'", "GRANT SELECT ON child TO teller WITH GRANT OPTION", "ANALYZE child",
                          "CREATE TEMP TABLE each_time (n int, t text) ON COMMIT DELETE ROWS", "CREATE TEMP TABLE kept (n int, t text)", "CREATE TEMP SEQUENCE loose INCREMENT 5 CYCLE MAXVALUE 100",
                          "SELECT nextval('loose'), nextval('loose')", "PREPARE by_id (int) AS SELECT v FROM big WHERE id = $1"})
    EXPECT_EQ(client.run(sql).find("ERROR"), std::string::npos) << sql;
  for (const auto* to : {"new", "old"}) {
    const auto over = world.go(to);
    ASSERT_EQ(over.value("moved", -1), 1) << over.dump();
    const auto turn = to == "new"s ? 0 : 1;
    looks_the_same(client, {{"SELECT inet_server_port()", turn == 0 ? "5433" : "5432"},
                            {"SELECT string_agg(n || coalesce(v, 'NULL'), ',') FROM (SELECT * FROM \"of a \"\"teller\") t", "3c,1a\tb\\N,2NULL"},
                            {"SELECT count(*) FROM \"of a \"\"teller\"", "3"},
                            {"SELECT string_agg(id::text || i || v, ',') FROM (SELECT * FROM big) b", turn == 0 ? "220two,110ONE" : "220two,110ONE,330tri"},
                            {"EXECUTE by_id (1)", "ONE"},
                            {"SELECT f = 0.1::float8 + 0.2 AND ts = '1890-01-01 00:00:00.123+00' AND a::text = '{1.50,NULL}' AND b = '\\x00ff' AND g = 3 FROM big WHERE id = 1", "t"},
                            {"SELECT tableowner FROM pg_tables WHERE tablename LIKE 'of a%'", "teller"},
                            {"SELECT string_agg(g::text, ',') FROM (SELECT format('%s %s', a, c) FROM (SELECT (aclexplode(relacl)).grantee::regrole AS a, (aclexplode(relacl)).is_grantable AS c FROM pg_class WHERE "
                             "oid = 'child'::regclass) x WHERE a::text = 'teller') g", "(\"teller t\")"},
                            {"SELECT col_description('child'::regclass, 1)", "it's"},
                            {"SELECT reltuples FROM pg_class WHERE oid = 'child'::regclass", "2"},
                            {"SELECT pg_get_indexdef('\"by p\"'::regclass) LIKE '%abs(p)) WHERE (p > 0)'", "t"},
                            {"SELECT nextval('loose')", turn == 0 ? "11" : "16"},
                            {"SHOW DateStyle", "German, DMY"},
                            {"BEGIN; INSERT INTO each_time VALUES (1), (2); INSERT INTO kept VALUES (1); COMMIT; SELECT count(*) FROM each_time", "0"},
                            {"SELECT count(*) FROM kept", turn == 0 ? "1" : "2"}});
    EXPECT_EQ(client.run("SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'short'"), "CHECK ((length((v)::text) < 5))");
    EXPECT_NE(client.run("INSERT INTO big (v) VALUES ('longer')").find("short"), std::string::npos);
    EXPECT_NE(client.run("INSERT INTO child VALUES (77)").find("child_p_fkey"), std::string::npos);
    EXPECT_NE(client.run("INSERT INTO child (r) VALUES ('[2,3)')").find("child_r_excl"), std::string::npos);
    if (turn == 0) {
      EXPECT_EQ(client.run("ALTER SEQUENCE big_id_seq RESTART 3; ALTER SEQUENCE big_i_seq RESTART 30; INSERT INTO big (v) VALUES ('tri')"), "INSERT 0 1");
    }
    EXPECT_EQ(client.run("SELECT pg_get_serial_sequence('big', 'id') = (SELECT oid::regclass::text FROM pg_class WHERE relname = 'big_id_seq') OR pg_get_serial_sequence('big', 'id') LIKE 'pg_temp%'"), "t");
  }
  EXPECT_EQ(client.run("DELETE FROM big WHERE id = 1"), "DELETE 1");
  EXPECT_EQ(client.run("SELECT count(*) FROM child"), "1");
}

TEST_F(Switch, CarriesCursorsWithHold) {
  const auto make = [](Client& client, const std::string& name, const std::string& more, const std::string& move) {
    EXPECT_EQ(client.run(fmt::format("DECLARE {} {} SCROLL CURSOR WITH HOLD FOR SELECT g AS n, nullif('row ' || g, 'row 2')::varchar(20) AS \"T t\", (g * 1.5)::numeric(6,2) AS m, ARRAY[g, NULL] AS a, "
                                     "'2001-02-03'::date + g AS d FROM generate_series(1, 5) g", name, more)), "DECLARE CURSOR");
    if (!move.empty()) client.run(fmt::format("MOVE {} IN {}", move, name));
  };
  // What a session sees that does not move, beside one that does.
  Client still(fmt::format("{} port=5432", world.info())), client(world.info());
  const std::vector<std::array<std::string, 3>> kinds{{"first", "", ""}, {"\"on 2\"", "", "2"}, {"on_last", "", "5"}, {"behind", "", "6"}, {"packed", "BINARY", "1"}};
  for (const auto& [name, more, move] : kinds) {
    make(still, name, more, move);
    make(client, name, more, move);
  }
  for (auto* one : {&still, &client}) one->run("DECLARE nothing SCROLL CURSOR WITH HOLD FOR SELECT 1 AS one WHERE false");
  client.run("SET DateStyle = 'German'; SET extra_float_digits = 0");
  still.run("SET DateStyle = 'German'; SET extra_float_digits = 0");
  for (const auto* to : {"new", "old", "new"}) {
    const auto over = world.go(to);
    ASSERT_EQ(over.value("moved", -1), 1) << over.dump();
    for (const auto* fetch : {"RELATIVE 0", "NEXT", "PRIOR", "PRIOR", "BACKWARD 0", "NEXT", "FORWARD 2", "FORWARD 0"})
      for (const auto& [name, more, move] : kinds)
        EXPECT_EQ(shape(client, fmt::format("FETCH {} FROM {}", fetch, name)), shape(still, fmt::format("FETCH {} FROM {}", fetch, name))) << fetch << " " << name;
    EXPECT_EQ(client.run("FETCH ALL FROM nothing"), "no row");
    const auto* what = "SELECT string_agg(format('%s %s %s %s', name, is_holdable, is_binary, is_scrollable), ',' ORDER BY name) FROM pg_cursors";
    EXPECT_EQ(client.run(what), still.run(what));
  }
  EXPECT_EQ(client.run("CLOSE first"), "CLOSE CURSOR");
}

TEST_F(Switch, TablesThatChangeAfterThePreparationAreCarriedAsTheyAre) {
  Client client(world.info());
  client.run("CREATE TEMP TABLE kept (n int); INSERT INTO kept VALUES (1)");
  client.run("DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT n FROM kept, generate_series(1, 3)");
  world.prepared("new");
  EXPECT_EQ(client.run("INSERT INTO kept VALUES (2); ALTER TABLE kept ADD COLUMN more text DEFAULT 'm'"), "ALTER TABLE");
  world.prepared("new");
  EXPECT_EQ(client.run("FETCH 2 FROM c"), "1");
  ASSERT_EQ(PQsendQuery(client.get(), "INSERT INTO kept SELECT 3 FROM pg_sleep(0.3)"), 1);
  const auto running = [&] { return world.sessions().at(0).value("why", "") == "a request is not answered yet"; };
  for (const auto deadline = Deadline::in(Millis(5'000)); !running() && !deadline.expired();) pause_for(Millis(1), {});
  const auto over = world.go("new");
  ASSERT_EQ(over.value("moved", -1), 1) << over.dump();
  while (PGresult* result = PQgetResult(client.get())) PQclear(result);
  EXPECT_EQ(client.port(), "5433");
  EXPECT_EQ(client.run("SELECT string_agg(n || more, ',') FROM (SELECT * FROM kept) k"), "1m,2m,3m");
  EXPECT_EQ(client.run("MOVE ALL FROM c"), "MOVE 1");
}

// Each is named, nothing fails, and what was looked at is as it was; without it the session goes.
TEST_F(Switch, WhatCannotBeCopiedIsNamed) {
  struct Case {
    std::string make, why, end;
  };
  const std::vector<Case> cases{
      {"CREATE TEMP VIEW v AS SELECT 1", "its view v is temporary", "DROP VIEW v"},
      {"CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "its function pg_temp.f() is temporary", "DROP FUNCTION pg_temp.f()"},
      {"CREATE TYPE pg_temp.pair AS (a int, b int)", "its type pair is temporary", "DROP TYPE pair"},
      {"CREATE TEMP TABLE t (n int); CREATE TEMP TABLE u () INHERITS (t)", "inherits", "DROP TABLE t CASCADE"},
      {"CREATE TEMP TABLE t (n int) PARTITION BY LIST (n)", "its table t is temporary", "DROP TABLE t"},
      {"CREATE TEMP TABLE t (n int); CREATE RULE r AS ON INSERT TO t DO INSTEAD NOTHING", "has rules", "DROP TABLE t"},
      {"CREATE TEMP TABLE t (n int); ALTER TABLE t ENABLE ROW LEVEL SECURITY", "has row security", "DROP TABLE t"},
      {"CREATE TEMP TABLE t (n int); CREATE STATISTICS public.of_t ON n, (n + 1) FROM t", "hanging on it", "DROP TABLE t"},
      {"CREATE TEMP TABLE t (n int) ON COMMIT DELETE ROWS", "may be ON COMMIT DELETE ROWS", "DROP TABLE t"},
      {"CREATE TEMP TABLE t AS SELECT repeat(md5(g::text), 20) FROM generate_series(1, 2000) g", "at most 1048576 are copied", "DROP TABLE t"},
      {"DO 'BEGIN FOR i IN 1..21 LOOP EXECUTE ''CREATE TEMP TABLE t'' || i || ''(n int)''; END LOOP; END'", "it has 21 temporary tables", "DISCARD TEMP"},
      {"DECLARE c CURSOR WITH HOLD FOR SELECT count(*) FROM pg_class", "its cursor c WITH HOLD is NO SCROLL", "CLOSE c"},
      {"DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT g FROM generate_series(1, 10001) g; MOVE 5000 FROM c", "has more than 10000 rows", "CLOSE c"},
      {"DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT repeat('x', 100000) FROM generate_series(1, 100) g; MOVE 50 FROM c", "more than 1048576 bytes", "CLOSE c"},
      {"DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT ROW(1, 2) FROM generate_series(1, 3)", "of type record", "CLOSE c"},
      {"CREATE TEMP TABLE t (n int); ALTER TABLE t ALTER n SET STATISTICS 7", "cannot be made the same on new: t: column n", "DROP TABLE t"},
  };
  for (const auto& one : cases) {
    Client client(world.info());
    SCOPED_TRACE(one.make);
    ASSERT_EQ(client.run(one.make).find("ERROR"), std::string::npos) << client.run(one.make);
    const auto refused = world.go("new");
    EXPECT_NE(refused.value("failed", "").find(one.why), std::string::npos) << refused.dump();
    EXPECT_EQ(client.port(), "5432");
    if (one.make.find("MOVE 5000") != std::string::npos) {
      EXPECT_EQ(client.run("FETCH FROM c"), "5001");
    }
    if (one.make.find("MOVE 50 ") != std::string::npos) {
      EXPECT_EQ(client.run("MOVE ALL FROM c"), "MOVE 50");
    }
    EXPECT_EQ(client.run(one.end).find("ERROR"), std::string::npos);
    const auto gone = world.go_when_possible("new");
    EXPECT_EQ(gone.value("moved", 0), 1) << gone.dump();
    EXPECT_EQ(client.port(), "5433");
    world.home();
  }
}

// Where a role may not make temporary tables on new, that is known before the hold.
TEST_F(Switch, WhoMayNotMakeThemThereIsNamedAndNobodyWaits) {
  EXPECT_EQ(world.server("old").sql("CREATE ROLE poor LOGIN PASSWORD 'w0rd'").code, 0);
  const auto verifier = world.server("old").value("SELECT rolpassword FROM pg_authid WHERE rolname = 'poor'");
  EXPECT_EQ(world.server("new").sql(fmt::format("CREATE ROLE poor LOGIN PASSWORD '{}'", verifier)).code, 0);
  EXPECT_EQ(world.server("new").sql("REVOKE TEMPORARY ON DATABASE app FROM PUBLIC").code, 0);
  {
    Client client(world.info("user=poor")), other(world.info());
    EXPECT_EQ(client.run("CREATE TEMP TABLE t (n int)"), "CREATE TABLE");
    EXPECT_EQ(client.run("INSERT INTO t VALUES (7)"), "INSERT 0 1");
    const auto named = [&] { return world.prepared("new").dump().find("permission denied to create temporary tables") != std::string::npos; };
    for (const auto deadline = Deadline::in(Millis(10'000)); !named();) ASSERT_FALSE(deadline.expired()) << world.prepared("new").dump();
    const auto start = boot_now();
    const auto closed = world.close("new", 30'000, 40'000);
    EXPECT_NE(closed.value("failed", "").find("permission denied to create temporary tables"), std::string::npos) << closed.dump();
    EXPECT_LT(boot_now() - start, Millis(10'000));
    EXPECT_EQ(other.port(), "5432");
    EXPECT_EQ(client.run("SELECT n FROM t"), "7");
    EXPECT_EQ(client.run("DROP TABLE t"), "DROP TABLE");
    const auto over = world.go_when_possible("new");
    EXPECT_EQ(over.value("moved", -1), 2) << over.dump();
    EXPECT_EQ(client.port(), "5433");
    world.home();
  }
  EXPECT_EQ(world.server("new").sql("GRANT TEMPORARY ON DATABASE app TO PUBLIC").code, 0);
  for (const auto* label : {"old", "new"}) EXPECT_EQ(world.server(label).sql("DROP ROLE poor").code, 0);
}

TEST_F(Switch, LosesNoNotification) {
  Client listener(world.info());
  listener.run("LISTEN news");
  Client teller(world.info());
  world.prepared("new");
  ASSERT_FALSE(world.close("new").contains("failed"));
  // Sent while everybody is held: it is on its way to the session's old connection.
  EXPECT_EQ(world.server("old").sql("NOTIFY news, 'the last of old'", "app").code, 0);
  ASSERT_NO_FATAL_FAILURE(world.hand_over());
  EXPECT_EQ(world.ask({{"verb", "over"}, {"to", "new"}}).value("moved", 0), 2);
  teller.run("NOTIFY news, 'the first of new'");
  EXPECT_EQ(listener.heard(2), (std::vector<std::string>{"the last of old", "the first of new"}));
}

TEST_F(Switch, NamesWhoCannotGoAndGoesOnWhereItWas) {
  struct Case {
    const char* before;
    const char* why;
    const char* after;
  };
  for (const auto& [before, why, after] : {Case{"CREATE TEMP VIEW mine AS SELECT 1", "its view mine is temporary", "DROP VIEW mine"},
                                           Case{"DECLARE mine CURSOR WITH HOLD FOR SELECT generate_series(1, 3)", "NO SCROLL", "CLOSE mine"},
                                           Case{"BEGIN; INSERT INTO ledger VALUES (-1, 1)", "a transaction is open", "ROLLBACK"}}) {
    Client client(world.info("application_name=stays")), other(world.info());
    client.run(before);
    world.prepared("new");
    const auto closed = world.close("new", 300);
    ASSERT_TRUE(closed.contains("failed")) << before;
    EXPECT_NE(closed["failed"].get<std::string>().find(why), std::string::npos) << closed.dump();
    EXPECT_NE(closed["failed"].get<std::string>().find("user app"), std::string::npos) << closed.dump();
    EXPECT_EQ(other.port(), "5432");
    client.run(after);
    EXPECT_EQ(client.port(), "5432");
    const auto over = world.go("new");
    EXPECT_EQ(over.value("moved", -1), 2) << over.dump();
    EXPECT_EQ(client.port(), "5433");
    world.home();
    EXPECT_EQ(client.port(), "5432");
  }
}

TEST_F(Switch, NobodyWaitsForWhoIsPinned) {
  world.prepared("new");
  Client client(world.info());
  world.prepared("new");
  client.run("CREATE TEMP VIEW mine AS SELECT 1");
  const auto start = boot_now();
  const auto closed = world.close("new", 30'000, 40'000);
  ASSERT_TRUE(closed.contains("failed")) << closed.dump();
  EXPECT_NE(closed["failed"].get<std::string>().find("its view mine is temporary"), std::string::npos) << closed.dump();
  EXPECT_LT(boot_now() - start, Millis(10'000));
  // Who has only to end a transaction is waited for.
  client.run("DROP VIEW mine");
  client.run("BEGIN");
  auto closing = std::async(std::launch::async, [&] { return world.close("new", 20'000, 30'000); });
  EXPECT_EQ(closing.wait_for(300ms), std::future_status::timeout);
  client.run("COMMIT");
  EXPECT_FALSE(closing.get().contains("failed"));
  world.ask({{"verb", "open"}, {"to", "new"}});
}

TEST_F(Switch, NothingThatStoodInOneQueryWithAPreparationIsRunAgain) {
  Client client(world.info());
  client.run("SET app.tenant = 'boot'; PREPARE one AS SELECT 1");
  client.run("SET app.tenant = '7'");
  Client opener(world.info());
  opener.run("BEGIN; PREPARE two AS SELECT 2");
  opener.run("COMMIT");
  world.prepared("new");
  const auto closed = world.close("new", 300);
  ASSERT_TRUE(closed.contains("failed")) << closed.dump();
  EXPECT_NE(closed["failed"].get<std::string>().find("in one query with others"), std::string::npos) << closed.dump();
  client.run("DEALLOCATE one");
  opener.run("DEALLOCATE two");
  EXPECT_EQ(world.go("new").value("moved", 0), 2);
  EXPECT_EQ(client.run("SHOW app.tenant"), "7");
  EXPECT_EQ(opener.run("INSERT INTO ledger VALUES (-9, 1)"), "INSERT 0 1");
  EXPECT_EQ(world.server("new").value("SELECT count(*) FROM ledger WHERE client = -9", "app"), "1");
}

TEST_F(Switch, ASettingMadeByAFunctionIsCarried) {
  for (const auto* label : {"old", "new"})
    world.server(label).sql("CREATE OR REPLACE FUNCTION public.hide(t text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM set_config('hidden.tenant', t, false); END $$", "app");
  Client client(world.info());
  client.run("SELECT public.hide('42')");
  ASSERT_EQ(world.go("new").value("moved", 0), 1);
  EXPECT_EQ(client.run("SHOW hidden.tenant"), "42");
}

TEST_F(Switch, ALockTakenBetweenPreparationAndHoldIsCarried) {
  world.prepared("new");
  Client late(world.info());
  late.run("SELECT pg_advisory_lock(77)");
  const auto over = world.close("new");
  ASSERT_FALSE(over.contains("failed")) << over.dump();
  ASSERT_NO_FATAL_FAILURE(world.hand_over());
  EXPECT_EQ(world.ask({{"verb", "over"}, {"to", "new"}}).value("moved", 0), 1);
  EXPECT_EQ(world.server("new").value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77", "app"), "1");
}

TEST_F(Switch, ANameThatIsPutTogetherPins) {
  Client client(world.info());
  client.run("SELECT set_config('app.' || 'tenant', 'x', false)");
  world.prepared("new");
  const auto closed = world.close("new", 300);
  ASSERT_TRUE(closed.contains("failed")) << closed.dump();
  EXPECT_NE(closed["failed"].get<std::string>().find("do not show"), std::string::npos) << closed.dump();
}

TEST_F(Switch, ManyNotificationsInTheHoldCutNobody) {
  Client listener(world.info());
  listener.run("LISTEN news");
  world.prepared("new");
  ASSERT_FALSE(world.close("new").contains("failed"));
  EXPECT_EQ(world.server("old").sql("SELECT pg_notify('news', repeat('x', 200) || g) FROM generate_series(1, 500) g", "app").code, 0);
  ASSERT_NO_FATAL_FAILURE(world.hand_over());
  EXPECT_EQ(world.ask({{"verb", "over"}, {"to", "new"}}).value("moved", 0), 1);
  EXPECT_EQ(listener.heard(500).size(), 500u);
  EXPECT_EQ(listener.port(), "5433");
}

// Questions of the gate to sessions of old wait until it goes.
class Unanswered {
 public:
  explicit Unanswered(World& world) : world_(world), lock_(std::async(std::launch::async, [this] { locked(); })) {
    wait_for("granted AND mode = 'AccessExclusiveLock'", "1");
  }
  ~Unanswered() { end(); }
  void wait_for_questions(int count) { wait_for("NOT granted", std::to_string(count)); }
  void end() {
    world_.server("old").sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'BEGIN; LOCK TABLE%'", "app");
    if (lock_.valid()) lock_.get();
  }

 private:
  void locked() { world_.server("old").sql("BEGIN; LOCK TABLE pg_catalog.pg_cursors; SELECT pg_sleep(60)", "app"); }
  void wait_for(const std::string& which, const std::string& wanted) {
    const auto sql = fmt::format("SELECT count(*) FROM pg_locks WHERE {} AND relation = 'pg_catalog.pg_cursors'::regclass", which);
    for (const auto deadline = Deadline::in(Millis(10'000)); world_.server("old").value(sql, "app") != wanted; pause_for(Millis(5), {}))
      if (deadline.expired()) return ADD_FAILURE() << which, void();
  }
  World& world_;
  std::future<void> lock_;
};

// What comes to a session while it is asked is passed on with the answer, also where nothing more happens then.
TEST_F(Switch, ANotificationThatComesWithTheAnswerIsPassedOn) {
  Client listener(world.info());
  listener.run("LISTEN news");
  listener.run("CREATE TEMP VIEW mine AS SELECT 1");
  Unanswered questions(world);
  world.ask({{"verb", "prepare"}, {"to", "new"}, {"for_ms", 60'000}});
  questions.wait_for_questions(1);
  EXPECT_EQ(world.server("old").sql("NOTIFY news, 'meanwhile'", "app").code, 0);
  questions.end();
  EXPECT_EQ(listener.heard(1), std::vector<std::string>{"meanwhile"});
}

TEST_F(Switch, ACancelRequestThatMeetsTheQuestionDoesNoHarm) {
  Unanswered questions(world);
  Client client(world.info());
  const std::unique_ptr<PGcancel, decltype(&PQfreeCancel)> cancel(PQgetCancel(client.get()), &PQfreeCancel);
  world.ask({{"verb", "prepare"}, {"to", "new"}, {"for_ms", 60'000}});
  questions.wait_for_questions(1);
  std::array<char, 256> why{};
  EXPECT_EQ(PQcancel(cancel.get(), why.data(), why.size()), 1) << why.data();
  questions.end();
  const auto ready = world.prepared("new");
  EXPECT_TRUE(ready.value("in_the_way", Json::array()).empty()) << ready.dump();
  const auto over = world.go("new");
  EXPECT_EQ(over.value("moved", -1), 1) << over.dump();
  EXPECT_EQ(client.port(), "5433");
}

TEST_F(Switch, WhereOldDoesNotAnswerNewIsStillFound) {
  ASSERT_FALSE(world.go("new").contains("failed"));
  const auto stopped = world.server("old").value("SELECT pg_postmaster_start_time() IS NOT NULL");
  ASSERT_EQ(stopped, "t");
  world.freeze("old", true);
  pause_for(Millis(4'000), {});
  EXPECT_EQ(Client(world.info()).port(), "5433");
  world.freeze("old", false);
}

TEST_F(Switch, TwoWhoShareALockGoTogether) {
  Client first(world.info()), second(world.info());
  first.run("SELECT pg_advisory_lock_shared(9)");
  second.run("SELECT pg_advisory_lock_shared(9)");
  const auto over = world.go("new");
  ASSERT_EQ(over.value("moved", -1), 2) << over.dump();
  EXPECT_EQ(world.server("new").value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'", "app"), "2");
  EXPECT_EQ(first.run("SELECT pg_try_advisory_lock(9)"), "f");
  // Given back by the one, it can be had by the other, also after the next switch.
  second.run("SELECT pg_advisory_unlock_all()");
  world.home();
  EXPECT_EQ(first.run("SELECT pg_try_advisory_lock(9)"), "t");
}

TEST_F(Switch, AHoldThatNobodyKeepsEndsByItself) {
  Client client(world.info());
  world.prepared("new");
  ASSERT_FALSE(world.close("new", 1'000, 1'000).contains("failed"));
  const auto start = boot_now();
  EXPECT_EQ(client.port(), "5432");
  EXPECT_GT(boot_now() - start, Millis(500));
  EXPECT_TRUE(world.ask({{"verb", "keep"}, {"to", "new"}}).contains("failed"));
}

TEST_F(Switch, WhereNoWordComesTheTitlesDecide) {
  for (const bool yielded : {false, true}) {
    Client client(world.info());
    world.prepared("new");
    ASSERT_FALSE(world.close("new", 1'000, 1'000).contains("failed"));
    ASSERT_FALSE(world.ask({{"verb", "keep"}, {"to", "new"}}).contains("failed"));
    auto write = std::async(std::launch::async, [&] { return client.run("INSERT INTO ledger VALUES (-2, 1)"); });
    world.title("old", "closing");
    // Longer than the hold would have been: kept, it has no end but by a title.
    EXPECT_EQ(write.wait_for(2'500ms), std::future_status::timeout);
    if (yielded) {
      world.title("old", "yielded");
      world.title("new", "owner");
    } else {
      world.title("old", "owner");
    }
    EXPECT_EQ(write.get(), "INSERT 0 1");
    EXPECT_EQ(client.port(), yielded ? "5433" : "5432");
  }
}

// Held and kept, a session does not depend on its first server any more.
TEST_F(Switch, AServerThatEndsTheSessionInTheHoldEndsNothing) {
  Client client(world.info()), listener(world.info());
  listener.run("LISTEN news");
  world.prepared("new");
  ASSERT_FALSE(world.close("new").contains("failed"));
  ASSERT_NO_FATAL_FAILURE(world.hand_over());
  EXPECT_EQ(world.server("old").value("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app'", "app"), "2");
  pause_for(Millis(100), {});
  EXPECT_EQ(world.ask({{"verb", "over"}, {"to", "new"}}).value("moved", 0), 2);
  auto served = std::async(std::launch::async, [&] { return client.port() + listener.port(); });
  const bool in_time = served.wait_for(5s) == std::future_status::ready;
  EXPECT_TRUE(in_time);
  if (!in_time) world.replace_gate();
  EXPECT_EQ(served.get(), "54335433");
}

TEST_F(Switch, AServerThatEndsASessionInAHoldThatComesToNothingEndsIt) {
  Client client(world.info());
  world.prepared("new");
  ASSERT_FALSE(world.close("new").contains("failed"));
  EXPECT_EQ(world.server("old").value("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'app'", "app"), "1");
  world.ask({{"verb", "open"}, {"to", "new"}});
  client.run("SELECT 1");
  EXPECT_EQ(PQstatus(client.get()), CONNECTION_BAD);
}

TEST_F(Switch, AGateThatWasStoppedAsksBeforeItGoesOn) {
  Client client(world.info());
  world.prepared("new");
  ASSERT_FALSE(world.close("new").contains("failed"));
  ASSERT_FALSE(world.ask({{"verb", "keep"}, {"to", "new"}}).contains("failed"));
  world.title("old", "closing");
  world.kill_gate(SIGSTOP);
  auto write = std::async(std::launch::async, [&] { return client.run("INSERT INTO ledger VALUES (-3, 1)"); });
  world.title("old", "yielded");
  world.title("new", "owner");
  EXPECT_EQ(write.wait_for(1'000ms), std::future_status::timeout);
  world.kill_gate(SIGCONT);
  EXPECT_EQ(write.get(), "INSERT 0 1");
  EXPECT_EQ(world.server("new").value("SELECT count(*) FROM ledger WHERE client = -3", "app"), "1");
}

TEST_F(Switch, WhoComesMeanwhileWaitsAndIsOnTheOtherSide) {
  Client early(world.info());
  world.prepared("new");
  ASSERT_FALSE(world.close("new").contains("failed"));
  auto late = std::async(std::launch::async, [&] { return Client(world.info()).port(); });
  EXPECT_EQ(late.wait_for(300ms), std::future_status::timeout);
  ASSERT_NO_FATAL_FAILURE(world.hand_over());
  ASSERT_FALSE(world.ask({{"verb", "over"}, {"to", "new"}}).contains("failed"));
  EXPECT_EQ(late.get(), "5433");
  EXPECT_EQ(early.port(), "5433");
}

TEST_F(Switch, ACancelRequestFindsTheSessionWhereItIs) {
  Client client(world.info());
  const std::unique_ptr<PGcancel, decltype(&PQfreeCancel)> cancel(PQgetCancel(client.get()), &PQfreeCancel);
  ASSERT_EQ(world.go("new").value("moved", -1), 1);
  auto sleep = std::async(std::launch::async, [&] { return client.run("SELECT pg_sleep(60)"); });
  const auto deadline = Deadline::in(Millis(10'000));
  while (world.server("new").value("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'", "app") != "1" && !deadline.expired())
    pause_for(Millis(10), {});
  std::array<char, 256> why{};
  EXPECT_EQ(PQcancel(cancel.get(), why.data(), why.size()), 1) << why.data();
  EXPECT_NE(sleep.get().find("canceling statement"), std::string::npos);
}

TEST_F(Switch, AGateStartedAnewAsksWhoOwns) {
  ASSERT_FALSE(world.go("new").contains("failed"));
  world.replace_gate();
  EXPECT_EQ(Client(world.info()).port(), "5433");
}

TEST_F(Switch, ADatabaseThatIsNotBehindTheGateIsRefused) {
  const std::unique_ptr<PGconn, decltype(&PQfinish)> stranger(PQconnectdb((world.info() + " dbname=postgres").c_str()), &PQfinish);
  EXPECT_NE(std::string(PQerrorMessage(stranger.get())).find("not behind this gate"), std::string::npos);
}

// What a client of the load did, and what was confirmed.
struct Load {
  std::atomic<bool> over = false;
  std::atomic<int> confirmed = 0;
  std::atomic<std::int64_t> longest_us = 0;
  std::mutex mutex;
  std::vector<std::string> errors;
};

void use(Load& load, const std::string& info, int number, std::vector<int>& mine) {
  Client client(info);
  PQclear(PQprepare(client.get(), "put", "INSERT INTO ledger VALUES ($1, $2)", 0, nullptr));
  const auto who = std::to_string(number);
  client.run("SET app.tenant = '" + who + "'");
  for (int n = 0; !load.over; ++n) {
    const auto count = std::to_string(n);
    const auto start = boot_now();
    const auto done = n % 3 == 0 ? client.run(fmt::format("BEGIN; INSERT INTO ledger VALUES ({}, {}); COMMIT", who, count)) : client.prepared("put", {who.c_str(), count.c_str()});
    const auto us = (boot_now() - start).count() / 1000;
    if (us > load.longest_us) load.longest_us = us;
    const auto tenant = client.run("SHOW app.tenant");
    if (done == "COMMIT" || done == "INSERT 0 1") mine.push_back(n), ++load.confirmed;
    if ((done != "COMMIT" && done != "INSERT 0 1") || tenant != who) {
      const std::lock_guard lock(load.mutex);
      load.errors.push_back(fmt::format("{} {}: {} / {}", who, n, done, tenant));
      return;
    }
    pause_for(Millis(20), {});
  }
}

TEST_F(Switch, ToAndFroUnderLoadNothingFailsAndNoRowIsLostOrDoubled) {
  constexpr int kClients = 24, kSwitches = 10;
  for (const auto* label : {"old", "new"}) world.server(label).sql("TRUNCATE ledger", "app");
  Load load;
  std::vector<std::vector<int>> confirmed(kClients);
  std::vector<std::jthread> clients;
  for (int i = 0; i < kClients; ++i) clients.emplace_back([&, i] { use(load, world.info(), i, confirmed[static_cast<std::size_t>(i)]); });
  for (const auto deadline = Deadline::in(Millis(20'000)); load.confirmed < 10 * kClients && !deadline.expired();) pause_for(Millis(5), {});
  for (int i = 0; i < kSwitches; ++i) {
    const auto over = world.go_when_possible(i % 2 == 0 ? "new" : "old");
    EXPECT_EQ(over.value("moved", 0), kClients) << over.dump();
    EXPECT_TRUE(over.value("ended", Json::array()).empty()) << over.dump();
    const auto before = load.confirmed.load();
    for (const auto deadline = Deadline::in(Millis(10'000)); load.confirmed < before + kClients && !deadline.expired();) pause_for(Millis(5), {});
    EXPECT_GE(load.confirmed, before + kClients) << "nobody goes on";
  }
  load.over = true;
  clients.clear();
  EXPECT_TRUE(load.errors.empty()) << join(load.errors, "\n");
  std::multiset<std::string> found;
  std::size_t on_new = 0;
  for (const auto* label : {"old", "new"}) {
    const auto lines = split(world.server(label).value("SELECT client || ' ' || n FROM ledger", "app"), '\n');
    if (label == "new"s) on_new = lines.size();
    for (const auto& line : lines) found.emplace(line);
  }
  std::multiset<std::string> wanted;
  for (int i = 0; i < kClients; ++i)
    for (const int n : confirmed[static_cast<std::size_t>(i)]) wanted.insert(fmt::format("{} {}", i, n));
  EXPECT_EQ(found, wanted);
  EXPECT_GT(on_new, 0u);
  fmt::print("{} confirmed, {} of them on new; longest wait {} us\n", wanted.size(), on_new, load.longest_us.load());
}

}  // namespace
}  // namespace midstream::gate
