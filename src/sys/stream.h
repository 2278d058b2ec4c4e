// Byte streams with deadlines, and frames on them.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"
#include "sys/clock.h"
#include "sys/fd.h"

namespace midstream {

// A connected, reliable byte stream. One thread may read while another writes; not two of the same. After any
// error the stream is dead: close it. A stop request or deadline surfaces within 50 ms.
class Stream {
 public:
  virtual ~Stream() = default;
  // Reads at least one byte; 0 means that the peer closed in order. Deadline passed: retry.
  virtual Result<std::size_t> read_some(std::span<char> into, Deadline deadline, const std::stop_token& stop) = 0;
  virtual Result<> write_all(std::string_view bytes, Deadline deadline, const std::stop_token& stop) = 0;
  // Wakes a thread blocked in either direction with an error; callable from any thread.
  virtual void shut() = 0;
};

// Over a socket, or a pair of pipes (`out` < 0: the same fd). Takes them over and makes them non-blocking.
std::unique_ptr<Stream> make_fd_stream(Fd in, Fd out = Fd());

// Waits until `fd` is ready for `events` (POLLIN, POLLOUT). Retry when out of time, cancelled when stopped.
Result<> wait_fd(int fd, short events, Deadline deadline, const std::stop_token& stop);

inline constexpr std::size_t kMaxFrame = 64u << 20;

// A frame is a 4-byte big-endian length and that many bytes. Longer than `limit` is corrupt, before anything of
// it is allocated; an orderly close where a frame should begin is ErrorKind::cancelled ("closed").
Result<std::string> read_frame(Stream& stream, Deadline deadline, const std::stop_token& stop,
                               std::size_t limit = kMaxFrame);
Result<> write_frame(Stream& stream, std::string_view bytes, Deadline deadline, const std::stop_token& stop);

Result<Json> read_message(Stream& stream, Deadline deadline, const std::stop_token& stop);
Result<> write_message(Stream& stream, const Json& message, Deadline deadline, const std::stop_token& stop);

}  // namespace midstream
