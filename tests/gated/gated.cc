#include "tests/gated/gated.h"

#include <fmt/format.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <sstream>

#include "gate/gate.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/net.h"

namespace midstream {

namespace fs = std::filesystem;
using postgres::test::World;

int from_environment(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoi(value);
}

Bench::Bench(fs::path directory, int clients, int rate) : directory_(std::move(directory)) {
  fs::remove_all(directory_);
  fs::create_directories(directory_);
  std::ofstream(directory_ / "script") << "\\set c random(1, 500)\n\\set k random(1, 1000000000000000)\nBEGIN;\n"
                                          "INSERT INTO public.orders (key, customer, body) VALUES (:k, :c, 'order');\n"
                                          "UPDATE public.customers SET note = 'seen' WHERE id = :c;\nEND;\n";
  const auto command = fmt::format("exec env PGPASSWORD=client-password PGSSLMODE=disable /usr/lib/postgresql/15/bin/pgbench -h 127.0.0.1 -p {} -U client -n "
                                   "-M prepared -c {} -j 2 -R {} -T 3600 -f {d}/script -l --log-prefix {d}/log shop > {d}/out 2>&1",
                                   kGatePort, clients, rate, fmt::arg("d", directory_.string()));
  auto child = Child::start({"setpriv", "--pdeathsig", "KILL", "sh", "-c", command});
  if (child) child_.emplace(std::move(*child));
}

void Bench::end() {
  ::kill(child_->pid(), SIGALRM);  // how pgbench is told that its time (-T) is over
  EXPECT_TRUE(child_->wait(Deadline::in(Millis(60'000))));
}

std::string Bench::out() const {
  const auto text = read_file(directory_ / "out");
  return text ? *text : text.error().text();
}

std::int64_t Bench::longest_us(std::int64_t from_us, std::int64_t to_us) {
  if (waits_.empty()) read_logs();
  std::int64_t longest = 0;
  for (const auto& [at, wait] : waits_)
    if (at >= from_us && at <= to_us) longest = std::max(longest, wait);
  return longest;
}

std::int64_t Bench::longest_ended_us(std::int64_t from_us, std::int64_t to_us) {
  const auto longest = longest_us(from_us, to_us);
  const auto it = std::ranges::find_if(waits_, [&](const auto& one) { return one.first >= from_us && one.first <= to_us && one.second == longest; });
  return it == waits_.end() ? 0 : it->first - from_us;
}

std::int64_t Bench::longest_after_us(std::int64_t from_us, std::int64_t to_us) {
  if (waits_.empty()) read_logs();
  std::int64_t longest = 0;
  for (const auto& [at, wait] : waits_)
    if (at - wait > from_us && at <= to_us) longest = std::max(longest, wait);
  return longest;
}

std::int64_t Bench::longest_at_us(std::int64_t instant_us) {
  if (waits_.empty()) read_logs();
  std::int64_t longest = 0;
  for (const auto& [at, wait] : waits_)
    if (at >= instant_us && at - wait <= instant_us) longest = std::max(longest, wait);
  return longest;
}

std::int64_t Bench::number_after(const std::string& words) const {
  const auto text = out();
  const auto at = text.find(words);
  return at == std::string::npos ? -1 : std::atoll(text.c_str() + at + words.size());
}

// client, transaction, microseconds, script, second, microsecond, lag
void Bench::read_logs() {
  for (const auto& file : fs::directory_iterator(directory_)) {
    if (!file.path().filename().string().starts_with("log")) continue;
    std::ifstream in(file.path());
    std::int64_t client = 0, number = 0, wait = 0, script = 0, second = 0, micro = 0, lag = 0;
    while (in >> client >> number >> wait >> script >> second >> micro >> lag) waits_.emplace_back(second * 1'000'000 + micro, wait);
  }
}

void Gated::SetUp() {
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
    // Why somebody waited: MIDSTREAM_EXPLAIN names a directory, where both servers' logs are left.
    if (std::getenv("MIDSTREAM_EXPLAIN") != nullptr)
      for (const char* setting : {"log_min_duration_statement = 60", "log_lock_waits = on", "deadlock_timeout = '15ms'", "log_autovacuum_min_duration = 0",
                                  "log_checkpoints = on", "log_line_prefix = '%n [%p] %b %u %a '"})
        server->sql("postgres", fmt::format("ALTER SYSTEM SET {}", setting));
    server->sql("postgres", "SELECT pg_reload_conf()");
  }
  world.make_shop();
  world.old_server().sql("postgres", "ALTER DATABASE shop CONNECTION LIMIT -1");
  world.forget();
  world.restart_agents(true);
}

void Gated::TearDown() {
  gate.reset();
  if (!world.usable()) return;
  if (const char* into = std::getenv("MIDSTREAM_EXPLAIN"); into != nullptr) {
    std::ofstream(fs::path(into) / "old.log") << world.old_server().log();
    std::ofstream(fs::path(into) / "new.log") << world.new_server().log();
  }
  world.crash_at("");
  world.restart_agents(false);
  world.drop_shop();
  world.forget_acts();
  world.use_gate(nullptr);
  fs::remove_all(directory);
}

void Gated::follow() {
  for (const char* kind : {"source", "target", "follow"}) OK(world.apply(kind));
  ASSERT_TRUE(world.wait_reached("follow", Millis(20'000))) << world.why;
  start_gate();
}

void Gated::start_gate() {
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

std::int64_t Gated::orders(bool on_new) {
  return std::atoll((on_new ? world.new_server() : world.old_server()).sql("shop", "SELECT count(*) FROM orders").c_str());
}

void Gated::wait_orders(bool on_new, std::int64_t more) {
  const auto wanted = orders(on_new) + more;
  for (const auto deadline = Deadline::in(Millis(30'000)); orders(on_new) < wanted; pause_for(Millis(20), {}))
    ASSERT_FALSE(deadline.expired()) << "clients do not go on";
}

int Gated::switch_over(bool to_new, Result<Json>& done) {
  int postponed = 0;
  // The gate opens a connection to the other server every 30 ms a thread, so that nobody feels it.
  for (const auto deadline = Deadline::in(Millis(60'000 + 100 * from_environment("MIDSTREAM_IDLE", 0)));; ++postponed) {
    done = to_new ? world.apply("switch") : world.undo("switch");
    const bool again = !done && (done.error().kind == ErrorKind::retry || done.error().kind == ErrorKind::unknown);
    if (!again || deadline.expired()) return postponed;
    fmt::print("postponed: {}\n", done.error().text());
    pause_for(Millis(50), {});
  }
}

}  // namespace midstream
