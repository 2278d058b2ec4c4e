// The database that PostgreSQL's own regression tests leave goes over, by each road: every kind of object that its authors thought of.
// By tests/regress/run.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>

#include "base/text.h"
#include "movers/postgres/live_clusters.h"
#include "sys/file.h"

namespace midstream::postgres::test {
namespace {

namespace fs = std::filesystem;

#define OK(...)                                           \
  do {                                                    \
    const auto& ok_result_ = (__VA_ARGS__);               \
    ASSERT_TRUE(ok_result_) << ok_result_.error().text(); \
  } while (false)

constexpr const char* kPrograms = "/usr/lib/postgresql/15/bin";

std::int64_t ms_since(std::chrono::nanoseconds start) { return std::chrono::duration_cast<Millis>(boot_now() - start).count(); }

Result<Exit> as_server(std::vector<std::string> command) {
  std::vector<std::string> argv{"setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig=KILL"};
  argv.insert(argv.end(), command.begin(), command.end());
  return run_child(argv, "", Deadline::in(Millis(900'000)));
}

// A dump's entries by their names ("Name: t; Type: TABLE; Schema: public; Owner: postgres"), the rows of a table in the order of their text:
// where they lie on disk is no part of what a database holds.
using Dump = std::map<std::string, std::string>;

Dump read_dump(const fs::path& path) {
  std::ifstream file(path);
  Dump dump;
  std::string line, entry = "the head", text;
  std::vector<std::string> rows;
  bool inside = false;
  while (std::getline(file, line)) {
    if (inside && line != "\\.") {
      rows.push_back(line);
      continue;
    }
    if (inside) {
      std::ranges::sort(rows);
      for (const auto& row : rows) text += row + '\n';
      rows.clear();
      inside = false;
    }
    if (line.starts_with("-- Name: ") || line.starts_with("-- Data for Name: ")) {
      dump[entry] += text;
      text.clear();
      entry = line.substr(3);
    } else if (!line.empty() && line != "--" && !line.starts_with("SET ") && !line.starts_with("SELECT pg_catalog.set_config(") &&
               !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict ")) {  // with a random word
      inside = line.starts_with("COPY ") && line.ends_with("FROM stdin;");
      text += line + '\n';
    }
  }
  dump[entry] += text;
  return dump;
}

// What is otherwise in `there`, an entry a line, with the first of its lines that differs.
std::vector<std::string> differences(const Dump& here, const Dump& there) {
  std::vector<std::string> out;
  const auto first_difference = [](const std::string& a, const std::string& b) {
    const auto ours = split(a, '\n'), theirs = split(b, '\n');
    for (std::size_t i = 0; i < std::max(ours.size(), theirs.size()); ++i) {
      const auto left = i < ours.size() ? ours[i] : "nothing", right = i < theirs.size() ? theirs[i] : "nothing";
      if (left != right) return fmt::format("{} | {}", left.substr(0, 200), right.substr(0, 200));
    }
    return std::string("nothing");
  };
  for (const auto& [entry, text] : here) {
    const auto found = there.find(entry);
    if (found == there.end()) out.push_back("only on old: " + entry);
    else if (found->second != text) out.push_back(fmt::format("otherwise: {}: {}", entry, first_difference(text, found->second)));
  }
  for (const auto& [entry, text] : there)
    if (!here.contains(entry)) out.push_back("only on new: " + entry);
  return out;
}

// Those tables' columns sorted, and without their rows, in which columns have their order: `verify` has compared those by name.
Dump in_any_order(Dump dump, const std::set<std::string>& tables) {
  for (const auto& table : tables) {
    for (auto& [entry, text] : dump) {
      if (entry.starts_with(fmt::format("Data for Name: {};", table))) text.clear();
      if (!entry.starts_with(fmt::format("Name: {}; Type: TABLE;", table))) continue;
      auto lines = split(text, '\n');
      for (auto& line : lines)
        if (line.ends_with(',')) line.pop_back();
      std::ranges::sort(lines);
      text = join(lines, "\n");
    }
  }
  return dump;
}

class Regress : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    std::setvbuf(stdout, nullptr, _IOLBF, 0);
    world = &World::get();
    if (!world->usable()) return;
    scratch = world->old_server().directory().parent_path() / "scratch";
    fs::create_directories(scratch);
    ASSERT_EQ(::chown(scratch.c_str(), ::getpwnam("postgres")->pw_uid, ::getpwnam("postgres")->pw_gid), 0);
    world->database = "regression";
    world->patience = Millis(600'000);
    const std::string source = std::string(std::getenv("MIDSTREAM_POSTGRES_SOURCE")) + "/src/test/regress";
    const auto start = boot_now();
    const auto done = as_server({source + "/pg_regress", "--inputdir=" + source, "--outputdir=" + scratch.string(), "--bindir=" + std::string(kPrograms), "--dlpath=" + source,
                                 "--max-concurrent-tests=20", "--schedule=" + source + "/parallel_schedule", "--host=" + world->old_server().directory().string(),
                                 fmt::format("--port={}", world->old_server().port()), "--user=postgres"});
    ASSERT_TRUE(done) << done.error().text();
    const auto lines = split(done->out, '\n');
    for (const auto& line : lines)
      if (line.find("passed") != std::string::npos || line.find("FAILED") != std::string::npos || line.find("failed") != std::string::npos) fmt::print("{}\n", line);
    fmt::print("the regression tests took {} ms\n", ms_since(start));
    made = dump(world->old_server(), "before");
  }

  void SetUp() override {
    if (!world->usable()) GTEST_SKIP() << "needs root, PostgreSQL 15 and a network namespace";
    world->forget();
    world->restart_agents(false);
  }

  static Dump dump(Server& server, const std::string& name) {
    const auto path = scratch / (name + ".sql");
    const auto done = as_server({std::string(kPrograms) + "/pg_dump", "-h", server.directory(), "-p", std::to_string(server.port()), "-U", "postgres", "-f", path, "-d", "regression"});
    EXPECT_TRUE(done && done->code == 0) << (done ? done->err : done.error().text());
    return read_dump(path);
  }

  // What `check` names, one a line; true where nothing of it stands in the way.
  bool check() {
    named.clear();
    bool ok = true;
    for (const char* kind : {"source", "target"}) {
      const auto findings = world->check(kind);
      EXPECT_TRUE(findings) << findings.error().text();
      if (!findings) return false;
      for (const auto& one : *findings) {
        if (one.value("ok", false) && one.value("todo", "").empty()) continue;
        named.push_back(fmt::format("{}{}: {}", one.value("ok", false) ? "" : "NOT READY: ", one.value("what", ""), one.value("detail", "")));
        ok = ok && one.value("ok", false);
      }
    }
    fmt::print("check names:\n");
    for (const auto& line : named) fmt::print("  {}\n", line);
    return ok;
  }

  void move() {
    const auto reached = [&](const std::string& kind) { return world->wait_reached(kind, Millis(600'000)); };
    for (const char* kind : {"source", "target", "follow"}) {
      const auto start = boot_now();
      OK(world->apply(kind));
      ASSERT_TRUE(reached(kind)) << world->why;
      fmt::print("{}: {} ms\n", kind, ms_since(start));
    }
    OK(world->apply("verify"));
    ASSERT_TRUE(reached("verify")) << world->why;
    const auto verdict = world->observe("verify");
    OK(verdict);
    fmt::print("verify: {}\n", verdict->dump());
    OK(world->apply("switch"));
    OK(world->apply("finish"));
  }

  // New has what old had, and old has what it had.
  void compare() {
    const auto after = dump(world->new_server(), "after");
    EXPECT_EQ(world->old_server().sql("postgres", "ALTER DATABASE regression WITH ALLOW_CONNECTIONS true CONNECTION LIMIT -1"), "");
    const auto left = dump(world->old_server(), "left");
    const auto missing = differences(in_any_order(made, reordered()), in_any_order(after, reordered()));
    fmt::print("of {} entries of pg_dump {} differ on new\n", made.size(), missing.size());
    for (const auto& line : missing) ADD_FAILURE() << line;
    for (const auto& line : differences(made, left)) ADD_FAILURE() << "old has changed: " << line;
    compare_columns();
  }

  // pg_dump does not show in which order inherited columns stand: where it is another one, `check` has named the table, and no other.
  void compare_columns() {
    const std::string sql =
        "SELECT string_agg(line, E'\\n') FROM (SELECT a.attrelid::regclass::text || ': ' || string_agg(quote_ident(attname), ', ' ORDER BY attnum) AS line FROM pg_attribute a "
        "JOIN pg_class c ON c.oid = a.attrelid WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND attnum > 0 AND NOT attisdropped AND "
        "c.relnamespace::regnamespace::text NOT IN ('midstream', 'pg_catalog', 'information_schema') GROUP BY a.attrelid) AS t";
    const auto lines = [&](Server& server) {
      std::set<std::string> out;
      for (const auto& line : split(server.sql("regression", sql), '\n')) out.insert(line);
      return out;
    };
    const auto old_ones = lines(world->old_server());
    const auto new_ones = lines(world->new_server());
    ASSERT_GT(old_ones.size(), 100U);
    std::set<std::string> otherwise;
    for (const auto& line : old_ones)
      if (!new_ones.contains(line)) otherwise.insert(line.substr(0, line.find(':')));
    fmt::print("{} tables have their columns in another order\n", otherwise.size());
    EXPECT_EQ(otherwise, reordered());
  }

  // The tables of which `check` says that their columns come in another order; without "public.", as pg_dump and regclass name them here.
  std::set<std::string> reordered() const {
    std::set<std::string> tables;
    const std::string_view mark = "columns of public.";
    for (const auto& line : named)
      if (line.starts_with(mark)) tables.insert(line.substr(mark.size(), line.find(" in ") - mark.size()));
    return tables;
  }

  static inline World* world = nullptr;
  static inline fs::path scratch;
  static inline Dump made;
  std::vector<std::string> named;
};

// First: new's cluster must be empty for it, and is put back afterwards.
TEST_F(Regress, ByTheSeededRoad) {
  world->use_road("seeded");
  EXPECT_TRUE(check());
  ASSERT_NO_FATAL_FAILURE(move());
  compare();
  world->use_road("");
  world->restore_new();
}

TEST_F(Regress, ByTheLogicalRoad) {
  EXPECT_TRUE(check());
  ASSERT_NO_FATAL_FAILURE(move());
  compare();
}

}  // namespace
}  // namespace midstream::postgres::test
