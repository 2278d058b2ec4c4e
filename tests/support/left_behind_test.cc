// Live test programs are killed while their servers run, and nothing of them is left on this machine.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <map>
#include <set>

#include "base/text.h"
#include "sys/child.h"
#include "sys/clock.h"
#include "sys/file.h"

namespace midstream {
namespace {

namespace fs = std::filesystem;

struct Process {
  std::string name, started;
  int parent = 0;
  bool operator==(const Process&) const = default;
};

std::optional<Process> process(int pid) {
  const auto stat = read_file(fmt::format("/proc/{}/stat", pid)).value_or("");
  const auto open = stat.find('('), close = stat.rfind(')');
  if (close == std::string::npos) return std::nullopt;
  const auto rest = split(stat.substr(close + 2), ' ');  // state, parent, ...; started at the 20th
  if (rest.size() < 20 || rest[0] == "Z" || rest[0] == "X") return std::nullopt;
  return Process{std::string(stat.substr(open + 1, close - open - 1)), std::string(rest[19]), std::atoi(std::string(rest[1]).c_str())};
}

// All that descend from `first`, itself included.
std::map<int, Process> family(int first) {
  std::map<int, Process> all;
  for (const auto& entry : fs::directory_iterator("/proc"))
    if (const int pid = std::atoi(entry.path().filename().c_str()); pid > 0)
      if (auto one = process(pid)) all.emplace(pid, *one);
  const auto belongs = [&](int pid) {
    while (pid != first && all.contains(pid)) pid = all.at(pid).parent;
    return pid == first;
  };
  std::map<int, Process> found;
  for (const auto& [pid, one] : all)
    if (belongs(pid)) found.emplace(pid, one);
  return found;
}

// Files that such programs make.
std::set<std::string> files() {
  std::set<std::string> found;
  for (const fs::path& where : {fs::path("/dev/shm"), fs::path("/tmp"), fs::temp_directory_path()})
    for (const auto& entry : fs::directory_iterator(where))
      for (const char* prefix : {"PostgreSQL.", "midstream-switch-", "midstream-postgres-"})
        if (entry.path().filename().native().starts_with(prefix)) found.insert(entry.path());
  return found;
}

bool eventually(const std::function<bool()>& so, Millis span) {
  for (const auto until = Deadline::in(span); !until.expired(); pause_for(Millis(10), {}))
    if (so()) return true;
  return so();
}

class LeftBehind : public testing::TestWithParam<std::string> {
 protected:
  // Killed by `pick` of its processes, once all its servers run; what it was.
  void kill_one(const std::function<int(const std::map<int, Process>&)>& pick) {
    const auto before = files();
    auto program = Child::start({MIDSTREAM_TESTS "/" + GetParam()});
    ASSERT_TRUE(program) << program.error().text();
    std::map<int, Process> all;
    ASSERT_TRUE(eventually(
        [&] {
          all = family(program->pid());
          return std::ranges::count_if(all, [](const auto& one) { return one.second.name == "postgres"; }) >= 10;
        },
        Millis(60'000)))
        << "its servers do not run";
    ASSERT_EQ(::kill(pick(all), SIGKILL), 0);
    EXPECT_EQ(program->wait(Deadline::in(Millis(20'000))).value_or(-1), 128 + SIGKILL);
    for (const auto& [pid, one] : all)
      EXPECT_TRUE(eventually([&] { return process(pid) != std::optional(one); }, Millis(10'000))) << one.name << " (" << pid << ") still runs";
    EXPECT_EQ(files(), before);
  }
};

TEST_P(LeftBehind, NothingWhereTheProgramIsKilled) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  kill_one([](const auto& all) {
    const auto first = std::ranges::find_if(all, [&](const auto& one) { return !all.contains(one.second.parent); });
    return first->first;
  });
}

TEST_P(LeftBehind, NothingWhereItIsKilledWithinItsWorld) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  kill_one([](const auto& all) {
    // Outside, the first of the world, and then the one that starts servers.
    const auto ancestors = [&](int pid) {
      int count = 0;
      while (all.contains(pid = all.at(pid).parent)) ++count;
      return count;
    };
    const auto name = GetParam().substr(0, 15);
    const auto worker = std::ranges::find_if(all, [&](const auto& one) { return one.second.name == name && ancestors(one.first) == 2; });
    return worker->first;
  });
}

INSTANTIATE_TEST_SUITE_P(Of, LeftBehind, testing::Values("gate_switch_live_test", "mover_postgres_physical_test"),
                         [](const auto& one) { return one.param; });

}  // namespace
}  // namespace midstream
