#include "sys/stream.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

namespace midstream {

Result<> wait_fd(int fd, short events, Deadline deadline, const std::stop_token& stop) {
  while (true) {
    if (stop.stop_requested()) return failure(ErrorKind::cancelled, "stopped while waiting for a peer");
    const auto left = deadline.remaining();
    if (left.count() == 0) return retry("the peer did not answer in time");
    pollfd polled{fd, events, 0};
    const int n = ::poll(&polled, 1, static_cast<int>(std::min<std::int64_t>(left.count(), 50)));
    if (n < 0 && errno != EINTR) return errno_failure("poll failed", errno);
    if (n > 0) return {};
  }
}

namespace {

class FdStream final : public Stream {
 public:
  FdStream(Fd in, Fd out) : in_(std::move(in)), out_(std::move(out)) {
    ::fcntl(in_.get(), F_SETFL, ::fcntl(in_.get(), F_GETFL) | O_NONBLOCK);
    if (out_) ::fcntl(out_.get(), F_SETFL, ::fcntl(out_.get(), F_GETFL) | O_NONBLOCK);
  }

  Result<std::size_t> read_some(std::span<char> into, Deadline deadline, const std::stop_token& stop) override {
    while (true) {
      const ssize_t n = ::read(in_.get(), into.data(), into.size());
      if (n >= 0) return static_cast<std::size_t>(n);
      if (errno != EAGAIN && errno != EINTR) return errno_failure("read from peer failed", errno);
      CHECK_OK(wait_fd(in_.get(), POLLIN, deadline, stop));
    }
  }

  Result<> write_all(std::string_view bytes, Deadline deadline, const std::stop_token& stop) override {
    const int fd = out_ ? out_.get() : in_.get();
    while (!bytes.empty()) {
      ssize_t n = ::send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n < 0 && errno == ENOTSOCK) n = ::write(fd, bytes.data(), bytes.size());
      if (n >= 0) {
        bytes.remove_prefix(static_cast<std::size_t>(n));
        continue;
      }
      if (errno != EAGAIN && errno != EINTR) return errno_failure("write to peer failed", errno);
      CHECK_OK(wait_fd(fd, POLLOUT, deadline, stop));
    }
    return {};
  }

  void shut() override { ::shutdown(in_.get(), SHUT_RDWR); }

 private:
  Fd in_;
  Fd out_;
};

Result<> read_exactly(Stream& stream, std::span<char> into, bool at_start, Deadline deadline,
                      const std::stop_token& stop) {
  while (!into.empty()) {
    const auto n = TRY(stream.read_some(into, deadline, stop));
    if (n == 0) {
      return at_start ? std::unexpected(Error{ErrorKind::cancelled, "the peer closed the connection", ""})
                      : std::unexpected(Error{ErrorKind::retry, "the peer closed the connection within a message", ""});
    }
    at_start = false;
    into = into.subspan(n);
  }
  return {};
}

constexpr std::size_t kCopied = 64u << 10;           // a frame up to this is written as one
constexpr std::size_t kTogether = (16u << 10) - 4;  // of a longer one: as much as one TLS record takes

}  // namespace

std::unique_ptr<Stream> make_fd_stream(Fd in, Fd out) {
  return std::make_unique<FdStream>(std::move(in), std::move(out));
}

Result<std::string> read_frame(Stream& stream, Deadline deadline, const std::stop_token& stop, std::size_t limit) {
  unsigned char head[4];
  CHECK_OK(read_exactly(stream, {reinterpret_cast<char*>(head), 4}, true, deadline, stop));
  const std::size_t size =
      std::size_t{head[0]} << 24 | std::size_t{head[1]} << 16 | std::size_t{head[2]} << 8 | head[3];
  if (size > limit) return corrupt(fmt::format("a peer announced a message of {} bytes, the limit is {}", size, limit));
  std::string body;
  // Not zeroed: read_exactly() fills it. GCC 12 hands the capacity to the function where it should hand the size.
  body.resize_and_overwrite(size, [size](char*, std::size_t) { return size; });
  CHECK_OK(read_exactly(stream, body, false, deadline, stop));
  return body;
}

Result<> write_frame(Stream& stream, std::string_view bytes, Deadline deadline, const std::stop_token& stop) {
  if (bytes.size() > kMaxFrame) return refused(fmt::format("a message of {} bytes is over the limit", bytes.size()));
  const auto size = static_cast<std::uint32_t>(bytes.size());
  // The length leaves together with what follows, but not all of a large frame is copied for that.
  const auto together = bytes.size() > kCopied ? kTogether : bytes.size();
  std::string out;
  out.reserve(together + 4);
  for (const int shift : {24, 16, 8, 0}) out += static_cast<char>(size >> shift & 0xff);
  out += bytes.substr(0, together);
  CHECK_OK(stream.write_all(out, deadline, stop));
  return together == bytes.size() ? Result<>() : stream.write_all(bytes.substr(together), deadline, stop);
}

Result<Json> read_message(Stream& stream, Deadline deadline, const std::stop_token& stop) {
  return parse_json(TRY(read_frame(stream, deadline, stop)));
}

Result<> write_message(Stream& stream, const Json& message, Deadline deadline, const std::stop_token& stop) {
  return write_frame(stream, message.dump(-1, ' ', false, Json::error_handler_t::replace), deadline, stop);
}

}  // namespace midstream
