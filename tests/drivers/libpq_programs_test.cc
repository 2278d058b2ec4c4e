// libpq's own test programs through the shipping gate, which is switched every second between two servers. The programs make their
// tables as they go, so both places have one set of data: one PostgreSQL 15 at two addresses, of which one at a time has the title.
// What is switched is real: each session's backend, with all that belongs to it. By tests/drivers/run.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <pwd.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <map>
#include <mutex>
#include <thread>

#include "base/text.h"
#include "gate/gate.h"
#include "gate/live_server.h"
#include "sys/child.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/net.h"

namespace midstream::gate {
namespace {

namespace fs = std::filesystem;
constexpr int kGatePort = 6432, kWorkers = 3;

std::int64_t from_environment(const char* name, std::int64_t otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : std::atoll(value);
}

// One server in two places, and the gate before them.
class Twins {
 public:
  // "" once it stands.
  std::string start() {
    if (auto cannot = cannot_run_live(); !cannot.empty()) return cannot;
    std::string name = (fs::temp_directory_path() / "midstream-twins-XXXXXX").string();
    root_ = ::mkdtemp(name.data());
    if (::chown(root_.c_str(), ::getpwnam("postgres")->pw_uid, ::getpwnam("postgres")->pw_gid) != 0) return "chown";
    fs::permissions(root_, fs::perms::others_exec | fs::perms::others_read, fs::perm_options::add);
    server_ = std::make_unique<LiveServer>(root_, "twin", 5432, std::vector<std::string>{"fsync=off", "max_connections=200", "listen_addresses=127.0.0.1,127.0.0.2"});
    if (auto failed = server_->start(); !failed.empty()) return failed;
    for (const char* sql : {"CREATE ROLE app LOGIN PASSWORD 'w0rd'", "CREATE ROLE looker LOGIN SUPERUSER PASSWORD 'l00ker'", "CREATE DATABASE app OWNER app", "GRANT SET ON PARAMETER lc_messages TO app"})
      if (const auto done = server_->sql(sql); done.code != 0) return done.err;
    const auto done = server_->sql(
        "CREATE SCHEMA midstream; CREATE TABLE midstream.titles (place text, state text); INSERT INTO midstream.titles VALUES ('127.0.0.1', 'owner'), ('127.0.0.2', 'standby');"
        "CREATE VIEW midstream.owner AS SELECT state FROM midstream.titles WHERE place = host(inet_server_addr())", "app");
    if (done.code != 0) return done.err;
    std::ofstream(root_ / "looker") << "l00ker\n";
    std::ofstream(root_ / "gate.yaml") << fmt::format(
        "listen: 127.0.0.1:{1}\ncontrol: {0}/gate.sock\nservers:\n  old: {{ host: 127.0.0.1, port: 5432 }}\n  new: {{ host: 127.0.0.2, port: 5432 }}\n"
        "databases: app\nlookup: {{ user: looker, password_file: {0}/looker }}\n", root_.string(), kGatePort);
    auto child = Child::start({"setpriv", "--pdeathsig", "KILL", MIDSTREAM_PROGRAM, "gate", root_ / "gate.yaml"});
    if (!child) return child.error().text();
    gate_.emplace(std::move(*child));
    for (const auto deadline = Deadline::in(Millis(20'000)); !connect_tcp("127.0.0.1", kGatePort, deadline); pause_for(Millis(10), {}))
      if (deadline.expired()) return "the gate does not start";
    return "";
  }
  ~Twins() {
    gate_.reset();
    server_.reset();
    if (!root_.empty()) fs::remove_all(root_);
  }
  const fs::path& root() const { return root_; }
  Json ask(Json request) const {
    request["database"] = "app";
    const auto answer = ask_gate(root_ / "gate.sock", request);
    return answer ? *answer : Json{{"failed", answer.error().text()}};
  }
  Exit sql(const std::string& text) const { return server_->sql(text, "app"); }
  // As the postgres mover does it, tried until it is done.
  Json go(bool to_new) {
    const std::string to = to_new ? "new" : "old";
    ask({{"verb", "prepare"}, {"to", to}, {"for_ms", 60'000}});
    Json closed;
    for (const auto deadline = Deadline::in(Millis(30'000));; pause_for(Millis(10), {})) {
      closed = ask({{"verb", "close"}, {"to", to}, {"for_ms", 5'000}, {"within_ms", 2'000}});
      if (!closed.contains("failed") || deadline.expired()) break;
    }
    if (closed.contains("failed")) return closed;
    title(!to_new, "closing");
    const auto kept = ask({{"verb", "keep"}, {"to", to}});
    if (kept.contains("failed")) return title(!to_new, "owner"), kept;
    title(!to_new, "yielded");
    title(to_new, "owner");
    return ask({{"verb", "over"}, {"to", to}});
  }

 private:
  void title(bool of_new, const char* state) {
    EXPECT_EQ(sql(fmt::format("UPDATE midstream.titles SET state = '{}' WHERE place = '127.0.0.{}'", state, of_new ? 2 : 1)).code, 0);
  }
  fs::path root_;
  std::unique_ptr<LiveServer> server_;
  std::optional<Child> gate_;
};

// The programs, and what became of each run.
class Programs {
 public:
  Programs(Twins& world, fs::path source) : world_(world), source_(std::move(source)) {}
  void prepare() {
    for (const char* example : {"testlibpq2", "testlibpq3"}) {
      const auto text = read_file(source_ / "src/test/examples" / (std::string(example) + ".sql"));
      ASSERT_TRUE(text);
      EXPECT_EQ(world_.sql("SET SESSION AUTHORIZATION app; SET search_path = public; " + *text).code, 0);
    }
    std::ofstream(world_.root() / "large") << std::string(300'000, 'x');
  }
  // One round of one worker. Its tables are not there at first: that is part of what the wire is to show.
  void pipelines(int worker, int round) {
    const auto anew = world_.sql(fmt::format("SET client_min_messages = error; DROP SCHEMA IF EXISTS w{0} CASCADE; CREATE SCHEMA w{0} AUTHORIZATION app", worker));
    if (anew.code != 0) failed("its schema", anew.err);
    for (const auto& test : split(std::string(trim(run_program({program(), "tests"}).out)), '\n')) {
      // One transaction of some 300,000 statements, which no switch can pass: now and then is often enough.
      if (test == "uniqviol" && (worker != 0 || round % 8 != 0)) continue;
      const auto trace = world_.root() / fmt::format("trace-{}", worker);
      fs::remove(trace);
      const auto wanted = read_file(source_ / "src/test/modules/libpq_pipeline/traces" / (test + ".trace"));
      std::vector<std::string> argv{program(), "-r", "700"};
      if (wanted) argv.insert(argv.end(), {"-t", trace});
      argv.insert(argv.end(), {test, fmt::format("options='-c search_path=w{}'", worker)});
      run(test, argv);
      if (wanted && read_file(trace).value_or("") != *wanted) failed(test, "what was said on the wire is not what it is without a gate");
    }
  }
  void examples() {
    const auto at = [&](const char* name) { return (source_ / "src/test/examples" / name).string(); };
    run("testlibpq", {at("testlibpq"), ""});
    run("testlibpq3", {at("testlibpq3"), ""});
    run("testlibpq4", {at("testlibpq4"), "pg_class", "app", "app"});
    // Not testlo64, which writes and reads 4 GiB of zeros.
    const auto out = world_.root() / "large.out";
    run("testlo", {at("testlo"), "app", world_.root() / "large", out});
    if (fs::file_size(out) != fs::file_size(world_.root() / "large")) failed("testlo", "the large object came back with another size");
  }
  // It ends when it was told four times.
  void told_four_times() {
    // A name of its own: the session of the run before may still be on its way out.
    const auto name = fmt::format("listener {}", ++listeners_);
    auto heard = std::async(std::launch::async, [&] { run("testlibpq2", {(source_ / "src/test/examples/testlibpq2").string(), "application_name='" + name + "'"}, true); });
    // Not before it listens, with the second of its requests; and through the gate.
    const auto listens = [&] {
      const auto answer = world_.ask({{"verb", "sessions"}});
      for (const auto& one : answer.value("sessions", Json::array()))
        if (one.value("application", "") == name && one.value("requests", 0) == 2) return true;
      return false;
    };
    for (const auto deadline = Deadline::in(Millis(10'000)); !listens(); pause_for(Millis(20), {}))
      if (deadline.expired()) return failed("testlibpq2", "it does not listen");
    for (int i = 0; i < 4; ++i, pause_for(Millis(500), {})) {
      const auto told = run_program(here({"psql", "-X", "-c", "INSERT INTO testlibpq2.tbl1 VALUES (1)"}));
      if (told.code != 0) failed("psql", told.err);
    }
    heard.get();
  }
  std::map<std::string, int> runs;
  std::vector<std::string> failures;

 private:
  std::string program() const { return source_ / "src/test/modules/libpq_pipeline/libpq_pipeline"; }
  static std::vector<std::string> here(std::vector<std::string> argv) {
    argv.insert(argv.begin(), {"env", "PGHOST=127.0.0.1", fmt::format("PGPORT={}", kGatePort), "PGUSER=app", "PGPASSWORD=w0rd", "PGDATABASE=app", "PGSSLMODE=disable"});
    return argv;
  }
  void run(const std::string& name, std::vector<std::string> argv, bool quiet = false) {
    const auto exit = run_program(here(std::move(argv)));
    if (exit.code != 0) failed(name, fmt::format("exit code {}: {}{}", exit.code, exit.err, quiet ? "" : exit.out));
    const std::lock_guard lock(mutex_);
    ++runs[name];
  }
  void failed(const std::string& name, const std::string& why) {
    const std::lock_guard lock(mutex_);
    failures.push_back(name + ": " + why);
  }
  Twins& world_;
  const fs::path source_;
  int listeners_ = 0;
  std::mutex mutex_;
};

TEST(LibpqPrograms, NoticeNothing) {
  const char* source = std::getenv("MIDSTREAM_POSTGRES_SOURCE");
  ASSERT_NE(source, nullptr) << "tests/drivers/run builds libpq's test programs and says where";
  Twins world;
  ASSERT_EQ(world.start(), "");
  Programs programs(world, source);
  ASSERT_NO_FATAL_FAILURE(programs.prepare());
  std::atomic<bool> over = false;
  const auto repeat = [&](auto body) {
    return std::jthread([&over, body]() mutable {
      for (; !over; pause_for(Millis(50), {})) body();
    });
  };
  std::vector<std::jthread> workers;
  for (int w = 0; w < kWorkers; ++w) workers.push_back(repeat([&, w, round = 0]() mutable { programs.pipelines(w, round++); }));
  workers.push_back(repeat([&] { programs.examples(); }));
  workers.push_back(repeat([&] { programs.told_four_times(); }));
  const auto seconds = from_environment("MIDSTREAM_SECONDS", 60), every = from_environment("MIDSTREAM_EVERY_MS", 1'000);
  int switches = 0, moved = 0;
  for (const auto end = Deadline::in(Millis(1'000 * seconds)); !end.expired(); ++switches) {
    const auto next = Deadline::in(Millis(every));
    const auto gone = world.go(switches % 2 == 0);
    EXPECT_FALSE(gone.contains("failed")) << gone.dump();
    EXPECT_TRUE(gone.value("ended", Json::array()).empty()) << gone.dump();
    moved += gone.value("moved", 0);
    pause_for(next.remaining(), {});
  }
  over = true;
  workers.clear();
  EXPECT_TRUE(programs.failures.empty()) << join(programs.failures, "\n");
  std::string ran;
  for (const auto& [name, times] : programs.runs) ran += fmt::format(" {} {}", name, times);
  EXPECT_EQ(programs.runs.size(), 16u) << ran;
  fmt::print("{} switches in {} s, {} sessions moved; runs:{}\n", switches, seconds, moved, ran);
}

}  // namespace
}  // namespace midstream::gate
