// Moves of mail between two real Dovecots and Postfixes, with deliveries and readers at work on both hosts all along.
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include "movers/mail/live_hosts.h"
#include "sys/file.h"
#include "sys/net.h"

namespace midstream::mail::test {
namespace {

#define OK(expression)                                                     \
  do {                                                                     \
    const auto& result_ = (expression);                                    \
    ASSERT_TRUE(result_) << #expression << ": " << result_.error().text(); \
  } while (false)

class Live : public testing::Test {
 protected:
  void SetUp() override {
    if (!world.usable()) GTEST_SKIP() << "needs root, dovecot and postfix";
    world.fresh();
    world.restart_agents();
  }
  void TearDown() override { world.stop_agents(); }
  Json forward(const std::string& until) const { return world.desired("follow", {{"first", true}, {"until", until}}); }
  Json backward(const std::string& until) const {
    return world.desired("follow", {{"first", false}, {"until", until}});
  }
  void begin(Clients& clients) {
    ASSERT_TRUE(clients.wait_more(20, 20, Millis(10'000))) << clients.trouble();
    clients.rest();
    OK(world.apply(world.desired("proxy")));
    clients.resting = false;
    clients.both = true;
    OK(world.apply(forward("copied"), true));
    ASSERT_TRUE(world.wait_reached(forward("copied"), true, Millis(20'000))) << world.why;
    OK(world.apply(backward("copied")));
  }
  void expect_put_back() {
    EXPECT_EQ(world.old_host().conf().find("# midstream autumn"), std::string::npos);
    EXPECT_EQ(world.new_host().conf().find("# midstream autumn"), std::string::npos);
    EXPECT_EQ(world.old_host().main_cf().find("# midstream autumn"), std::string::npos);
    EXPECT_EQ(world.new_host().main_cf().find("# midstream autumn"), std::string::npos);
    for (auto* host : {&world.old_host(), &world.new_host()}) {
      EXPECT_EQ(read_file(host->root / "postfix/master.cf").value_or("?").find("midstream"), std::string::npos);
      EXPECT_FALSE(std::filesystem::exists(host->root / "midstream-autumn.map"));
      EXPECT_FALSE(std::filesystem::exists(host->root / "queue/midstream-autumn"));
    }
  }
  World& world = World::get();
};

// As the engine does: a step that asks for another try gets one.
#define DONE(expression)                                                                 \
  do {                                                                                   \
    Result<Json> last_ = retry("");                                                      \
    for (int i_ = 0; i_ < 6 && !last_ && last_.error().kind == ErrorKind::retry; ++i_) { \
      if (i_ > 0) fmt::print("{}: again: {}\n", #expression, last_.error().text());      \
      last_ = (expression);                                                              \
    }                                                                                    \
    ASSERT_TRUE(last_) << #expression << ": " << last_.error().text();                   \
    fmt::print("{}: {}\n", #expression, last_->dump());                                  \
  } while (false)

TEST_F(Live, UsersGoToNewAndBackWhileTheyWork) {
  Clients clients(world);
  ASSERT_NO_FATAL_FAILURE(begin(clients));
  ASSERT_TRUE(clients.wait_more(40, 20, Millis(60'000))) << clients.trouble();
  const auto flip = world.desired("flip", {{"percent", 100}, {"from", 0}, {"at_once", 2}});
  DONE(world.apply(world.desired("verify")));
  clients.forget_pause();
  DONE(world.apply(flip));
  ASSERT_TRUE(clients.wait_more(20, 20, Millis(60'000))) << clients.trouble();
  EXPECT_TRUE(world.observe(flip).value_or(Json::object()).value("reached", false));
  for (const auto& done : {flip, world.desired("proxy"), backward("copied")}) EXPECT_EQ(world.outlook(done), "");
  EXPECT_EQ(world.outlook(forward("copied"), true), "");
  world.joined().cut = true;
  for (const auto& done : {flip, world.desired("proxy")})
    EXPECT_NE(world.outlook(done).find("cannot be asked"), std::string::npos) << world.outlook(done);
  world.joined().cut = false;
  DONE(world.apply(world.desired("verify")));
  DONE(world.undo(flip));
  ASSERT_TRUE(clients.wait_more(20, 20, Millis(60'000))) << clients.trouble();
  EXPECT_FALSE(world.observe(flip).value_or(Json::object()).value("reached", true));
  DONE(world.apply(world.desired("verify")));
  DONE(world.apply(flip));
  ASSERT_TRUE(clients.wait_more(20, 20, Millis(60'000))) << clients.trouble();
  fmt::print("longest pause of a reader {} ms\n", clients.longest_pause().count());
  clients.end();
  EXPECT_EQ(clients.trouble(), "");
  EXPECT_EQ(clients.audit(world.old_host().address), "");
  EXPECT_EQ(clients.audit(world.new_host().address), "");
  world.old_host().kill_dovecot();
  EXPECT_NE(world.outlook(flip), "") << "old could serve nobody";
  ASSERT_TRUE(world.old_host().start_dovecot());
  EXPECT_EQ(world.outlook(flip), "");
  EXPECT_NE(world.outlook(world.desired("end")), "");
  DONE(world.apply(world.desired("end")));
  EXPECT_EQ(clients.audit(world.new_host().address), "");
  EXPECT_FALSE(Talk::to(world.old_host().address, 143)) << "old must not serve what it has no longer";
  EXPECT_FALSE(world.undo(world.desired("end")));
}

TEST_F(Live, UndoneStepByStepNothingIsLeft) {
  Clients clients(world);
  const auto old_conf = world.old_host().conf();
  const auto new_conf = world.new_host().conf();
  const auto main_cf = world.old_host().main_cf();
  ASSERT_NO_FATAL_FAILURE(begin(clients));
  ASSERT_TRUE(clients.wait_more(10, 10, Millis(60'000))) << clients.trouble();
  DONE(world.undo(backward("copied")));
  clients.both = false;
  DONE(world.undo(forward("copied"), true));
  EXPECT_TRUE(std::filesystem::is_empty(world.new_host().root / "vmail/example.test")) << "what was copied is removed";
  clients.rest();
  DONE(world.undo(world.desired("proxy")));
  DONE(world.undo(world.desired("proxy")));
  clients.resting = false;
  expect_put_back();
  EXPECT_EQ(world.old_host().conf(), old_conf);
  EXPECT_EQ(world.new_host().conf(), new_conf);
  EXPECT_EQ(world.old_host().main_cf(), main_cf);
  ASSERT_TRUE(clients.wait_more(10, 10, Millis(60'000))) << clients.trouble();
  clients.end();
  EXPECT_EQ(clients.trouble(), "");
  EXPECT_EQ(clients.audit(world.old_host().address), "");
}

TEST_F(Live, EveryDeathOfAnAgentIsGoneOnFromOrUndone) {
  Clients clients(world);
  const auto dies = [&](const std::string& point, auto act) {
    world.crash_at(point);
    try {
      (void)act();
    } catch (const Crash&) {
    }
    world.crash_at("");
    world.restart_agents();
  };
  ASSERT_TRUE(clients.wait_more(10, 10, Millis(60'000))) << clients.trouble();
  for (const char* point : {"install.recorded", "install.map", "install.blocks"})
    dies(point, [&] { return world.apply(world.desired("proxy")); });
  ASSERT_NO_FATAL_FAILURE(begin(clients));
  const auto flip = world.desired("flip", {{"percent", 100}, {"from", 0}, {"at_once", 4}});
  for (const char* point : {"flip.standing", "give.held", "give.drained", "give.synced", "give.yielded", "flip.given",
                            "take.owner", "flip.taken"}) {
    dies(point, [&] { return world.apply(flip); });
    ASSERT_TRUE(clients.wait_more(5, 5, Millis(60'000))) << point << ": " << clients.trouble();
    DONE(world.apply(flip));
    ASSERT_TRUE(clients.wait_more(5, 5, Millis(60'000))) << point << ": " << clients.trouble();
    dies(point, [&] { return world.undo(flip); });
    DONE(world.undo(flip));
    ASSERT_TRUE(clients.wait_more(5, 5, Millis(60'000))) << point << ": " << clients.trouble();
  }
  clients.end();
  EXPECT_EQ(clients.trouble(), "");
  EXPECT_EQ(clients.audit(world.old_host().address), "");
}

// The giver dies after it has yielded and nobody tells the taker: it learns it by itself.
TEST_F(Live, ATakerCompletesAlone) {
  Clients clients(world);
  ASSERT_NO_FATAL_FAILURE(begin(clients));
  const auto flip = world.desired("flip", {{"percent", 100}, {"from", 0}, {"at_once", 4}});
  world.crash_at("give.yielded");
  try {
    (void)world.apply(flip);
  } catch (const Crash&) {
  }
  ASSERT_TRUE(world.crashed());
  world.restart_agents();
  EXPECT_TRUE(world.wait_reached(flip, false, Millis(30'000))) << world.why;
  ASSERT_TRUE(clients.wait_more(5, 5, Millis(60'000))) << clients.trouble();
  clients.end();
  EXPECT_EQ(clients.audit(world.old_host().address), "");
}

// SMTP from a client of the host's own: accepted, or not.
int send_mail(const std::string& address, const std::string& to, const std::string& subject) {
  auto talk = Talk::to(address, 25);
  if (!talk || talk->greeting() != 220 || talk->code("EHLO test") != 250) return 0;
  for (const auto& line : {std::string("MAIL FROM:<a@example.test>"), fmt::format("RCPT TO:<{}>", to)})
    if (const int code = talk->code(line); code != 250) return code;
  if (talk->code("DATA") != 354) return 0;
  return talk->code(fmt::format("Subject: {}\r\n\r\nx\r\n.", subject));
}

std::multiset<std::string> subjects(const char* prefix, int from, int to) {
  std::multiset<std::string> all;
  for (int i = from; i < to; ++i) all.insert(fmt::format("{}{}", prefix, i));
  return all;
}

// Until a queue has given everything to the world.
bool wait_subjects(const Sink& sink, const std::multiset<std::string>& wanted, Millis within) {
  for (const auto deadline = Deadline::in(within); !deadline.expired(); pause_for(Millis(50), {}))
    if (sink.subjects() == wanted) return true;
  return false;
}

TEST_F(Live, TheQueueMovesOnceAndGoesBack) {
  Sink sink;
  DONE(world.apply(world.desired("proxy")));
  // New sends through old.
  ASSERT_EQ(send_mail(world.new_host().address, "x@world.test", "r0"), 250);
  ASSERT_TRUE(wait_subjects(sink, {"r0"}, Millis(60'000)));
  sink.deferring = true;
  for (int i = 0; i < 8; ++i)
    ASSERT_EQ(send_mail(world.old_host().address, "x@world.test", fmt::format("q{}", i)), 250);
  DONE(world.apply(world.desired("defer"), true));
  const int deferred = send_mail(world.old_host().address, "x@world.test", "late");
  EXPECT_TRUE(deferred >= 400 && deferred < 500) << deferred;
  DONE(world.apply(world.desired("queue")));
  EXPECT_TRUE(world.observe(world.desired("queue")).value_or(Json::object()).value("reached", false));
  DONE(world.apply(world.desired("queue")));
  // Old is served again, and sends through new now.
  ASSERT_EQ(send_mail(world.old_host().address, "x@world.test", "r1"), 250);
  sink.deferring = false;
  auto wanted = subjects("q", 0, 8);
  wanted.insert({"r0", "r1"});
  EXPECT_TRUE(wait_subjects(sink, wanted, Millis(60'000))) << testing::PrintToString(sink.subjects());
  EXPECT_GE(sink.clients().count(world.new_host().address), 8u) << "new sends under its own mail address";
  sink.deferring = true;
  for (int i = 8; i < 12; ++i)
    ASSERT_EQ(send_mail(world.new_host().address, "x@world.test", fmt::format("q{}", i)), 250);
  DONE(world.undo(world.desired("queue")));
  DONE(world.undo(world.desired("defer"), true));
  sink.deferring = false;
  for (int i = 8; i < 12; ++i) wanted.insert(fmt::format("q{}", i));
  EXPECT_TRUE(wait_subjects(sink, wanted, Millis(60'000))) << testing::PrintToString(sink.subjects());
  DONE(world.undo(world.desired("proxy")));
  expect_put_back();
}

TEST_F(Live, AQueueMovesOnceWhereverAnAgentDies) {
  Sink sink;
  std::multiset<std::string> wanted;
  DONE(world.apply(world.desired("proxy")));
  int number = 0;
  for (const char* point : {"queue.deferring", "queue.yielding", "queue.held", "queue.spooled", "queue.received",
                            "queue.sent", "queue.yielded", "queue.taken", "queue.injected", "queue.forgotten"}) {
    sink.deferring = true;
    for (int i = 0; i < 3; ++i) {
      ASSERT_EQ(send_mail(world.old_host().address, "x@world.test", fmt::format("c{}", number)), 250) << point;
      wanted.insert(fmt::format("c{}", number++));
    }
    for (const bool back : {false, true}) {
      world.crash_at(point);
      std::string ended;
      try {
        // As the engine does: a step that asks for another try gets one.
        for (int i = 0; i < 6; ++i) {
          const auto done = back ? world.undo(world.desired("queue")) : world.apply(world.desired("queue"));
          ended += done ? done->dump() : done.error().text() + "; ";
          if (done || done.error().kind != ErrorKind::retry) break;
        }
      } catch (const Crash&) {
      }
      EXPECT_TRUE(world.crashed()) << point << (back ? ", undone: " : ", done: ") << ended;
      world.crash_at("");
      world.restart_agents();
      if (back)
        DONE(world.undo(world.desired("queue")));
      else
        DONE(world.apply(world.desired("queue")));
    }
    DONE(world.undo(world.desired("defer"), true));
    sink.deferring = false;
    EXPECT_TRUE(wait_subjects(sink, wanted, Millis(60'000))) << point << testing::PrintToString(sink.subjects());
  }
}

}  // namespace

// Joins stdin and stdout to a unix socket, as the agent's `pipe` does.
int pipe_to(const char* path) {
  const auto socket = connect_unix(path, Deadline::in(Millis(5'000)));
  if (!socket) return 1;
  pollfd polled[2]{{0, POLLIN, 0}, {socket->get(), POLLIN, 0}};
  char buffer[65536];
  while (polled[1].fd >= 0) {
    if (::poll(polled, 2, -1) < 0) return 1;
    for (int i = 0; i < 2; ++i) {
      if (polled[i].revents == 0) continue;
      const ssize_t n = ::read(polled[i].fd, buffer, sizeof buffer);
      for (ssize_t done = 0; done < n;) {
        const ssize_t written = ::write(i == 0 ? socket->get() : 1, buffer + done, static_cast<std::size_t>(n - done));
        if (written <= 0) return 1;
        done += written;
      }
      if (n > 0) continue;
      if (i == 0) ::shutdown(socket->get(), SHUT_WR);
      polled[i].fd = -1;
    }
  }
  return 0;
}

}  // namespace midstream::mail::test

int main(int argc, char** argv) {
  if (argc >= 3 && std::string_view(argv[1]) == "pipe") return midstream::mail::test::pipe_to(argv[2]);
  ::signal(SIGPIPE, SIG_IGN);  // as in the agent
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
