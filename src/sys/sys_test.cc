#include <gtest/gtest.h>
#include <sys/socket.h>

#include <filesystem>
#include <thread>

#include "sys/child.h"
#include "sys/clock.h"
#include "sys/file.h"
#include "sys/net.h"
#include "sys/stream.h"
#include "sys/tls.h"

namespace midstream {
namespace {

struct TemporaryDirectory {
  std::filesystem::path path = [] {
    char name[] = "/tmp/midstream-test-XXXXXX";
    return std::filesystem::path(::mkdtemp(name));
  }();
  ~TemporaryDirectory() { std::filesystem::remove_all(path); }
};

std::pair<Fd, Fd> socket_pair() {
  int ends[2];
  EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
  return {Fd(ends[0]), Fd(ends[1])};
}

TEST(Clock, WallFormat) { EXPECT_EQ(format_wall(1'000'000'000'123), "2001-09-09T01:46:40.123Z"); }

TEST(Clock, PauseEndsAtOnceWhenStopped) {
  std::stop_source source;
  source.request_stop();
  const auto before = boot_now();
  EXPECT_FALSE(pause_for(Millis(10'000), source.get_token()));
  EXPECT_LT(boot_now() - before, std::chrono::seconds(5));
}

TEST(File, ReplacesAndKeepsMode) {
  TemporaryDirectory dir;
  const auto path = dir.path / "a";
  ASSERT_TRUE(write_file_durably(path, "one", 0640));
  ASSERT_TRUE(write_file_durably(path, "two", 0600));
  EXPECT_EQ(*read_file(path), "two");
  EXPECT_EQ(static_cast<unsigned>(std::filesystem::status(path).permissions()), 0640u);
  EXPECT_FALSE(read_file(path, 2).has_value());
  ASSERT_TRUE(remove_file_durably(path));
  ASSERT_TRUE(remove_file_durably(path));
  EXPECT_FALSE(read_file(path).has_value());
}

TEST(File, AFailedWriteLeavesTheOldContent) {
  TemporaryDirectory dir;
  EXPECT_FALSE(write_file_durably(dir.path / "missing" / "a", "x"));
}

TEST(Child, RunsWithInputAndReportsExit) {
  auto exit = run_child({"/bin/sh", "-c", "cat; echo bad >&2; exit 3"}, "hello", Deadline::in(Millis(10'000)));
  ASSERT_TRUE(exit);
  EXPECT_EQ(exit->out, "hello");
  EXPECT_EQ(exit->err, "bad\n");
  EXPECT_EQ(exit->code, 3);
}

TEST(Child, KilledAtTheDeadline) {
  auto exit = run_child({"/bin/sleep", "1000"}, "", Deadline::in(Millis(50)));
  ASSERT_FALSE(exit);
  EXPECT_EQ(exit.error().kind, ErrorKind::cancelled);
}

TEST(Child, MissingProgram) { EXPECT_FALSE(run_child({"/nonexistent"}, "", Deadline::in(Millis(1000)))); }

TEST(Frame, RoundTripAndLimits) {
  auto [a, b] = socket_pair();
  auto left = make_fd_stream(std::move(a));
  auto right = make_fd_stream(std::move(b));
  const auto soon = Deadline::in(Millis(5000));
  ASSERT_TRUE(write_message(*left, {{"x", 1}}, soon, {}));
  EXPECT_EQ((*read_message(*right, soon, {}))["x"], 1);
  ASSERT_TRUE(left->write_all(std::string("\xff\xff\xff\xff", 4), soon, {}));
  EXPECT_EQ(read_frame(*right, soon, {}).error().kind, ErrorKind::corrupt);
}

TEST(Frame, CloseBetweenAndWithinMessagesDiffer) {
  for (const bool within : {false, true}) {
    auto [a, b] = socket_pair();
    auto right = make_fd_stream(std::move(b));
    {
      auto left = make_fd_stream(std::move(a));
      if (within) {
        ASSERT_TRUE(left->write_all(std::string("\0\0\0\x05x", 5), Deadline::in(Millis(5000)), {}));
      }
    }
    EXPECT_EQ(read_frame(*right, Deadline::in(Millis(5000)), {}).error().kind,
              within ? ErrorKind::retry : ErrorKind::cancelled);
  }
}

TEST(Stream, SilenceEndsAtTheDeadline) {
  auto [a, b] = socket_pair();
  auto right = make_fd_stream(std::move(b));
  EXPECT_EQ(read_frame(*right, Deadline::in(Millis(30)), {}).error().kind, ErrorKind::retry);
}

class Tls : public ::testing::Test {
 protected:
  TlsIdentity one_ = *make_tls_identity("one");
  TlsIdentity two_ = *make_tls_identity("two");

  // The accepting end's result, and the connecting end's.
  std::pair<Result<TlsPeer>, Result<TlsPeer>> meet(std::string expected_by_server, std::string expected_by_client) {
    auto [a, b] = socket_pair();
    Result<TlsPeer> server = refused("not run");
    std::jthread thread([&, socket = std::move(a)]() mutable {
      server = tls_accept(std::move(socket), one_, [&](auto f) { return f == expected_by_server; },
                          Deadline::in(Millis(5000)), {});
    });
    auto client = tls_connect(std::move(b), two_, [&](auto f) { return f == expected_by_client; },
                              Deadline::in(Millis(5000)), {});
    thread.join();
    return {std::move(server), std::move(client)};
  }
};

TEST_F(Tls, BothEndsPin) {
  auto [server, client] = meet(two_.fingerprint, one_.fingerprint);
  ASSERT_TRUE(server);
  ASSERT_TRUE(client);
  const auto soon = Deadline::in(Millis(5000));
  std::jthread writer([&] { ASSERT_TRUE(write_frame(*client->stream, std::string(3'000'000, 'x'), soon, {})); });
  EXPECT_EQ(read_frame(*server->stream, soon, {})->size(), 3'000'000u);
}

TEST_F(Tls, AStrangerIsTurnedAway) {
  auto [server, client] = meet("somebody else", one_.fingerprint);
  ASSERT_FALSE(server);
  EXPECT_EQ(server.error().kind, ErrorKind::refused);
}

TEST_F(Tls, AnImpostorServerIsTurnedAway) {
  auto [server, client] = meet(two_.fingerprint, "somebody else");
  ASSERT_FALSE(client);
  EXPECT_EQ(client.error().kind, ErrorKind::refused);
}

TEST(Net, ListenConnectAccept) {
  auto listener = listen_tcp("127.0.0.1", 0);
  ASSERT_TRUE(listener);
  auto client = connect_tcp("127.0.0.1", *local_port(listener->get()), Deadline::in(Millis(5000)));
  ASSERT_TRUE(client);
  EXPECT_TRUE(accept_one(listener->get(), {}));
}

}  // namespace
}  // namespace midstream
