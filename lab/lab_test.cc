// The lab itself: everything answers, a power cut loses what was not synced and nothing else, and nothing is left.
#include "lab/lab.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "base/text.h"
#include "lab/fabric.h"
#include "lab/image.h"
#include "sys/file.h"
#include "sys/stream.h"

namespace midstream::lab {
namespace {

namespace fs = std::filesystem;

constexpr Millis kUp{120'000};

// Processes of this machine whose command line mentions `word`.
int processes_with(const std::string& word) {
  int count = 0;
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const auto command = read_file(entry.path() / "cmdline");
    if (command && command->find(word) != std::string::npos) ++count;
  }
  return count;
}

// What a lab in `directory` has left on this machine; empty when nothing.
std::string leftovers(const fs::path& directory, Millis patience) {
  const auto deadline = Deadline::in(patience);
  if (auto free = await_images_free(directory, deadline); !free) return free.error().text();
  if (read_file("/proc/self/mountinfo").value_or("").find(directory.string()) != std::string::npos) return "a mount";
  while (processes_with(directory.string()) > 0) {
    if (deadline.expired()) return "processes";
    pause_for(Millis(10), {});
  }
  return "";
}

class LabTest : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    char name[] = "/tmp/midstream-lab-test-XXXXXX";
    directory_ = ::mkdtemp(name);
  }
  void TearDown() override {
    if (!directory_.empty()) fs::remove_all(directory_);
  }
  LabSpec spec(const std::string& scenario) {
    LabSpec spec;
    spec.scenario = scenario;
    spec.fast = true;
    spec.directory = directory_;
    spec.programs = MIDSTREAM_PROGRAMS;
    return spec;
  }
  fs::path directory_;
};

