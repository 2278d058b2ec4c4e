// The units of a real systemd: process 1 of namespaces of its own, with nothing on it but what is written here.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "base/text.h"
#include "movers/hosts/processes.h"
#include "movers/hosts/unit.h"
#include "sys/child.h"
#include "sys/clock.h"

namespace midstream {
namespace {

namespace fs = std::filesystem;

// DefaultDependencies=no everywhere: nothing of the system is begun, and nothing of the host's is touched but what is
// covered by a tmpfs. Its cgroups are below one of ours, and it sees no hierarchy but the unified one: of the older ones
// it would make the directory read-only, for everybody.
constexpr const char* kBoot = R"(
set -e
c=/sys/fs/cgroup; [ -e $c/cgroup.procs ] || c=$c/unified
mkdir $c/$0; echo $$ >$c/$0/cgroup.procs
exec unshare --pid --kill-child --fork --mount --mount-proc --ipc --uts --net --cgroup sh -c '
set -e
mount --make-rprivate /
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
touch /run/test; mount --bind "$TEST" /run/test  # wherever it lies, below /tmp too
for d in /tmp /var/tmp /var/log /etc/systemd/system; do mount -t tmpfs tmpfs $d; done
cd /etc/systemd/system
printf "[Unit]\nDefaultDependencies=no\n" >t.target
printf "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep 1000\nRestart=always\n[Install]\nWantedBy=t.target\n" >worker.service
printf "[Unit]\nDefaultDependencies=no\n[Service]\nExecStart=/bin/sleep 1000\n" >queue@.service
printf "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/bin/sleep 2\n" >nightly.service
printf "[Unit]\nDefaultDependencies=no\n[Timer]\nOnActiveSec=100ms\nOnUnitInactiveSec=100ms\nAccuracySec=10ms\n" >nightly.timer
container=lxc exec /lib/systemd/systemd --unit=t.target --log-target=null --show-status=no'
)";
constexpr const char* kSweep =
    "for c in /sys/fs/cgroup /sys/fs/cgroup/unified; do [ ! -d $c/$0 ] || find $c/$0 -depth -type d -exec rmdir {} + ; "
    "done";

bool eventually(const std::function<bool()>& so) {
  for (const auto until = Deadline::in(Millis(10'000)); !until.expired(); pause_for(Millis(20), {}))
    if (so()) return true;
  return so();
}

pid_t child_of(pid_t parent) {
  for (const auto& [pid, process] : processes())
    if (process.parent == parent && process.name == "systemd") return pid;
  return -1;
}

TEST(Systemd, UnitsAreHeldStoppedAndStarted) {
  if (!fs::exists("/lib/systemd/systemd") || ::geteuid() != 0) GTEST_SKIP() << "needs systemd, and root";
  const auto name = fmt::format("midstream-test-{}", ::getpid());
  {
    const auto own = fs::read_symlink("/proc/self/exe").native();
    auto boot = Child::start({"env", "TEST=" + own, "sh", "-c", kBoot, name});
    ASSERT_TRUE(boot) << boot.error().text();
    pid_t systemd = -1;
    ASSERT_TRUE(eventually([&] { return (systemd = child_of(boot->pid())) > 0; }));
    const std::vector<std::string> enter{"nsenter", "-t", std::to_string(systemd), "-m", "-p", "-n", "-i", "-C"};
    const auto inside = [&](std::vector<std::string> argv) {
      argv.insert(argv.begin(), enter.begin(), enter.end());
      return run_child(argv, "", Deadline::in(Millis(60'000)));
    };
    ASSERT_TRUE(eventually([&] {
      const auto asked = inside({"systemctl", "is-active", "t.target"});
      return asked && asked->code == 0;
    }));
    const auto ran =
        inside({"/run/test", "--gtest_also_run_disabled_tests", "--gtest_filter=Inside.*"});
    ASSERT_TRUE(ran) << ran.error().text();
    EXPECT_EQ(ran->code, 0) << ran->out;
    EXPECT_NE(ran->out.find("PASSED  ] 3 tests"), std::string::npos) << ran->out;
  }
  std::string left;
  EXPECT_TRUE(eventually([&] {
    const auto swept = run_child({"sh", "-c", kSweep, name}, "", Deadline::in(Millis(10'000)));
    left = swept ? swept->err : swept.error().text();
    return left.empty();
  })) << left;
}

Result<UnitState> state_of(Unit& unit) { return unit.state(); }
bool runs(Unit& unit) {
  const auto state = state_of(unit);
  return state && state->running && !state->processes.empty();
}
bool gone(Unit& unit) {
  const auto state = state_of(unit);
  return state && !state->running && state->processes.empty();
}
int systemctl(const std::string& verb, const std::string& unit) {
  const auto exit = run_child({"systemctl", verb, unit}, "", Deadline::in(Millis(20'000)));
  return exit ? exit->code : -1;
}

// These three run within the namespaces that the test above makes.
TEST(Inside, DISABLED_AServiceAndAnInstance) {
  for (const std::string name : {"worker", "queue@1.service"}) {
    auto unit = find_unit(name, "/");
    ASSERT_TRUE(unit);
    Unit& one = **unit;
    ASSERT_TRUE(one.start()) << name;
    ASSERT_TRUE(eventually([&] { return runs(one); })) << name;
    EXPECT_EQ(one.state()->unfit, "");
    ASSERT_TRUE(one.hold("a test"));
    EXPECT_TRUE(one.state()->held);
    EXPECT_TRUE(runs(one)) << "holding is not stopping";
    ASSERT_TRUE(one.stop());
    ASSERT_TRUE(eventually([&] { return gone(one); }));
    // Whoever starts it now, and whatever would: nothing begins.
    systemctl("start", name);
    systemctl("restart", name);
    pause_for(Millis(500), {});
    EXPECT_TRUE(gone(one)) << "held, and it runs";
    ASSERT_TRUE(one.release());
    EXPECT_FALSE(one.state()->held);
    EXPECT_TRUE(gone(one)) << "releasing is not starting";
    ASSERT_TRUE(one.start());
    ASSERT_TRUE(eventually([&] { return runs(one); }));
    EXPECT_FALSE(fs::exists(fmt::format("/etc/systemd/system/{}.d", name))) << "something is left";
  }
}

TEST(Inside, DISABLED_ATimerLetsItsRunEnd) {
  auto unit = find_unit("nightly.timer", "/");
  ASSERT_TRUE(unit);
  Unit& one = **unit;
  ASSERT_TRUE(one.start());
  ASSERT_TRUE(eventually([&] { return runs(one); })) << "a run has begun";
  const auto service = find_unit("nightly", "/");
  EXPECT_NE((*service)->state()->unfit.find("nightly.timer"), std::string::npos);
  ASSERT_TRUE(one.hold("a test"));
  ASSERT_TRUE(one.stop());
  const auto state = one.state();
  ASSERT_TRUE(state);
  EXPECT_FALSE(state->processes.empty()) << "the run in progress goes on, and is named";
  ASSERT_TRUE(eventually([&] { return gone(one); }));
  systemctl("start", "nightly.timer");
  systemctl("start", "nightly.service");
  pause_for(Millis(700), {});
  EXPECT_TRUE(gone(one)) << "held, and its service began";
}

TEST(Inside, DISABLED_EnabledAsOldHasIt) {
  auto unit = find_unit("worker.service", "/");
  ASSERT_TRUE(unit);
  ASSERT_TRUE((*unit)->enable(false));  // a first boot enables what it finds
  EXPECT_EQ((*unit)->state()->at_boot, "disabled");
  ASSERT_TRUE((*unit)->hold("a test"));
  ASSERT_TRUE((*unit)->enable(true));
  EXPECT_EQ((*unit)->state()->at_boot, "enabled");
  ASSERT_TRUE((*unit)->enable(false));
  EXPECT_EQ((*unit)->state()->at_boot, "disabled");
  EXPECT_FALSE(find_unit("nothing-like-it", "/").value()->state()->known);
}

}  // namespace
}  // namespace midstream
