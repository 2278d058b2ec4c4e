// What a gate counts, with two real PostgreSQL 15 behind it: each figure is compared with what the test itself has done.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <libpq-fe.h>
#include <fcntl.h>
#include <pwd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <optional>
#include <thread>

#include "base/json.h"
#include "gate/gate.h"
#include "gate/live_server.h"
#include "gate/startup.h"
#include "sys/child.h"
#include "sys/clock.h"
#include "sys/net.h"
#include "sys/stream.h"

namespace midstream::gate {
namespace {

namespace fs = std::filesystem;
using namespace std::literals;
constexpr int kGatePort = 6432;
constexpr int kMetricsPort = 9642;

// A number for each line of Prometheus' text: "name{labels}" to value.
using Figures = std::map<std::string, double>;

Figures parse(const std::string& text) {
  Figures figures;
  for (std::size_t at = 0; at < text.size();) {
    const auto end = std::min(text.find('\n', at), text.size());
    const auto line = text.substr(at, end - at);
    if (!line.starts_with('#') && line.contains(' ')) figures[line.substr(0, line.rfind(' '))] = std::stod(line.substr(line.rfind(' ')));
    at = end + 1;
  }
  return figures;
}

class World {
 public:
  static World& get() {
    static World world;
    return world;
  }
  const std::string& trouble() const { return trouble_; }
  LiveServer& server(const std::string& label) { return label == "old" ? *old_ : *new_; }
  std::string info(const std::string& more = "user=app password=w0rd") const {
    return fmt::format("host=127.0.0.1 port={} dbname=app sslmode=disable gssencmode=disable {}", kGatePort, more);
  }
  Json ask(Json request) {
    request["database"] = "app";
    auto answer = ask_gate(root_ / "gate.sock", request);
    return answer ? *answer : Json{{"failed", answer.error().text()}};
  }
  std::string text() {
    const auto exit = run_program({MIDSTREAM_PROGRAM, "gate", "metrics", root_ / "gate.yaml"});
    EXPECT_EQ(exit.code, 0) << exit.err;
    return exit.out;
  }
  const fs::path& root() const { return root_; }
  Figures figures() { return parse(ask({{"verb", "metrics"}}).value("text", "")); }
  // Once the gate has noticed who has left.
  Figures rested() {
    auto now = figures();
    for (const auto deadline = Deadline::in(Millis(10'000)); !deadline.expired() && sessions_in(now) != 0; now = figures()) pause_for(Millis(10), {});
    EXPECT_EQ(sessions_in(now), 0);
    return now;
  }
  static double sessions_in(const Figures& figures) {
    double all = 0;
    for (const auto& [name, value] : figures) all += name.starts_with("midstream_gate_sessions{") ? value : 0;
    return all;
  }
  Json session(const std::string& application) {
    const auto answer = ask({{"verb", "sessions"}});
    for (const auto& one : answer["sessions"])
      if (one.value("application", "") == application) return one;
    return Json::object();
  }
  void title(const std::string& label, const char* state) {
    EXPECT_EQ(server(label).sql(fmt::format("UPDATE midstream.owner SET state = '{}'", state), "app").code, 0);
  }
  void prepared(const std::string& to) {
    (void)ask({{"verb", "prepare"}, {"to", to}, {"for_ms", 60'000}});
    for (const auto deadline = Deadline::in(Millis(20'000)); !deadline.expired(); pause_for(Millis(10), {})) {
      const auto ready = ask({{"verb", "ready"}, {"to", to}});
      if (std::ranges::none_of(ready["in_the_way"], [](const Json& one) { return one.value("why", "").find("yet") != std::string::npos; })) return;
    }
  }
  Json close(const std::string& to, int within_ms, int for_ms) { return ask({{"verb", "close"}, {"to", to}, {"for_ms", for_ms}, {"within_ms", within_ms}}); }
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
    std::string name = (fs::temp_directory_path() / "midstream-metrics-XXXXXX").string();
    root_ = ::mkdtemp(name.data());
    const auto* user = ::getpwnam("postgres");
    if (::chown(root_.c_str(), user->pw_uid, user->pw_gid) != 0) trouble_ = "chown";
    fs::permissions(root_, fs::perms::others_exec | fs::perms::others_read, fs::perm_options::add);
    old_ = std::make_unique<LiveServer>(root_, "old", 5432, std::vector<std::string>{"fsync=off"});
    new_ = std::make_unique<LiveServer>(root_, "new", 5433, std::vector<std::string>{"fsync=off"});
    furnish("old", "owner", "");
    furnish("new", "standby", old_->value("SELECT rolpassword FROM pg_authid WHERE rolname = 'app'"));
    std::ofstream(root_ / "looker") << "l00ker\n";
    std::ofstream(root_ / "gate.yaml") << fmt::format(
        "listen: 127.0.0.1:{1}\ncontrol: {0}/gate.sock\nservers:\n  old: {{ host: 127.0.0.1, port: 5432 }}\n  new: {{ host: 127.0.0.1, port: 5433 }}\n"
        "databases: app\nlookup: {{ user: looker, password_file: {0}/looker }}\nmetrics: {{ listen: 127.0.0.1:{2} }}\n"
        "clients:\n  - {{ user: banned, method: reject }}\n  - {{ method: scram-sha-256 }}\n", root_.string(), kGatePort, kMetricsPort);
    auto child = Child::start({"setpriv", "--pdeathsig", "KILL", MIDSTREAM_PROGRAM, "gate", root_ / "gate.yaml"});
    if (child) gate_.emplace(std::move(*child));
    const auto deadline = Deadline::in(Millis(20'000));
    while (!connect_tcp("127.0.0.1", kMetricsPort, deadline))
      if (deadline.expired() || !pause_for(Millis(10), {})) trouble_ = "the gate does not start";
  }
  void furnish(const std::string& label, const char* state, const std::string& verifier) {
    auto& here = server(label);
    if (const auto failed = here.start(); !failed.empty()) trouble_ = failed;
    for (const auto& sql : {fmt::format("CREATE ROLE app LOGIN PASSWORD '{}'", verifier.empty() ? "w0rd" : verifier),
                            "CREATE ROLE looker LOGIN SUPERUSER PASSWORD 'l00ker'"s, "CREATE DATABASE app OWNER app"s,
                            "CREATE ROLE full LOGIN PASSWORD 'w0rd' CONNECTION LIMIT 0"s})
      if (const auto done = here.sql(sql); done.code != 0) trouble_ = done.err;
    const auto done = here.sql(fmt::format("CREATE SCHEMA midstream; GRANT USAGE ON SCHEMA midstream TO PUBLIC; CREATE TABLE midstream.owner (state text);"
                                           "GRANT SELECT ON midstream.owner TO PUBLIC; INSERT INTO midstream.owner VALUES ('{}')", state), "app");
    if (done.code != 0) trouble_ = done.err;
  }

  fs::path root_;
  std::string trouble_;
  std::unique_ptr<LiveServer> old_, new_;
  std::optional<Child> gate_;
};

class Metrics : public testing::Test {
 protected:
  void SetUp() override {
    if (!World::get().trouble().empty()) GTEST_SKIP() << World::get().trouble();
    before = world.rested();
  }
  // What is more of it than before, of everything that counts and is not zero, without midstream_gate_ and _total; times aside.
  static std::map<std::string, double> more(const Figures& before, const Figures& after) {
    std::map<std::string, double> out;
    for (const auto& [name, value] : after) {
      const auto at = name.find("_total");
      const auto was = before.find(name);
      const double since = value - (was == before.end() ? 0 : was->second);
      if (at != std::string::npos && since != 0) out[name.substr(15, at - 15) + name.substr(at + 6)] = since;
      EXPECT_FALSE(at != std::string::npos && since < 0) << name << " became less";
    }
    return out;
  }
  double since_before(const std::string& name) {
    const auto now = world.figures();
    return now.at("midstream_gate_" + name) - before.at("midstream_gate_" + name);
  }
  World& world = World::get();
  Figures before;
};

using Expected = std::map<std::string, double>;

class Client {
 public:
  explicit Client(const std::string& info) : connection_(PQconnectdb(info.c_str()), &PQfinish) {}
  PGconn* get() const { return connection_.get(); }
  bool good() const { return PQstatus(get()) == CONNECTION_OK; }
  std::string run(const std::string& sql) { return text(PQexec(get(), sql.c_str())); }
  std::string text(PGresult* result) const {
    const std::unique_ptr<PGresult, decltype(&PQclear)> owned(result, &PQclear);
    if (PQresultStatus(result) == PGRES_TUPLES_OK) return PQntuples(result) > 0 ? PQgetvalue(result, 0, 0) : "no row";
    return PQresultStatus(result) == PGRES_COMMAND_OK ? PQcmdStatus(result) : PQresultErrorMessage(result);
  }
  void leave() { connection_.reset(); }

 private:
  std::unique_ptr<PGconn, decltype(&PQfinish)> connection_;
};

TEST_F(Metrics, OfOneSessionToTheByte) {
  Client client(world.info() + " application_name=counted");
  ASSERT_TRUE(client.good());
  EXPECT_EQ(client.run("SELECT 1"), "1");
  auto told = world.session("counted");
  // Query: 1 + 4 + 9. RowDescription, DataRow, CommandComplete, ReadyForQuery: 34 + 12 + 14 + 6.
  EXPECT_EQ(told["from_client"], 14);
  EXPECT_EQ(told["from_server"], 66);
  EXPECT_EQ(told["requests"], 1);
  EXPECT_EQ(told["transactions"], 1);
  EXPECT_EQ(told["doing"], "idle");
  for (const auto* sql : {"BEGIN", "SELECT 1", "SELECT 1/0", "ROLLBACK", "PREPARE by_sql AS SELECT 1"}) client.run(sql);
  (void)client.text(PQprepare(client.get(), "by_protocol", "SELECT 2", 0, nullptr));
  (void)client.text(PQprepare(client.get(), "", "SELECT 3", 0, nullptr));
  client.run("BEGIN");
  told = world.session("counted");
  EXPECT_EQ(told["requests"], 9);
  EXPECT_EQ(told["transactions"], 5) << "SELECT, ROLLBACK, PREPARE, two Parse with Sync";
  EXPECT_EQ(told["prepared"], 2);
  EXPECT_EQ(told["statements"], 1) << "by_protocol: the one without a name is gone with the next simple query";
  EXPECT_EQ(told["errors"], 1);
  EXPECT_EQ(told["switches"], 0);
  EXPECT_EQ(told["doing"], "in transaction");
  EXPECT_EQ(told["state"], "after transaction");
  const auto there = world.figures();
  EXPECT_EQ(there.at("midstream_gate_sessions{state=\"after_transaction\"}"), 1);
  EXPECT_EQ(there.at("midstream_gate_sessions_doing{doing=\"in_transaction\"}"), 1);
  const auto bytes = told["from_client"].get<double>(), answers = told["from_server"].get<double>();
  client.leave();
  auto found = more(before, world.rested());
  std::erase_if(found, [](const auto& one) { return one.first.contains("lookup"); });
  EXPECT_EQ(found,
            (Expected{{"connections_accepted", 1}, {"connections_ended{reason=\"client_closed\"}", 1}, {"logins", 1},
                      {"server_connections_opened{server=\"old\",purpose=\"session\"}", 1}, {"forwarded_bytes{from=\"client\"}", bytes + 5},
                      {"forwarded_bytes{from=\"server\"}", answers}, {"requests", 9}, {"transactions", 5}, {"statements_prepared", 2}, {"errors", 1}}));
}

TEST_F(Metrics, HowConnectionsEndAndWhoIsNotLetIn) {
  EXPECT_FALSE(Client(world.info("user=app password=wrong")).good());
  EXPECT_FALSE(Client(world.info("user=nobody_knows password=w0rd")).good());
  EXPECT_FALSE(Client(world.info("user=banned password=w0rd")).good());
  EXPECT_FALSE(Client(world.info("user=app password=w0rd dbname=other")).good());
  EXPECT_FALSE(Client(world.info("user=full password=w0rd")).good());
  const auto deadline = Deadline::in(Millis(10'000));
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(connect_tcp("127.0.0.1", kGatePort, deadline));  // as a health check does
  ASSERT_TRUE(make_fd_stream(*connect_tcp("127.0.0.1", kGatePort, deadline))->write_all("GET / HTTP/1.1\r\n\r\n", deadline, {}));
  {
    Client terminated(world.info()), cut(world.info()), told_to_go(world.info() + " application_name=told_to_go"), dead(world.info());
    ASSERT_TRUE(terminated.good() && cut.good() && told_to_go.good() && dead.good());
    ::shutdown(PQsocket(cut.get()), SHUT_RDWR);
    EXPECT_NE(terminated.run("SELECT pg_terminate_backend(pg_backend_pid())").find("terminat"), std::string::npos);
    EXPECT_EQ(world.ask({{"verb", "end"}, {"session", world.session("told_to_go")["id"]}})["ended"], true);
    const linger hard{1, 0};  // as when its host dies: a reset
    ::setsockopt(PQsocket(dead.get()), SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    ::close(::dup2(::open("/dev/null", O_RDONLY), PQsocket(dead.get())));
    while (world.sessions_in(world.figures()) > 0 && !deadline.expired()) pause_for(Millis(10), {});
  }
  auto found = more(before, world.rested());
  std::erase_if(found, [](const auto& one) { return one.first.starts_with("forwarded") || one.first.contains("lookup"); });
  EXPECT_EQ(found, (Expected{{"connections_accepted", 13}, {"connections_ended{reason=\"login_refused\"}", 6}, {"connections_ended{reason=\"login_left\"}", 3},
                             {"connections_ended{reason=\"client_lost\"}", 2}, {"connections_ended{reason=\"server_closed\"}", 1},
                             {"connections_ended{reason=\"operator\"}", 1}, {"logins", 4}, {"logins_refused{reason=\"password\"}", 2},
                             {"logins_refused{reason=\"rule\"}", 1}, {"logins_refused{reason=\"database\"}", 1}, {"logins_refused{reason=\"server\"}", 1},
                             {"logins_refused{reason=\"protocol\"}", 1}, {"server_connections_opened{server=\"old\",purpose=\"session\"}", 5}, {"errors", 1}}));
}

TEST_F(Metrics, CancelRequests) {
  Client client(world.info());
  PQsendQuery(client.get(), "SELECT pg_sleep(30)");
  const auto deadline = Deadline::in(Millis(20'000));
  while (world.server("old").value("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(30)' AND state = 'active'") != "1")
    ASSERT_FALSE(deadline.expired());
  EXPECT_EQ(world.figures().at("midstream_gate_sessions_doing{doing=\"busy\"}"), 1);
  char error[256];
  const std::unique_ptr<PGcancel, decltype(&PQfreeCancel)> cancel(PQgetCancel(client.get()), &PQfreeCancel);
  ASSERT_EQ(PQcancel(cancel.get(), error, sizeof error), 1) << error;
  while (PGresult* one = PQgetResult(client.get())) PQclear(one);
  ASSERT_TRUE(make_fd_stream(*connect_tcp("127.0.0.1", kGatePort, deadline))->write_all(cancel_request({1, "abcd"}), deadline, {}));
  client.leave();
  const auto found = more(before, world.rested());
  EXPECT_EQ(found.at("cancels{outcome=\"passed\"}"), 1);
  EXPECT_EQ(found.at("cancels{outcome=\"dropped\"}"), 1);
  EXPECT_EQ(found.at("connections_ended{reason=\"cancel_request\"}"), 2);
  EXPECT_EQ(found.at("server_connections_opened{server=\"old\",purpose=\"cancel\"}"), 1);
}

// Two are held, one of them has something to say.
TEST_F(Metrics, HowLongAHoldHeld) {
  Client asks(world.info() + " application_name=asks"), rests(world.info() + " application_name=rests");
  const auto start = boot_now();
  ASSERT_EQ(world.ask({{"verb", "hold"}, {"for_ms", 60'000}})["holding"], true);
  const auto held = boot_now();
  EXPECT_EQ(world.session("asks")["doing"], "idle") << "who has nothing to say does not wait";
  PQsendQuery(asks.get(), "SELECT 'waits'");
  const auto sent = boot_now();
  const auto deadline = Deadline::in(Millis(10'000));
  auto told = world.session("asks");
  for (; told["doing"] != "waiting" && !deadline.expired(); told = world.session("asks")) pause_for(Millis(5), {});
  EXPECT_EQ(told["doing"], "waiting");
  EXPECT_EQ(told["waits_for"], "the end of the hold");
  const auto noticed = boot_now();
  EXPECT_LE(told["waits_since_ms"].get<std::int64_t>(), wall_now_ms());
  EXPECT_EQ(world.session("rests")["doing"], "idle");
  EXPECT_EQ(world.figures().at("midstream_gate_sessions_doing{doing=\"waiting\"}"), 1);
  const auto table = run_program({MIDSTREAM_PROGRAM, "gate", "sessions", world.root() / "gate.yaml"});
  EXPECT_NE(table.out.find("s for the end of the hold"), std::string::npos) << table.out;
  pause_for(Millis(100), {});
  const auto let_go = boot_now();
  (void)world.ask({{"verb", "release"}});
  while (PGresult* one = PQgetResult(asks.get())) EXPECT_EQ(asks.text(one), "waits");
  const auto end = boot_now();
  const auto ms = [](auto span) { return std::chrono::duration<double, std::milli>(span).count(); };
  for (const auto* who : {"asks", "rests"}) {
    const auto one = world.session(who)["held"];
    EXPECT_EQ(one["times"], 1) << who;
    EXPECT_GE(one["last_ms"].get<double>(), ms(let_go - held) - 1) << who;
    EXPECT_LE(one["last_ms"].get<double>(), ms(end - start)) << who;
    EXPECT_EQ(one["last_ms"], one["longest_ms"]);
    EXPECT_EQ(one["last_ms"], one["sum_ms"]);
  }
  const auto waited = world.session("asks")["waited"];
  EXPECT_EQ(waited["times"], 1);
  EXPECT_GE(waited["last_ms"].get<double>(), ms(let_go - noticed) - 1);
  EXPECT_LE(waited["last_ms"].get<double>(), ms(end - sent));
  EXPECT_EQ(world.session("rests")["waited"]["times"], 0);
  EXPECT_EQ(since_before("session_held_seconds_count"), 2);
  EXPECT_EQ(since_before("client_wait_seconds_count"), 1);
  EXPECT_NEAR(since_before("client_wait_seconds_sum"), waited["sum_ms"].get<double>() / 1e3, 1e-5);
  EXPECT_EQ(since_before("client_wait_seconds_bucket{le=\"0.1\"}"), 0) << "it waited longer";
  EXPECT_EQ(since_before("client_wait_seconds_bucket{le=\"+Inf\"}"), 1);
}

TEST_F(Metrics, OfSwitchesThatSucceedAndThatDoNot) {
  Client first(world.info() + " application_name=first"), second(world.info() + " application_name=second");
  ASSERT_TRUE(first.good() && second.good());
  world.prepared("new");
  const auto connected = [&] { return world.figures().at("midstream_gate_sessions_prepared{connection=\"connected\"}"); };
  for (const auto deadline = Deadline::in(Millis(20'000)); connected() != 2 && !deadline.expired();) pause_for(Millis(10), {});
  EXPECT_EQ(connected(), 2);
  const std::string to_new = "database=\"app\",to=\"new\"";
  // A transaction that is open; a session that is pinned; a hold that is over before it is kept; one that is taken back.
  first.run("BEGIN");
  EXPECT_TRUE(world.close("new", 100, 1'000).contains("failed"));
  first.run("COMMIT");
  {
    Client hides(world.info());
    hides.run("SELECT set_config('app.' || 'hidden', 'x', false)");
    EXPECT_TRUE(world.close("new", 1'000, 1'000).contains("failed"));
  }
  world.prepared("new");
  ASSERT_FALSE(world.close("new", 2'000, 2'000).contains("failed"));
  EXPECT_EQ(world.figures().at("midstream_gate_switches_holding"), 1);
  pause_for(Millis(2'000), {});
  EXPECT_TRUE(world.ask({{"verb", "keep"}, {"to", "new"}}).contains("failed"));
  const auto settled = [&](double tried) {
    for (const auto deadline = Deadline::in(Millis(10'000)); world.figures().at("midstream_gate_switches_holding") != 0 && !deadline.expired();)
      pause_for(Millis(10), {});
    EXPECT_EQ(since_before("switches_tried_total{" + to_new + "}"), tried);
  };
  settled(3);
  world.prepared("new");
  ASSERT_FALSE(world.close("new", 2'000, 10'000).contains("failed"));
  (void)world.ask({{"verb", "open"}, {"to", "new"}});
  settled(4);
  EXPECT_EQ(world.session("first")["switches"], 0);
  // And one that succeeds, and back.
  for (const auto* to : {"new", "old"}) {
    const std::string from = to == "new"s ? "old" : "new";
    world.prepared(to);
    const auto closed = world.close(to, 5'000, 10'000);
    ASSERT_FALSE(closed.contains("failed")) << closed.dump();
    world.title(from, "closing");
    ASSERT_FALSE(world.ask({{"verb", "keep"}, {"to", to}}).contains("failed"));
    world.title(from, "yielded");
    world.title(to, "owner");
    EXPECT_EQ(world.ask({{"verb", "over"}, {"to", to}})["moved"], 2);
  }
  settled(5);
  EXPECT_EQ(world.session("first")["switches"], 2);
  EXPECT_GE(world.session("first")["held"]["times"], 6);
  EXPECT_EQ(world.session("second")["waited"]["times"], 0) << "it had nothing to say in any of them";
  first.leave();
  second.leave();
  auto found = more(before, world.rested());
  std::erase_if(found, [](const auto& one) { return !one.first.starts_with("switches") && !one.first.starts_with("sessions"); });
  const auto failed = [&](const char* why) { return "switches_failed{" + to_new + ",reason=\"" + why + "\"}"; };
  EXPECT_EQ(found, (Expected{{"switches_tried{" + to_new + "}", 5}, {"switches_done{" + to_new + "}", 1}, {failed("busy"), 1}, {failed("pinned"), 1},
                             {failed("late"), 1}, {failed("withdrawn"), 1}, {"switches_tried{database=\"app\",to=\"old\"}", 1},
                             {"switches_done{database=\"app\",to=\"old\"}", 1}, {"sessions_moved", 4}}));
  EXPECT_EQ(since_before("hold_seconds_count{outcome=\"done\"}"), 2);
  EXPECT_EQ(since_before("hold_seconds_count{outcome=\"failed\"}"), 4);
  EXPECT_GE(since_before("hold_seconds_sum{outcome=\"failed\"}"), 2.0) << "the one that was over before it was kept";
}

// What has been accepted is there, or has ended: also while many come and go.
TEST_F(Metrics, NobodyIsLostInTheCount) {
  std::vector<std::jthread> clients;
  std::atomic<int> came = 0, queries = 0;
  for (int i = 0; i < 8; ++i) {
    clients.emplace_back([&] {
      for (int n = 0; n < 20; ++n) {
        Client client(world.info(n % 5 == 4 ? "user=app password=wrong" : "user=app password=w0rd"));
        ++came;
        if (client.good() && client.run("SELECT 1") == "1") ++queries;
      }
    });
  }
  while (came < 160) {
    const auto now = world.figures();
    double ended = 0;
    for (const auto& [name, value] : now) ended += name.starts_with("midstream_gate_connections_ended_total") ? value : 0;
    ASSERT_EQ(now.at("midstream_gate_connections_accepted_total"), ended + world.sessions_in(now));
  }
  clients.clear();
  const auto found = more(before, world.rested());
  EXPECT_EQ(found.at("connections_accepted"), 160);
  EXPECT_EQ(found.at("logins_refused{reason=\"password\"}"), 32);
  EXPECT_EQ(found.at("requests"), queries.load());
  EXPECT_EQ(queries, 128);
  EXPECT_EQ(found.at("forwarded_bytes{from=\"client\"}"), 128 * (14 + 5));
}

std::string ask_http(const std::string& request) {
  const auto deadline = Deadline::in(Millis(10'000));
  auto fd = connect_tcp("127.0.0.1", kMetricsPort, deadline);
  if (!fd) return fd.error().text();
  const auto stream = make_fd_stream(std::move(*fd));
  (void)stream->write_all(request, deadline, {});
  std::string all;
  for (std::array<char, 4'096> bytes;;) {
    const auto n = stream->read_some(bytes, deadline, {});
    if (!n || *n == 0) return all;
    all.append(bytes.data(), *n);
  }
}

TEST_F(Metrics, OverHttpAndFromTheCommandTheSame) {
  auto answer = ask_http("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
  EXPECT_EQ(parse(answer.substr(answer.find("\r\n\r\n") + 4)), parse(world.text()));
  // Who says nothing is left after two seconds, and who waits behind it is answered.
  const auto silent = connect_tcp("127.0.0.1", kMetricsPort, Deadline::in(Millis(5'000)));
  ASSERT_TRUE(silent);
  answer = ask_http("GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 200 OK\r\n")) << answer;
  EXPECT_TRUE(ask_http("GET /metrics HTTP/1.1\r\nX: " + std::string(20'000, 'x')).starts_with("HTTP/1.1 431 "));
}

TEST_F(Metrics, NothingSecretAndNothingOfAClientIsInIt) {
  Client client(world.info() + " application_name=tell_tale");
  client.run("SELECT 'a text of its own'");
  (void)client.text(PQprepare(client.get(), "its_name", "SELECT 2", 0, nullptr));
  const auto text = world.text();
  for (const auto* word : {"tell_tale", "a text", "its_name", "w0rd", "l00ker", "SCRAM", "127.0.0.1", "user"}) EXPECT_EQ(text.find(word), std::string::npos) << word;
  const auto sessions = world.ask({{"verb", "sessions"}}).dump();
  for (const auto* word : {"a text", "w0rd", "l00ker", "SCRAM"}) EXPECT_EQ(sessions.find(word), std::string::npos) << word;
}

}  // namespace
}  // namespace midstream::gate