// One lab for all the questions: bringing one up is the expensive part.
TEST_F(LabTest, AnswersSurvivesPowerCutsAndLeavesNothing) {
  auto lab = Lab::up(spec("demo"), Deadline::in(kUp));
  ASSERT_TRUE(lab.has_value()) << lab.error().text();
  const auto run = [&](const std::string& host, const std::string& script) {
    const auto exit = lab->exec(host, {"/bin/bash", "-c", script}, "", Deadline::in(Millis(30'000)));
    if (!exit) return "error: " + exit.error().text();
    return exit->code == 0 ? std::string(trim(exit->out)) : fmt::format("exit {}: {}", exit->code, trim(exit->err));
  };
  const std::string sql =
      "PGPASSFILE=/etc/midstream/probe.pgpass psql -XAtqc \"$1\" 'host=db.prod.example dbname=shop user=probe'";

  for (const char* host : {"edge", "old", "new", "ns1", "ns2", "out", "ops"}) {
    EXPECT_EQ(run("ops", fmt::format("ssh {} hostname", host)), host);
  }
  EXPECT_EQ(run("out", "dig +short @203.0.113.21 A shop.prod.example"), "192.0.2.10");
  EXPECT_EQ(run("out", "dig +short @203.0.113.22 AAAA shop.prod.example"), "2001:db8:26::10");
  EXPECT_EQ(run("out", fmt::format("set -- 'insert into probe (n) values (7) returning n'; {}", sql)), "7");
  EXPECT_EQ(run("edge", "python3 -c 'import socket; s = socket.socket(socket.AF_UNIX); "
                        "s.connect(\"/run/haproxy/admin.sock\"); s.sendall(b\"show servers state db\\n\"); "
                        "print(s.makefile().read())' | awk '$4 == \"db-old\" || $4 == \"db-new\" {print $4, $6}'"),
            "db-old 2\ndb-new 0");
  EXPECT_EQ(run("old", "exit 3"), "exit 3: ");
  EXPECT_EQ(run("old", "touch /usr/x 2>/dev/null && echo writable || echo read-only"), "read-only");
  EXPECT_FALSE(lab->exec("nowhere", {"true"}, "", Deadline::in(Millis(5'000)))->code == 0);

  EXPECT_EQ(run("old", "echo kept > /root/kept && sync && echo lost > /root/lost && cat /root/lost"), "lost");
  for (const char* host : {"old", "new"}) {
    auto cut = lab->powercut(host);
    ASSERT_TRUE(cut.has_value()) << cut.error().text();
    auto back = lab->await_host(host, Deadline::in(Millis(30'000)));
    EXPECT_TRUE(back.has_value()) << back.error().text();
  }
  EXPECT_EQ(run("old", "ls /root"), "kept");
  EXPECT_EQ(run("out", fmt::format("set -- 'select count(*) from probe'; until {}; do sleep 0.1; done 2>/dev/null", sql)),
            "1");

  ASSERT_TRUE(lab->set_link("new", "mgmt0", false).has_value());
  EXPECT_EQ(run("ops", "timeout 1 ssh new true || echo cut"), "cut");
  ASSERT_TRUE(lab->set_link("new", "mgmt0", true).has_value());
  EXPECT_TRUE(lab->await_host("new", Deadline::in(Millis(30'000))).has_value());

  const auto filled = lab->fill("new", 0);
  ASSERT_TRUE(filled.has_value()) << filled.error().text();
  EXPECT_NE(run("new", "head -c 1000000 /dev/zero > /root/x && echo room"), "room");
  ASSERT_TRUE(lab->unfill("new").has_value());

  // The operator's host is moved away: what took a millisecond there and back takes the distance.
  const auto hosts = lab->scenario().hosts();
  const auto ops = static_cast<std::size_t>(std::ranges::find(hosts, Role::ops, &HostPlan::role) - hosts.begin());
  const std::string trip = "python3 -c 'import socket, time; t = time.time(); socket.create_connection((\"10.77.0.1\", 22), 5); print(time.time() - t)'";
  EXPECT_LT(std::stod(run("ops", trip)), 0.08);
  auto relay = lab->spawn("fabric", {std::string(MIDSTREAM_PROGRAMS) + "/midstream-lab", "relay", bridge_end(ops, "mgmt0"), "br-mgmt", "40"});
  ASSERT_TRUE(relay.has_value()) << relay.error().text();
  ASSERT_TRUE(wait_fd(relay->out(), POLLIN, Deadline::in(Millis(10'000)), {}).has_value());
  const auto far = std::stod(run("ops", trip));
  EXPECT_GE(far, 0.08);
  EXPECT_LT(far, 1.0);
  EXPECT_EQ(run("ops", "ssh new hostname"), "new");

  // The supervisor: an orphan of a service dies with it, the service is started again, a removed one ends.
  run("new", "mkdir -p /etc/service/t && printf '#!/bin/sh\\nsetsid sleep 7777 &\\nexec sleep 8888\\n' > "
             "/etc/service/t/run.new && chmod +x /etc/service/t/run.new && mv /etc/service/t/run.new /etc/service/t/run");
  const std::string twice = "until [ $(pgrep -fxc 'sleep (7777|8888)') = 2 ]; do sleep 0.02; done; cat /run/service/t.pid";
  const auto first = run("new", twice);
  const auto second = run("new", fmt::format("kill -9 {0}; while [ -e /proc/{0} ]; do sleep 0.02; done; "
                                             "until [ $(cat /run/service/t.pid) != {0} ]; do sleep 0.02; done; {1}",
                                             first, twice));
  EXPECT_NE(first, second);
  EXPECT_EQ(run("new", "rm -r /etc/service/t; while pgrep -fx 'sleep (7777|8888)' >/dev/null; do sleep 0.02; done; echo none"),
            "none");

  const auto down = lab->down();
  EXPECT_TRUE(down.has_value()) << down.error().text();
  EXPECT_EQ(leftovers(directory_, Millis(1'000)), "");
}

// Whatever of the lab is killed, the rest of it goes too.
TEST_F(LabTest, AKilledGuardianOrLauncherLeavesNothing) {
  const std::string program = std::string(MIDSTREAM_PROGRAMS) + "/midstream-lab";
  const std::vector<std::string> hold = {program, "hold", "other", "--fast", "--dir", directory_.string()};
  auto launcher = Child::start(hold);
  ASSERT_TRUE(launcher.has_value());
  // The first line of the list of hosts comes when it is up.
  char byte = 0;
  ASSERT_EQ(::read(launcher->out(), &byte, 1), 1);
  EXPECT_GT(processes_with(directory_.string()), 1);
  launcher->kill();
  EXPECT_EQ(leftovers(directory_, Millis(10'000)), "");

  // Half-way through being built.
  auto early = Child::start(hold);
  ASSERT_TRUE(early.has_value());
  const auto deadline = Deadline::in(Millis(60'000));
  while (!fs::exists(directory_ / "hosts/lookout.img") && !deadline.expired()) pause_for(Millis(5), {});
  early->kill();
  EXPECT_EQ(leftovers(directory_, Millis(10'000)), "");

  // The guardian itself, of a lab that had been let go.
  auto lab = Lab::up(spec("other"), Deadline::in(kUp));
  ASSERT_TRUE(lab.has_value()) << lab.error().text();
  EXPECT_TRUE(lab->exec("pluto", {"hostname"}, "", Deadline::in(Millis(10'000)))->out == "pluto\n");
  ASSERT_TRUE(lab->detach().has_value());
  for (const auto& entry : fs::directory_iterator("/proc")) {
    const auto command = read_file(entry.path() / "cmdline").value_or("");
    if (command.find("guardian") != std::string::npos && command.find(directory_.string()) != std::string::npos) {
      ::kill(std::atoi(entry.path().filename().c_str()), SIGKILL);
    }
  }
  EXPECT_EQ(leftovers(directory_, Millis(10'000)), "");
}

}  // namespace
}  // namespace midstream::lab
