// What the probe's tests share.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <string>

#include "sys/clock.h"
#include "sys/fd.h"

namespace midstream {

// A directory of the test's own, gone at the end.
class Scratch {
 public:
  Scratch() {
    std::string name = (std::filesystem::temp_directory_path() / "midstream-probe-XXXXXX").string();
    path_ = ::mkdtemp(name.data());
  }
  ~Scratch() { std::filesystem::remove_all(path_); }
  std::filesystem::path operator/(const char* name) const { return path_ / name; }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// True once `condition` holds; false after ten seconds.
inline bool eventually(const std::function<bool()>& condition) {
  const auto deadline = Deadline::in(Millis(10'000));
  while (!condition()) {
    if (deadline.expired()) return false;
    pause_for(Millis(5), {});
  }
  return true;
}

// In a network namespace of its own; `lo` can be taken down and up.
class Island {
 public:
  bool enter() {
    home_ = Fd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
    return ::unshare(CLONE_NEWNET) == 0;
  }
  ~Island() {
    if (home_) ::setns(home_.get(), CLONE_NEWNET);
  }
  void lo(bool up) {
    const Fd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq request{};
    std::strcpy(request.ifr_name, "lo");
    ASSERT_EQ(::ioctl(fd.get(), SIOCGIFFLAGS, &request), 0);
    request.ifr_flags = static_cast<short>(up ? request.ifr_flags | IFF_UP : request.ifr_flags & ~IFF_UP);
    ASSERT_EQ(::ioctl(fd.get(), SIOCSIFFLAGS, &request), 0);
  }

 private:
  Fd home_;
};

}  // namespace midstream
