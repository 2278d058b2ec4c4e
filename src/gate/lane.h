// The bytes of one direction on their way from one socket to the other, in one buffer of fixed size: when the receiver does not
// take them, the sender is not read, and TCP tells it so.
#pragma once

#include <memory>
#include <string_view>

#include "gate/tls_socket.h"

namespace midstream::gate {

class Lane {
 public:
  enum class Turn { blocked, again, ended, sender_failed, receiver_failed };

  // Puts bytes that have come already in front; no more than fits.
  bool begin_with(std::string_view bytes);
  // What has come and may not go on yet never will.
  void forget_waiting() { end_ = ready_; }
  // The sender is another from here on, and has said this already: put behind what is there.
  bool move_on(std::string_view bytes);
  // Goes on as far as both sockets let it, and lets go what `pass` allows: given what has come, it says how many bytes of
  // its front may go on. `again`: it stopped to be fair to others. `ended`: the sender ended, and everything is through.
  template <class Pass>
  Turn turn(TlsSocket& from, TlsSocket& to, Pass&& pass);

  bool empty() const { return begin_ == end_; }
  bool nothing_under_way() const { return begin_ == ready_; }

 private:
  static constexpr std::size_t kSize = 32 * 1024;
  static constexpr int kFair = 16;  // reads in one turn
  Io write_ready(TlsSocket& to);
  Io read_more(TlsSocket& from);
  std::unique_ptr<char[]> bytes_;
  // [begin, ready) may go on; [ready, end) may not yet.
  std::size_t begin_ = 0, ready_ = 0, end_ = 0;
  bool from_ended_ = false;
};

template <class Pass>
Lane::Turn Lane::turn(TlsSocket& from, TlsSocket& to, Pass&& pass) {
  for (int reads = 0; reads < kFair;) {
    ready_ += pass(std::string_view(bytes_.get() + ready_, end_ - ready_));
    if (begin_ < ready_) {
      const auto io = write_ready(to);
      if (io != Io::done) return io == Io::blocked ? Turn::blocked : Turn::receiver_failed;
      continue;
    }
    if (from_ended_) return empty() ? Turn::ended : Turn::blocked;
    const auto io = read_more(from);
    if (io == Io::failed) return Turn::sender_failed;
    if (io == Io::blocked) return Turn::blocked;
    from_ended_ = io == Io::closed;
    ++reads;
  }
  return Turn::again;
}

}  // namespace midstream::gate
