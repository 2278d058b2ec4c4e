#include "movers/end/seal.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <fnmatch.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "base/text.h"
#include "sys/fd.h"

namespace midstream {

namespace {

Result<int> flags_of(int fd, const std::string& name) {
  int flags = 0;
  if (::ioctl(fd, FS_IOC_GETFLAGS, &flags) == 0) return flags;
  if (errno == ENOTTY || errno == EOPNOTSUPP)
    return refused(fmt::format("the file system of {} cannot make files immutable", printable(name)),
                   "use `after: { old: kept }`, and mount it read-only");
  return errno_failure(fmt::format("cannot read the flags of {}", printable(name)), errno);
}

class Sealer {
 public:
  Sealer(const std::vector<std::string>& except, Deadline deadline, const std::stop_token& stop)
      : except_(except), deadline_(deadline), stop_(stop) {}

  Result<> directory(Fd fd, const std::string& below, dev_t device) {
    // A stream of its own: the flag is set through ours when it is closed.
    std::unique_ptr<DIR, int (*)(DIR*)> entries(
        ::fdopendir(::openat(fd.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC)), ::closedir);
    if (!entries) return errno_failure(fmt::format("cannot list {}", printable(below)), errno);
    while (const dirent* entry = ::readdir(entries.get())) {
      const std::string name = entry->d_name;
      if (name == "." || name == "..") continue;
      if (stop_.stop_requested() || deadline_.expired())
        return failure(ErrorKind::cancelled, "stopped while a tree was made read-only");
      CHECK_OK(one(fd.get(), name, below.empty() ? name : below + "/" + name, device));
    }
    return flag(fd.get(), below.empty() ? "." : below);
  }
  std::int64_t sealed() const { return sealed_; }

 private:
  Result<> one(int parent, const std::string& name, const std::string& below, dev_t device) {
    struct stat stat {};
    if (::fstatat(parent, name.c_str(), &stat, AT_SYMLINK_NOFOLLOW) != 0) {
      return errno == ENOENT ? Result<>{} : errno_failure(fmt::format("cannot look at {}", printable(below)), errno);
    }
    const bool directory_here = S_ISDIR(stat.st_mode);
    if (stat.st_dev != device || excepted(name, below, directory_here)) return {};
    if (!directory_here && !S_ISREG(stat.st_mode)) return {};  // held by the directory that it is in
    Fd fd(::openat(parent, name.c_str(),
                   O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | (directory_here ? O_DIRECTORY : 0)));
    if (!fd)
      return errno == ENOENT ? Result<>{} : errno_failure(fmt::format("cannot open {}", printable(below)), errno);
    return directory_here ? directory(std::move(fd), below, device) : flag(fd.get(), below);
  }

  Result<> flag(int fd, const std::string& below) {
    int flags = TRY(flags_of(fd, below));
    ++sealed_;
    if ((flags & FS_IMMUTABLE_FL) != 0) return {};
    flags |= FS_IMMUTABLE_FL;
    if (::ioctl(fd, FS_IOC_SETFLAGS, &flags) == 0) return {};
    return errno_failure(fmt::format("cannot make {} immutable", printable(below)), errno);
  }

  bool excepted(const std::string& name, const std::string& below, bool is_directory) const {
    for (std::string pattern : except_) {
      if (pattern.ends_with('/')) {
        if (!is_directory) continue;
        pattern.pop_back();
      }
      if (pattern.starts_with('/')) pattern.erase(0, 1);
      if (::fnmatch(pattern.c_str(), name.c_str(), FNM_PATHNAME) == 0 ||
          ::fnmatch(pattern.c_str(), below.c_str(), FNM_PATHNAME) == 0)
        return true;
    }
    return false;
  }

  const std::vector<std::string>& except_;
  const Deadline deadline_;
  const std::stop_token& stop_;
  std::int64_t sealed_ = 0;
};

Result<Fd> open_root(const std::filesystem::path& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return errno_failure(fmt::format("cannot open {}", path.string()), errno);
  return fd;
}

}  // namespace

Result<Json> seal_tree(const std::filesystem::path& path, const std::vector<std::string>& except, Deadline deadline,
                       const std::stop_token& stop) {
  auto root = TRY(open_root(path));
  struct stat stat {};
  if (::fstat(root.get(), &stat) != 0) return errno_failure(fmt::format("cannot look at {}", path.string()), errno);
  Sealer sealer(except, deadline, stop);
  Fd again(::fcntl(root.get(), F_DUPFD_CLOEXEC, 0));
  CHECK_OK(sealer.directory(std::move(root), "", stat.st_dev));
  // On disk before anybody counts on it.
  if (::syncfs(again.get()) != 0) return errno_failure(fmt::format("cannot sync {}", path.string()), errno);
  return Json{{"sealed", sealer.sealed()}};
}

Result<bool> is_sealed(const std::filesystem::path& path) {
  const auto root = TRY(open_root(path));
  return (TRY(flags_of(root.get(), path.string())) & FS_IMMUTABLE_FL) != 0;
}

}  // namespace midstream
