// Debian's own unit of a cluster under a real systemd: process 1 of namespaces of its own, as in the test of the mover hosts, with
// nothing on it but what is written here.
#include "movers/postgres/server_unit.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>

#include "base/text.h"
#include "sys/child.h"
#include "sys/clock.h"

namespace midstream::postgres {
namespace {

namespace fs = std::filesystem;

constexpr const char* kBoot = R"(
set -e
c=/sys/fs/cgroup; [ -e $c/cgroup.procs ] || c=$c/unified
mkdir $c/$0; echo $$ >$c/$0/cgroup.procs
exec unshare --pid --kill-child --fork --mount --mount-proc --ipc --uts --net --cgroup sh -c '
set -e
mount --make-rprivate /
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
touch /run/test; mount --bind "$TEST" /run/test
for d in /tmp /var/tmp /var/log /etc/systemd/system /etc/postgresql /var/lib/postgresql; do mount -t tmpfs tmpfs $d; done
chown postgres: /var/lib/postgresql /etc/postgresql
install -d -o postgres -g postgres -m 2775 /run/postgresql
install -d -o postgres -g postgres /var/log/postgresql
ip link set lo up
cd /etc/systemd/system
printf "[Unit]\nDefaultDependencies=no\n" >t.target
mkdir postgresql@.service.d; printf "[Unit]\nDefaultDependencies=no\n" >postgresql@.service.d/bare.conf
container=lxc exec /lib/systemd/systemd --unit=t.target --log-target=null --show-status=no'
)";
constexpr const char* kSweep =
    "for c in /sys/fs/cgroup /sys/fs/cgroup/unified; do [ ! -d $c/$0 ] || find $c/$0 -depth -type d -exec rmdir {} + ; done";

bool eventually(const std::function<bool()>& so) {
  for (const auto until = Deadline::in(Millis(20'000)); !until.expired(); pause_for(Millis(20), {}))
    if (so()) return true;
  return so();
}

int ran(const std::vector<std::string>& argv) {
  const auto exit = run_child(argv, "", Deadline::in(Millis(60'000)));
  if (exit && exit->code != 0) fmt::print("{}: {}{}\n", argv.front(), exit->err, exit->out);
  return exit ? exit->code : -1;
}

TEST(ServerUnit, IsStoppedAndStartedAsSystemdKnowsIt) {
  if (!fs::exists("/lib/systemd/systemd") || !fs::exists("/usr/bin/pg_createcluster") || ::geteuid() != 0) GTEST_SKIP() << "needs systemd, postgresql-common and root";
  const auto name = fmt::format("midstream-test-{}", ::getpid());
  {
    auto boot = Child::start({"env", "TEST=" + fs::read_symlink("/proc/self/exe").native(), "sh", "-c", kBoot, name});
    ASSERT_TRUE(boot) << boot.error().text();
    std::string systemd;
    ASSERT_TRUE(eventually([&] {
      const auto found = run_child({"pgrep", "-P", std::to_string(boot->pid()), "-x", "systemd"}, "", Deadline::in(Millis(5'000)));
      systemd = found ? trim(found->out) : "";
      return !systemd.empty();
    }));
    const auto inside = [&](std::vector<std::string> argv) {
      const std::vector<std::string> enter{"nsenter", "-t", systemd, "-m", "-p", "-n", "-i", "-C"};
      argv.insert(argv.begin(), enter.begin(), enter.end());
      return run_child(argv, "", Deadline::in(Millis(90'000)));
    };
    ASSERT_TRUE(eventually([&] {
      const auto asked = inside({"systemctl", "is-active", "t.target"});
      return asked && asked->code == 0;
    }));
    const auto done = inside({"/run/test", "--gtest_also_run_disabled_tests", "--gtest_filter=Inside.*"});
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_EQ(done->code, 0) << done->out << done->err;
    EXPECT_NE(done->out.find("PASSED  ] 1 test"), std::string::npos) << done->out;
  }
  std::string left;
  EXPECT_TRUE(eventually([&] {
    const auto swept = run_child({"sh", "-c", kSweep, name}, "", Deadline::in(Millis(10'000)));
    left = swept ? swept->err : swept.error().text();
    return left.empty();
  })) << left;
}

// Runs within the namespaces that the test above makes.
TEST(Inside, DISABLED_DebiansCluster) {
  ASSERT_EQ(ran({"pg_createcluster", "15", "main", "--", "--no-sync"}), 0);
  ASSERT_EQ(ran({"systemctl", "start", "postgresql@15-main"}), 0);
  NoPeers nobody;
  const Context context{Task{"autumn", "step", 1}, "b", "/tmp", nobody, Deadline::in(Millis(60'000)), {}};
  const PostgresOptions options;
  Pool pool;
  std::mutex titles;
  const Json end{{"host", "a"}, {"address", "192.0.2.1"}, {"port", 5432}};
  auto other = end;
  other["host"] = "b";
  const auto work = make_work(context, options, pool, titles, {{"kind", "follow"}, {"databases", {"app"}}, {"old", end}, {"new", other}});
  ASSERT_TRUE(work) << work.error().text();
  const fs::path data = "/var/lib/postgresql/15/main";
  const auto unit = find_server_unit(*work, data);
  ASSERT_TRUE(unit) << unit.error().text();
  EXPECT_EQ(words_of(*unit), "systemd's postgresql@15-main.service");
  for (int round = 0; round < 2; ++round) {
    const auto stopped = stop_server(*work, *unit, data);
    ASSERT_TRUE(stopped) << stopped.error().text();
    EXPECT_EQ(postmaster_of(data), 0);
    EXPECT_NE(run_child({"systemctl", "is-active", unit->name}, "", Deadline::in(Millis(10'000)))->code, 0);
    ASSERT_TRUE(stop_server(*work, *unit, data)) << "it is stopped already";
    const auto started = start_server(*work, *unit, data);
    ASSERT_TRUE(started) << started.error().text();
    EXPECT_GT(postmaster_of(data), 0);
    EXPECT_EQ(work->run_cluster("SELECT 1")->text(0, 0), "1");
    pool.drop_all();
  }
  // One that nobody supervises.
  ASSERT_EQ(ran({"systemctl", "stop", unit->name}), 0);
  ASSERT_EQ(ran({"sh", "-c", "mkdir -p /sys/fs/cgroup/by-hand && echo $$ >/sys/fs/cgroup/by-hand/cgroup.procs && exec pg_ctlcluster --skip-systemctl-redirect 15 main start"}), 0);
  ASSERT_TRUE(eventually([&] { return postmaster_of(data) > 0; }));
  const auto none = find_server_unit(*work, data);
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().kind, ErrorKind::refused);
}

}  // namespace
}  // namespace midstream::postgres
