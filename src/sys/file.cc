#include "sys/file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <system_error>

#include "sys/fd.h"

namespace midstream {

namespace fs = std::filesystem;

Result<std::string> read_file(const fs::path& path, std::size_t limit) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return errno_failure(fmt::format("cannot open {}", path.string()), errno);
  std::string out;
  char buffer[65536];
  while (true) {
    const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_failure(fmt::format("cannot read {}", path.string()), errno);
    if (n == 0) return out;
    out.append(buffer, static_cast<std::size_t>(n));
    if (out.size() > limit) return refused(fmt::format("{} is larger than {} bytes", path.string(), limit));
  }
}

namespace {

Result<> write_all(int fd, std::string_view bytes, const std::string& name) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_failure(fmt::format("cannot write {}", name), errno);
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

Result<> sync_directory(const fs::path& directory) {
  Fd fd(::open(directory.empty() ? "." : directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd) return errno_failure(fmt::format("cannot open {}", directory.string()), errno);
  if (::fsync(fd.get()) != 0) return errno_failure(fmt::format("cannot sync {}", directory.string()), errno);
  return {};
}

Result<> fill_and_rename(const fs::path& temporary, const fs::path& path, std::string_view bytes, unsigned mode) {
  Fd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return errno_failure(fmt::format("cannot create {}", temporary.string()), errno);
  struct stat old {};
  if (::stat(path.c_str(), &old) == 0) {
    mode = old.st_mode & 07777;
    if (::fchown(fd.get(), old.st_uid, old.st_gid) != 0) {
      return errno_failure(fmt::format("cannot give {} its owner", temporary.string()), errno);
    }
  }
  if (::fchmod(fd.get(), mode) != 0) return errno_failure(fmt::format("cannot chmod {}", temporary.string()), errno);
  CHECK_OK(write_all(fd.get(), bytes, temporary.string()));
  if (::fsync(fd.get()) != 0) return errno_failure(fmt::format("cannot sync {}", temporary.string()), errno);
  if (::rename(temporary.c_str(), path.c_str()) != 0) {
    return errno_failure(fmt::format("cannot rename {} over {}", temporary.string(), path.string()), errno);
  }
  return sync_directory(path.parent_path());
}

}  // namespace

Result<> write_file_durably(const fs::path& path, std::string_view bytes, unsigned mode) {
  auto temporary = path;
  temporary += fmt::format(".{}.tmp", ::getpid());
  auto done = fill_and_rename(temporary, path, bytes, mode);
  if (!done) ::unlink(temporary.c_str());
  return done;
}

Result<> make_directories(const fs::path& path, unsigned mode) {
  if (path.empty() || fs::is_directory(path)) return {};
  CHECK_OK(make_directories(path.parent_path(), mode));
  if (::mkdir(path.c_str(), mode) != 0 && errno != EEXIST) {
    return errno_failure(fmt::format("cannot make directory {}", path.string()), errno);
  }
  return sync_directory(path.parent_path());
}

Result<> remove_file_durably(const fs::path& path) {
  if (::unlink(path.c_str()) != 0) {
    if (errno == ENOENT) return {};
    return errno_failure(fmt::format("cannot remove {}", path.string()), errno);
  }
  return sync_directory(path.parent_path());
}

}  // namespace midstream
