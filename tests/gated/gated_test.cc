// The switch of a database whose clients come through the gate: the shipping mover, the shipping gate as a program, two real
// PostgreSQL 15, and pgbench as the clients. Nobody may notice more than a wait.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <libpq-fe.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <future>
#include <sstream>

#include "base/text.h"
#include "gate/gate.h"
#include "movers/postgres/live_clusters.h"
#include "sys/child.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/net.h"

namespace midstream {
namespace {

namespace fs = std::filesystem;
using postgres::test::World;
constexpr int kGatePort = 6432;

#define OK(expression) ASSERT_TRUE(expression) << (expression).error().text()

int from_environment(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoi(value);
}

// pgbench through the gate, from its start to the end of its time.
class Bench {
 public:
  Bench(fs::path directory, int clients, int rate, int seconds) : directory_(std::move(directory)) {
    fs::remove_all(directory_);
    fs::create_directories(directory_);
    std::ofstream(directory_ / "script") << "\\set c random(1, 500)\n\\set k random(1, 1000000000000000)\nBEGIN;\n"
                                            "INSERT INTO public.orders (key, customer, body) VALUES (:k, :c, 'order');\n"
                                            "UPDATE public.customers SET note = 'seen' WHERE id = :c;\nEND;\n";
    const auto command = fmt::format("exec env PGPASSWORD=client-password PGSSLMODE=disable /usr/lib/postgresql/15/bin/pgbench -h 127.0.0.1 -p {} -U client -n "
                                     "-M prepared -c {} -j 2 -R {} -T {} -f {d}/script -l --log-prefix {d}/log shop > {d}/out 2>&1",
                                     kGatePort, clients, rate, seconds, fmt::arg("d", directory_.string()));
    auto child = Child::start({"setpriv", "--pdeathsig", "KILL", "sh", "-c", command});
    if (child) child_.emplace(std::move(*child));
  }
  void end() { EXPECT_TRUE(child_->wait(Deadline::in(Millis(600'000)))); }
  std::string out() const {
    const auto text = read_file(directory_ / "out");
    return text ? *text : text.error().text();
  }
  // As pgbench itself says: transactions that it was told are committed.
  std::int64_t processed() const { return number_after("number of transactions actually processed: "); }
  std::int64_t failed() const { return number_after("number of failed transactions: "); }
  // The longest wait of the transactions that ended between the two instants (microseconds since 1970).
  std::int64_t longest_us(std::int64_t from_us, std::int64_t to_us) {
    if (waits_.empty()) read_logs();
    std::int64_t longest = 0;
    for (const auto& [at, wait] : waits_)
      if (at >= from_us && at <= to_us) longest = std::max(longest, wait);
    return longest;
  }

 private:
  std::int64_t number_after(const std::string& words) const {
    const auto text = out();
    const auto at = text.find(words);
    return at == std::string::npos ? -1 : std::atoll(text.c_str() + at + words.size());
  }
  // client, transaction, microseconds, script, second, microsecond, lag
  void read_logs() {
    for (const auto& file : fs::directory_iterator(directory_)) {
      if (!file.path().filename().string().starts_with("log")) continue;
      std::ifstream in(file.path());
      std::int64_t client = 0, number = 0, wait = 0, script = 0, second = 0, micro = 0, lag = 0;
      while (in >> client >> number >> wait >> script >> second >> micro >> lag) waits_.emplace_back(second * 1'000'000 + micro, wait);
    }
  }
  fs::path directory_;
  std::optional<Child> child_;
  std::vector<std::pair<std::int64_t, std::int64_t>> waits_;
};

class Gated : public testing::Test {
 protected:
  void SetUp() override {
    if (!world.usable()) GTEST_SKIP() << "needs root, PostgreSQL 15 and a network namespace";
    directory = fs::temp_directory_path() / fmt::format("midstream-gated-{}", ::getpid());
    fs::create_directories(directory);
    world.use_gate([this](std::string_view verb, const Json& args) {
      auto request = args;
      request["verb"] = verb;
      if (on_ask) on_ask(std::string(verb));
      return gate::ask_gate(directory / "gate.sock", request);
    });
    for (auto* server : {&world.old_server(), &world.new_server()}) {
      server->sql("postgres", "ALTER SYSTEM SET log_statement = 'none'");
      server->sql("postgres", "ALTER SYSTEM SET log_min_duration_statement = -1");
      server->sql("postgres", "SELECT pg_reload_conf()");
    }
    world.make_shop();
    world.old_server().sql("postgres", "ALTER DATABASE shop CONNECTION LIMIT -1");
    world.forget();
    world.restart_agents(true);
  }
  void TearDown() override {
    gate.reset();
    if (!world.usable()) return;
    world.crash_at("");
    world.restart_agents(false);
    world.drop_shop();
    world.forget_acts();
    world.use_gate(nullptr);
    fs::remove_all(directory);
  }
  void follow() {
    for (const char* kind : {"source", "target", "follow"}) OK(world.apply(kind));
    ASSERT_TRUE(world.wait_reached("follow", Millis(20'000))) << world.why;
    start_gate();
  }
  void start_gate() {
    const auto record = parse_json(*read_file(world.state_of("alpha") / "autumn-1.json"));
    std::ofstream(directory / "password") << (*record)["gate_password"].get<std::string>() << "\n";
    std::ofstream(directory / "gate.yaml") << fmt::format(
        "listen: 127.0.0.1:{1}\ncontrol: {0}/gate.sock\nservers:\n  old: {{ host: 127.0.0.1, port: 5501 }}\n  new: {{ host: 127.0.0.1, port: 5502 }}\n"
        "databases: shop\nlookup: {{ user: midstream_gate_autumn-1, password_file: {0}/password }}\n", directory.string(), kGatePort);
    auto child = Child::start({"setpriv", "--pdeathsig", "KILL", MIDSTREAM_PROGRAM, "gate", directory / "gate.yaml"});
    ASSERT_TRUE(child);
    gate.emplace(std::move(*child));
    const auto deadline = Deadline::in(Millis(20'000));
    while (!connect_tcp("127.0.0.1", kGatePort, deadline) && !deadline.expired()) pause_for(Millis(10), {});
  }
  std::int64_t orders(bool on_new) {
    return std::atoll((on_new ? world.new_server() : world.old_server()).sql("shop", "SELECT count(*) FROM orders").c_str());
  }
  void wait_orders(bool on_new, std::int64_t more) {
    const auto wanted = orders(on_new) + more;
    for (const auto deadline = Deadline::in(Millis(30'000)); orders(on_new) < wanted; pause_for(Millis(20), {}))
      ASSERT_FALSE(deadline.expired()) << "clients do not go on";
  }
  // Tries until it is done, as the engine does; how often it was postponed. A backend of ours may just be ended by an agent that
  // clears up after the one that died.
  int switch_over(bool to_new, Result<Json>& done) {
    int postponed = 0;
    for (const auto deadline = Deadline::in(Millis(60'000));; ++postponed) {
      done = to_new ? world.apply("switch") : world.undo("switch");
      const bool again = !done && (done.error().kind == ErrorKind::retry || done.error().kind == ErrorKind::unknown);
      if (!again || deadline.expired()) return postponed;
      fmt::print("postponed: {}\n", done.error().text());
      pause_for(Millis(50), {});
    }
  }
  World& world = World::get();
  fs::path directory;
  std::optional<Child> gate;
  std::function<void(const std::string& verb)> on_ask;
};

TEST_F(Gated, ToAndFroUnderLoadNobodyNotices) {
  const int clients = from_environment("MIDSTREAM_CLIENTS", 20), switches = from_environment("MIDSTREAM_SWITCHES", 4);
  const int rate = from_environment("MIDSTREAM_RATE", 200);
  ASSERT_NO_FATAL_FAILURE(follow());
  Bench bench(directory / "bench", clients, rate, from_environment("MIDSTREAM_SECONDS", 20));
  ASSERT_NO_FATAL_FAILURE(wait_orders(false, clients));
  std::vector<std::pair<std::int64_t, std::int64_t>> windows;
  int postponed = 0;
  for (int i = 0; i < switches; ++i) {
    const bool to_new = i % 2 == 0;
    const auto from = wall_now_ms() * 1000;
    Result<Json> done = Json::object();
    postponed += switch_over(to_new, done);
    OK(done);
    windows.emplace_back(from, wall_now_ms() * 1000 + 500'000);
    const auto& figures = (*done)["databases"]["shop"];
    fmt::print("switch {}: {}\n", i, Json{{"total_ms", figures["total_ms"]}, {"fence_ms", figures["fence_ms"]}, {"proof_ms", figures["proof_ms"]}, {"barrier_ms", figures["barrier_ms"]}, {"took_ms", figures["took_ms"]}, {"gate", figures["gate"]}}.dump());
    ASSERT_EQ(figures["gate"].value("moved", 0), clients) << figures.dump();
    EXPECT_TRUE(figures["gate"].value("ended", Json::array()).empty()) << figures.dump();
    ASSERT_NO_FATAL_FAILURE(wait_orders(to_new, clients));
  }
  bench.end();
  EXPECT_EQ(bench.failed(), 0) << bench.out();
  EXPECT_EQ(bench.out().find("aborted"), std::string::npos) << bench.out();
  EXPECT_EQ(orders(switches % 2 == 1), bench.processed()) << bench.out();
  std::vector<std::int64_t> stalls;
  for (const auto& [from, to] : windows) stalls.push_back(bench.longest_us(from, to));
  std::ranges::sort(stalls);
  fmt::print("{} switches, {} postponed, {} transactions; longest wait of a transaction around each: p50 {} us, p95 {} us, worst {} us\n", switches, postponed,
             bench.processed(), stalls[stalls.size() / 2], stalls[stalls.size() * 95 / 100], stalls.back());
}

// The agents die at every point of a switch; the gate and its clients live. They wait, and nothing fails.
TEST_F(Gated, WhereverTheAgentsDieClientsOnlyWait) {
  ASSERT_NO_FATAL_FAILURE(follow());
  const std::vector<std::string> points{"switch.prepared", "give.held", "give.closing", "give.fenced", "give.barrier", "give.kept", "give.yielded", "switch.given",
                                        "take.arrived", "take.slot", "take.owner", "switch.taken", "switch.over", "after.reverse"};
  Bench bench(directory / "bench", 10, 100, from_environment("MIDSTREAM_SECONDS", 40));
  ASSERT_NO_FATAL_FAILURE(wait_orders(false, 10));
  bool on_new = false;
  for (const auto& point : points) {
    SCOPED_TRACE(point);
    world.crash_at(point);
    try {
      const auto done = on_new ? world.undo("switch") : world.apply("switch");
      ADD_FAILURE() << "nobody died: " << (done ? done->dump() : done.error().text());
    } catch (const postgres::test::Crash&) {
    }
    // A moment without agents: the lease has not ended, the gate's hold may.
    pause_for(Millis(300), {});
    world.restart_agents(true);
    Result<Json> done = Json::object();
    switch_over(!on_new, done);
    OK(done);
    on_new = !on_new;
    ASSERT_NO_FATAL_FAILURE(wait_orders(on_new, 20));
  }
  bench.end();
  EXPECT_EQ(bench.failed(), 0) << bench.out();
  EXPECT_EQ(bench.out().find("aborted"), std::string::npos) << bench.out();
  EXPECT_EQ(orders(on_new), bench.processed()) << bench.out();
}

}  // namespace
}  // namespace midstream
