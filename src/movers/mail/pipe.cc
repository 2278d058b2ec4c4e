#include "movers/mail/pipe.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/text.h"
#include "sys/net.h"

namespace midstream::mail {

namespace {

// Frames: 'd' and bytes; 'z', no more bytes this way; 'e' and the exit code, the last.
constexpr std::size_t kChunk = 65'536;

// From a descriptor to the stream until the descriptor's end, then 'z'.
Result<> send_bytes(int from, Stream& stream, const Limits& limits) {
  std::string frame;
  while (true) {
    CHECK_OK(wait_fd(from, POLLIN, limits.deadline, limits.stop));
    frame.resize(kChunk + 1);
    frame[0] = 'd';
    const ssize_t n = ::read(from, frame.data() + 1, kChunk);
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n <= 0) return write_frame(stream, "z", limits.deadline, limits.stop);
    frame.resize(static_cast<std::size_t>(n) + 1);
    CHECK_OK(write_frame(stream, frame, limits.deadline, limits.stop));
  }
}

Result<> write_fd(int to, std::string_view bytes, const Limits& limits) {
  while (!bytes.empty()) {
    CHECK_OK(wait_fd(to, POLLOUT, limits.deadline, limits.stop));
    // A reader that is gone is not our error: how it ended is told by its exit code.
    const ssize_t n = ::send(to, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n < 0 && errno == ENOTSOCK) {
      const ssize_t written = ::write(to, bytes.data(), bytes.size());
      if (written < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (written < 0) return retry("the reader is gone");
      bytes.remove_prefix(static_cast<std::size_t>(written));
      continue;
    }
    if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (n < 0) return retry("the reader is gone");
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

}  // namespace

Result<> send_user(const Dovecot& dovecot, const std::string& user, bool full, Stream& stream,
                   const std::vector<std::string>& pipe, const std::filesystem::path& socket, const Limits& limits) {
  auto listener = TRY(listen_unix(socket));
  std::stop_source ended;  // doveadm is gone: whoever still waits ends
  const std::stop_callback outer(limits.stop, [&] { ended.request_stop(); });
  const Limits inner{limits.deadline, ended.get_token()};
  Result<int> remote = retry("the other side's dsync did not say how it ended");
  std::atomic<bool> joined = false;
  std::jthread carrier([&] {
    auto accepted = accept_one(listener.get(), inner.stop);
    if (!accepted) return;
    joined = true;
    ::fcntl(accepted->get(), F_SETFL, O_NONBLOCK);
    std::jthread upward([&] {
      if (!send_bytes(accepted->get(), stream, inner)) stream.shut();
    });
    while (true) {
      auto frame = read_frame(stream, inner.deadline, inner.stop, kChunk + 1);
      if (!frame || frame->empty()) break;
      if ((*frame)[0] == 'd' && !write_fd(accepted->get(), std::string_view(*frame).substr(1), inner)) continue;
      if ((*frame)[0] != 'e') continue;
      remote = std::atoi(frame->c_str() + 1);
      break;
    }
    ::shutdown(accepted->get(), SHUT_RDWR);
  });
  std::vector<std::string> words{"backup", "-u", user};
  if (full) words.insert(words.begin() + 1, "-f");
  words.insert(words.end(), pipe.begin(), pipe.end());
  words.push_back(socket.string());
  auto exit = run_child(dovecot.doveadm(std::move(words)), "", limits.deadline, limits.stop);
  if (!exit || exit->code != 0 || !joined) ended.request_stop();
  carrier.join();
  ::unlink(socket.c_str());
  if (!exit) return std::unexpected(exit.error());
  const auto said = printable(std::string(trim(exit->err.substr(0, exit->err.find('\n')))));
  if (exit->code != 0) return retry(fmt::format("doveadm backup of {} ended with {}: {}", user, exit->code, said));
  if (!remote) return std::unexpected(remote.error());
  if (*remote != 0) return retry(fmt::format("dsync of {} ended with {} on the other side", user, *remote));
  return {};
}

Result<> receive_user(const Dovecot& dovecot, const std::string& user, Stream& stream, const Limits& limits) {
  auto child = TRY(Child::start(dovecot.doveadm({"dsync-server", "-u", user})));
  ::fcntl(child.in(), F_SETFL, O_NONBLOCK);
  std::stop_source ended;
  const std::stop_callback outer(limits.stop, [&] { ended.request_stop(); });
  Result<> sent;
  {
    std::jthread upward([&] {
      // Its end comes with the child's; the exit code is ours to say, after 'z'.
      sent = send_bytes(child.out(), stream, {limits.deadline, ended.get_token()});
      if (!sent) stream.shut();
    });
    while (true) {
      auto frame = read_frame(stream, limits.deadline, ended.get_token(), kChunk + 1);
      if (!frame) {
        ended.request_stop();
        break;
      }
      if (frame->empty() || (*frame)[0] != 'd') break;
      if (!write_fd(child.in(), std::string_view(*frame).substr(1), limits)) break;
    }
    child.close_in();
  }
  const auto code = TRY(child.wait(limits.deadline.sooner(Millis(30'000)), limits.stop));
  CHECK_OK(sent);
  return write_frame(stream, fmt::format("e{}", code), limits.deadline, limits.stop);
}

}  // namespace midstream::mail
