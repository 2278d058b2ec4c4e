// Two hosts on one wire: what is said to one of them is heard there.
#include "movers/end/ears.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "sys/child.h"
#include "sys/net.h"

namespace midstream {
namespace {

void must(const std::vector<std::string>& argv) {
  const auto exit = run_child(argv, "", Deadline::in(Millis(10'000)));
  ASSERT_TRUE(exit && exit->code == 0) << argv[0] << ": " << (exit ? exit->err : exit.error().text());
}

class EarsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root";
    ASSERT_EQ(::unshare(CLONE_NEWNET), 0);
    int ready[2];
    ASSERT_EQ(::pipe(ready), 0);
    other_ = ::fork();
    if (other_ == 0) {
      ::unshare(CLONE_NEWNET);
      if (::write(ready[1], "r", 1) != 1) ::_exit(1);
      while (true) ::pause();
    }
    char byte = 0;
    ASSERT_EQ(::read(ready[0], &byte, 1), 1);
    ::close(ready[0]);
    ::close(ready[1]);
    const auto pid = std::to_string(other_);
    must({"ip", "link", "set", "lo", "up"});
    must({"ip", "link", "add", "here", "type", "veth", "peer", "name", "there", "netns", pid});
    must({"ip", "addr", "add", "192.0.2.1/24", "dev", "here"});
    must({"ip", "-6", "addr", "add", "2001:db8::1/64", "dev", "here", "nodad"});
    must({"ip", "link", "set", "here", "up"});
    must({"nsenter", "-n", "-t", pid, "ip", "addr", "add", "192.0.2.2/24", "dev", "there"});
    must({"nsenter", "-n", "-t", pid, "ip", "-6", "addr", "add", "2001:db8::2/64", "dev", "there", "nodad"});
    must({"nsenter", "-n", "-t", pid, "ip", "link", "set", "there", "up"});
    ears_ = Ears::listen().value();
  }
  void TearDown() override {
    ears_.reset();
    if (other_ > 0) ::kill(other_, SIGKILL), ::waitpid(other_, nullptr, 0);
  }
  // Bash's own sockets; whether the port answers does not matter.
  void say(const std::string& path, const std::string& then = "true") {
    const auto script = fmt::format("exec 3<>/dev/{}; {}", path, then);
    (void)run_child({"nsenter", "-n", "-t", std::to_string(other_), "bash", "-c", script}, "",
                    Deadline::in(Millis(5'000)));
  }
  // Asks until `wanted` holds; the last answer.
  Json await(const Silence& silence, const std::function<bool(const Json&)>& wanted) {
    Json judged;
    for (const auto deadline = Deadline::in(Millis(10'000)); !deadline.expired(); pause_for(Millis(20), {})) {
      judged = ears_->judge(silence).value();
      if (wanted(judged)) return judged;
    }
    ADD_FAILURE() << judged.dump();
    return judged;
  }

  pid_t other_ = -1;
  std::unique_ptr<Ears> ears_;
};

bool hears(const Json& judged, const std::string& source, int port, bool udp = false) {
  for (const auto& one : judged["sources"]) {
    if (one["source"] == source && one["port"] == port && one["udp"] == udp) return true;
  }
  return false;
}

TEST_F(EarsTest, AttemptsAtAClosedPortAreHeard) {
  say("tcp/192.0.2.1/8081");
  await({.span_ms = 500}, [](const Json& j) { return hears(j, "192.0.2.2", 8081); });
  say("tcp/2001:db8::1/8082");
  await({.span_ms = 500}, [](const Json& j) { return hears(j, "2001:db8::2", 8082); });
  say("udp/192.0.2.1/514", "echo hello >&3");
  await({.span_ms = 500}, [](const Json& j) { return hears(j, "192.0.2.2", 514, true); });
  await({.span_ms = 500}, [](const Json& j) { return j["reached"].get<bool>(); });
}

TEST_F(EarsTest, AStandingConnectionIsSeenUntilItEnds) {
  // Somebody else's listener: what this process itself listens on is midstream's own.
  auto server = Child::start({"perl", "-MIO::Socket::INET", "-e",
                              "my $s = IO::Socket::INET->new(Listen => 5, LocalAddr => '192.0.2.1', LocalPort => 8083, "
                              "ReuseAddr => 1) or die; "
                              "$| = 1; print \"r\"; my @kept; while (my $c = $s->accept) { push @kept, $c; my $x; read "
                              "$c, $x, 1; close $c; }"});
  ASSERT_TRUE(server);
  char byte = 0;
  ASSERT_EQ(::read(server->out(), &byte, 1), 1);
  const auto client = Child::start(
      {"nsenter", "-n", "-t", std::to_string(other_), "bash", "-c", "exec 3<>/dev/tcp/192.0.2.1/8083; read line"});
  ASSERT_TRUE(client);
  const Silence silence{.span_ms = 300};
  const auto seen =
      await(silence, [](const Json& j) { return !j["sources"].empty() && j["sources"][0]["sessions"] == 1; });
  EXPECT_EQ(seen["sources"][0]["source"], "192.0.2.2");
  pause_for(Millis(600), {});
  EXPECT_FALSE(ears_->judge(silence).value()["reached"].get<bool>()) << "it stands, though nothing is said";
  ASSERT_EQ(::write(client->in(), "\n", 1), 1);
  await(silence, [](const Json& j) { return j["reached"].get<bool>(); });
}

TEST_F(EarsTest, WhatThisProcessListensOnIsItsOwn) {
  const auto listener = listen_tcp("192.0.2.1", 8084).value();
  ears_ = Ears::listen().value();
  say("tcp/192.0.2.1/8084");
  pause_for(Millis(600), {});
  EXPECT_FALSE(hears(ears_->judge({.span_ms = 500}).value(), "192.0.2.2", 8084));
}

}  // namespace
}  // namespace midstream
