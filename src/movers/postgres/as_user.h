// Acting as another OS user for a moment, in this thread alone.
#pragma once

#include <sys/types.h>

#include <string>

#include "base/result.h"

namespace midstream::postgres {

// While one lives, this thread's effective user and group are `user`'s: files that it makes belong to that
// user, and a unix socket that it connects shows that user to the other end (peer authentication). Other
// threads are not touched: glibc's setresuid would change them all, so the system calls are made directly.
// Does nothing where the process already is that user. Must end in the thread that made it.
class AsUser {
 public:
  static Result<AsUser> enter(const std::string& user);
  AsUser(AsUser&& other) noexcept : active_(std::exchange(other.active_, false)) {}
  AsUser& operator=(AsUser&&) = delete;
  ~AsUser();

 private:
  explicit AsUser(bool active) : active_(active) {}
  bool active_ = false;
};

}  // namespace midstream::postgres
