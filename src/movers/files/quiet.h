// Whether somebody writes to a file. A read lease can be had only while nobody has it open for writing or mapped shared,
// and while it is held whoever opens it for writing waits: fcntl(2), "Leases".
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>

namespace midstream::files {

class Quiet {
 public:
  // `fd`: a regular file, opened for reading only; outlives this. Held for moments: writers wait.
  explicit Quiet(int fd) : fd_(fd) {
    ::fcntl(fd_, F_SETSIG, SIGURG);  // a lease that is broken tells by a signal: one that is ignored by default
    held_ = ::fcntl(fd_, F_SETLEASE, F_RDLCK) == 0;
    written_ = !held_ && errno == EAGAIN;
  }
  ~Quiet() {
    if (held_) ::fcntl(fd_, F_SETLEASE, F_UNLCK);
  }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;

  // The same, after a moment where somebody had it open: a child of ours that has not come to its exec yet holds what was
  // open here when it began.
  static bool written_for_long(int fd) {
    for (int look = 0; look < kLooks; ++look) {
      if (look > 0) ::usleep(kLookUs);
      if (!Quiet(fd).written()) return false;
    }
    return true;
  }

  // Somebody has it open for writing. False also where the file system has no leases: then nobody can tell.
  bool written() const { return written_; }

 private:
  static constexpr int kLooks = 5;
  static constexpr int kLookUs = 4'000;
  const int fd_;
  bool held_ = false;
  bool written_ = false;
};

}  // namespace midstream::files
