#include "movers/postgres/as_user.h"

#include <fmt/format.h>
#include <pwd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

namespace midstream::postgres {

namespace {

bool set_effective(uid_t uid, gid_t gid, bool user_first) {
  const auto set_user = [&] { return ::syscall(SYS_setresuid, -1, uid, -1) == 0; };
  const auto set_group = [&] { return ::syscall(SYS_setresgid, -1, gid, -1) == 0; };
  return user_first ? set_user() && set_group() : set_group() && set_user();
}

}  // namespace

Result<AsUser> AsUser::enter(const std::string& user) {
  passwd entry{};
  passwd* found = nullptr;
  std::array<char, 4096> buffer{};
  ::getpwnam_r(user.c_str(), &entry, buffer.data(), buffer.size(), &found);
  if (found == nullptr)
    return refused(fmt::format("there is no OS user {} on this host", user), "install PostgreSQL's server package");
  if (::geteuid() == entry.pw_uid) return AsUser(false);
  if (!set_effective(entry.pw_uid, entry.pw_gid, false))
    return errno_failure(fmt::format("cannot act as OS user {}", user), errno);
  return AsUser(true);
}

AsUser::~AsUser() {
  if (!active_) return;
  // Going on as the wrong user would be worse than ending.
  if (!set_effective(0, 0, true)) std::abort();
}

}  // namespace midstream::postgres
