#include "movers/files/root.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#define XXH_STATIC_LINKING_ONLY  // a state on the stack
#include <xxhash.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>

#include "base/text.h"
#include "movers/files/path.h"
#include "movers/files/wire.h"

namespace midstream::files {

namespace {

constexpr std::size_t kReadStep = 256u << 10;

int open_beneath(int root, std::string_view path, std::uint64_t flags) {
  open_how how{};
  how.flags = flags | O_CLOEXEC;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV;
  const std::string name(path);
  while (true) {
    const long fd = ::syscall(SYS_openat2, root, name.c_str(), &how, sizeof how);
    if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) return static_cast<int>(fd);
  }
}

bool moves(std::string_view name) {
  return name.starts_with("user.") || name.starts_with("system.posix_acl_") || name == "security.capability";
}

std::int64_t nanos(const timespec& t) { return std::int64_t{t.tv_sec} * 1'000'000'000 + t.tv_nsec; }

timespec to_timespec(std::int64_t ns) {
  auto seconds = ns / 1'000'000'000;
  auto rest = ns % 1'000'000'000;
  if (rest < 0) --seconds, rest += 1'000'000'000;
  return {static_cast<time_t>(seconds), static_cast<long>(rest)};
}

EntryType type_of(mode_t mode) {
  switch (mode & S_IFMT) {
    case S_IFREG: return EntryType::file;
    case S_IFDIR: return EntryType::directory;
    case S_IFLNK: return EntryType::symlink;
    case S_IFIFO: return EntryType::fifo;
    case S_IFCHR: return EntryType::character;
    case S_IFBLK: return EntryType::block;
    default: return EntryType::none;
  }
}

// Reads the open file to its end: hashes it and keeps it if it is small enough.
Result<> read_content(int fd, std::size_t keep_limit, Loaded& out, const std::stop_token& stop) {
  if (out.stat.size <= keep_limit) {
    out.content.resize(out.stat.size + 1);  // one more, to see growth
    std::size_t have = 0;
    while (have != out.stat.size && have < out.content.size()) {
      const ssize_t n = ::read(fd, out.content.data() + have, out.content.size() - have);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return errno_failure("reading a file failed", errno);
      if (n == 0) break;
      have += static_cast<std::size_t>(n);
    }
    out.steady = have == out.stat.size;
    out.content.resize(have);
    out.version.size = have;
    out.version.hash = hash_bytes(out.content);
    return {};
  }
  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  std::string buffer(kReadStep, '\0');
  std::uint64_t total = 0;
  while (true) {
    if (stop.stop_requested()) return failure(ErrorKind::cancelled, "stopped while reading a file");
    const ssize_t n = ::read(fd, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_failure("reading a file failed", errno);
    if (n == 0) break;
    XXH3_64bits_update(&state, buffer.data(), static_cast<std::size_t>(n));
    total += static_cast<std::uint64_t>(n);
  }
  out.steady = total == out.stat.size;
  out.version.size = total;
  out.version.hash = XXH3_64bits_digest(&state);
  return {};
}

}  // namespace

bool means_gone(int code) { return code == ENOENT || code == ENOTDIR || code == ELOOP || code == ESTALE; }
bool means_stall(int code) { return code == ENOSPC || code == EDQUOT || code == EROFS || code == EIO || code == ENOMEM; }

std::unexpected<Error> io_failure(std::string what, int code) {
  if (means_stall(code)) return retry(what + ": " + std::strerror(code), "make room, or mend the disk");
  auto error = errno_failure(std::move(what), code).error();
  error.kind = ErrorKind::refused;
  return std::unexpected(std::move(error));
}

Stat to_stat(const struct ::stat& raw) {
  Stat out;
  out.type = type_of(raw.st_mode);
  out.socket = S_ISSOCK(raw.st_mode);
  out.mode = out.type == EntryType::symlink ? 0 : raw.st_mode & 07777;
  out.uid = raw.st_uid;
  out.gid = raw.st_gid;
  out.nlink = static_cast<std::uint32_t>(raw.st_nlink);
  out.ino = raw.st_ino;
  out.dev = raw.st_dev;
  out.rdev = out.type == EntryType::character || out.type == EntryType::block ? raw.st_rdev : 0;
  out.size = out.type == EntryType::file ? static_cast<std::uint64_t>(raw.st_size) : 0;
  out.mtime_ns = nanos(raw.st_mtim);
  out.ctime_ns = nanos(raw.st_ctim);
  return out;
}

Version version_of(const Stat& stat) {
  Version v;
  v.type = stat.type;
  v.mode = stat.mode;
  v.uid = stat.uid;
  v.gid = stat.gid;
  v.mtime_ns = stat.mtime_ns;
  v.size = stat.size;
  v.rdev = stat.rdev;
  return v;
}

Result<Root> Root::open(const std::filesystem::path& path) {
  Root root;
  Fd fd(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd) {
    const int code = errno;
    if (code == ENOENT) return retry(fmt::format("{} is not there", path.string()), "create it, or mount it");
    return errno_failure(fmt::format("cannot open the directory {}", path.string()), code);
  }
  struct ::stat raw;
  if (::fstat(fd.get(), &raw) != 0) return errno_failure(fmt::format("cannot stat {}", path.string()), errno);
  root.stat_ = to_stat(raw);
  root.fd_ = std::make_shared<Fd>(std::move(fd));
  root.next_ = std::make_shared<std::atomic<std::uint64_t>>(0);
  return root;
}

Result<int> Root::hidden() {
  if (hidden_) return hidden_->get();
  struct ::stat before;
  if (::fstat(fd(), &before) != 0) return errno_failure("cannot stat the root of the tree", errno);
  const std::string name(kHidden);
  if (::mkdirat(fd(), name.c_str(), 0700) == 0) {
    const timespec times[2] = {{0, UTIME_OMIT}, before.st_mtim};
    ::futimens(fd(), times);
  } else if (errno != EEXIST) {
    return errno_failure(fmt::format("cannot make {} in the root of the tree", kHidden), errno);
  }
  Fd held(open_beneath(fd(), name, O_RDONLY | O_DIRECTORY));
  if (!held) return errno_failure(fmt::format("cannot open {} in the root of the tree", kHidden), errno);
  struct ::stat raw;
  if (::fstat(held.get(), &raw) != 0) return errno_failure("cannot stat a directory", errno);
  if (raw.st_uid != ::geteuid() || (raw.st_mode & 0777) != 0700) {
    return refused(fmt::format("{} in the root of the tree is not ours alone", kHidden), "remove it");
  }
  for (const auto& entry : TRY(list_names(held.get()))) {
    if (entry.front() != 'x') ::unlinkat(held.get(), entry.c_str(), 0);  // rescue() looks at those
  }
  hidden_ = std::make_shared<Fd>(std::move(held));
  return hidden_->get();
}

Result<> Root::remove_hidden() {
  hidden_.reset();
  struct ::stat before;
  if (::fstat(fd(), &before) != 0) return errno_failure("cannot stat the root of the tree", errno);
  const std::string name(kHidden);
  Fd held(open_beneath(fd(), name, O_RDONLY | O_DIRECTORY));
  if (!held) return means_gone(errno) ? Result<>() : Result<>(errno_failure("cannot open the hidden directory", errno));
  for (const auto& entry : TRY(list_names(held.get()))) ::unlinkat(held.get(), entry.c_str(), 0);
  if (::unlinkat(fd(), name.c_str(), AT_REMOVEDIR) != 0) return errno_failure("cannot remove the hidden directory", errno);
  const timespec times[2] = {{0, UTIME_OMIT}, before.st_mtim};
  ::futimens(fd(), times);
  return {};
}

Result<Place> Root::directory(std::string_view path, bool* gone) const {
  if (path == ".") return Place{fd_, "."};
  Fd held(open_beneath(fd(), path, O_PATH | O_DIRECTORY | O_NOFOLLOW));
  if (!held) {
    const int code = errno;
    if (gone) *gone = means_gone(code);
    return errno_failure(fmt::format("cannot enter {}", printable(path)), code);
  }
  return Place{std::make_shared<Fd>(std::move(held)), "."};
}

Result<Place> Root::place(std::string_view path, bool* gone) const {
  auto out = TRY(directory(parent_of(path), gone));
  out.leaf = path == "." ? "." : std::string(leaf_of(path));
  return out;
}

Result<std::optional<Stat>> Root::look(std::string_view path) const {
  bool gone = false;
  auto place_at = place(path, &gone);
  if (gone) return std::nullopt;
  if (!place_at) return std::unexpected(place_at.error());
  return look_at(place_at->fd(), place_at->leaf.c_str());
}

std::string Root::temporary_name() { return fmt::format("t{}", next_->fetch_add(1)); }

Result<std::optional<Stat>> look_at(int directory, const char* leaf) {
  struct ::stat raw;
  if (::fstatat(directory, leaf, &raw, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) != 0) {
    if (means_gone(errno)) return std::nullopt;
    return errno_failure(fmt::format("cannot stat {}", printable(leaf)), errno);
  }
  return to_stat(raw);
}

Result<Fd> open_entry(int directory, const char* leaf, const Stat& expected, Stat* opened) {
  const int flags = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
  Fd fd(::openat(directory, leaf, flags | O_NOATIME));
  if (!fd && errno == EPERM) fd = Fd(::openat(directory, leaf, flags));
  if (!fd) {
    const int code = errno;
    if (means_gone(code)) return retry(fmt::format("{} went away", printable(leaf)));
    return errno_failure(fmt::format("cannot open {}", printable(leaf)), code);
  }
  struct ::stat raw;
  if (::fstat(fd.get(), &raw) != 0) return errno_failure("cannot stat an open file", errno);
  if (raw.st_ino != expected.ino || raw.st_dev != expected.dev || type_of(raw.st_mode) != expected.type) {
    return retry(fmt::format("{} was replaced", printable(leaf)));
  }
  if (opened) *opened = to_stat(raw);
  return fd;
}

namespace {

Result<> load_link(const Place& place, Loaded& out) {
  char target[kMaxPath];
  const ssize_t n = ::readlinkat(place.fd(), place.leaf.c_str(), target, sizeof target);
  if (n < 0) return retry(fmt::format("{} was replaced", printable(place.leaf)));
  if (n == 0 || static_cast<std::size_t>(n) >= sizeof target) return refused(fmt::format("the link {} is too long", printable(place.leaf)));
  out.content.assign(target, static_cast<std::size_t>(n));
  out.version.hash = hash_bytes(out.content);
  const auto after = TRY(look_at(place.fd(), place.leaf.c_str()));
  out.steady = after && *after == out.stat;
  return {};
}

}  // namespace

Result<Loaded> load(const Place& place, const Stat& stat, std::size_t keep_limit, bool hash, const std::stop_token& stop) {
  Loaded out;
  out.stat = stat;
  out.version = version_of(stat);
  if (stat.type == EntryType::symlink) {
    CHECK_OK(load_link(place, out));
    return out;
  }
  if (stat.type != EntryType::file && stat.type != EntryType::directory) return out;
  const Fd fd = TRY(open_entry(place.fd(), place.leaf.c_str(), stat, &out.stat));
  CHECK_OK(load_open(fd.get(), keep_limit, hash, out, stop));
  return out;
}

std::size_t until_hole(int fd, std::uint64_t from, std::size_t most) {
  const off_t hole = ::lseek(fd, static_cast<off_t>(from), SEEK_HOLE);
  if (hole <= static_cast<off_t>(from)) return most;  // no such thing here, or it has just been made
  return static_cast<std::size_t>(std::min<std::uint64_t>(most, static_cast<std::uint64_t>(hole) - from));
}

Result<> load_open(int fd, std::size_t keep_limit, bool hash, Loaded& out, const std::stop_token& stop) {
  out.version = version_of(out.stat);
  out.xattrs = TRY(read_xattrs(fd));
  out.version.xattrs = hash_xattrs(out.xattrs);
  if (out.stat.type == EntryType::file && hash) CHECK_OK(read_content(fd, keep_limit, out, stop));
  struct ::stat raw;
  if (::fstat(fd, &raw) != 0) return errno_failure("cannot stat an open file", errno);
  if (to_stat(raw) != out.stat) out.steady = false;
  return {};
}

Fd open_file(int directory, const char* leaf, Stat& opened) {
  Fd fd(::openat(directory, leaf, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY | O_NOATIME));
  struct ::stat raw;
  if (!fd || ::fstat(fd.get(), &raw) != 0 || !S_ISREG(raw.st_mode)) return {};
  opened = to_stat(raw);
  return fd;
}

Result<Xattrs> read_xattrs(int fd) {
  char names[8192];
  const ssize_t size = ::flistxattr(fd, names, sizeof names);
  if (size < 0) {
    if (errno == ENOTSUP) return Xattrs{};
    return errno_failure("cannot list extended attributes", errno);
  }
  Xattrs out;
  std::size_t total = 0;
  std::string value;
  for (std::string_view left(names, static_cast<std::size_t>(size)); !left.empty();) {
    const std::string name(left.substr(0, left.find('\0')));
    left.remove_prefix(std::min(left.size(), name.size() + 1));
    if (!moves(name)) continue;
    value.resize(kMaxXattrValue);  // only now: most entries have none
    const ssize_t n = ::fgetxattr(fd, name.c_str(), value.data(), value.size());
    if (n < 0 && errno == ENODATA) continue;
    if (n < 0) return errno_failure(fmt::format("cannot read the attribute {}", printable(name)), errno);
    total += static_cast<std::size_t>(n);
    out.emplace_back(name, value.substr(0, static_cast<std::size_t>(n)));
    if (out.size() > kMaxXattrs || total > kMaxXattrBytes) return refused("an entry has more extended attributes than can move");
  }
  std::ranges::sort(out);
  return out;
}

Result<> write_xattrs(int fd, const Xattrs& xattrs) {
  char names[8192];
  const ssize_t size = ::flistxattr(fd, names, sizeof names);
  if (size < 0 && errno != ENOTSUP) return io_failure("cannot list extended attributes", errno);
  for (std::string_view left(names, static_cast<std::size_t>(std::max<ssize_t>(size, 0))); !left.empty();) {
    const std::string name(left.substr(0, left.find('\0')));
    left.remove_prefix(std::min(left.size(), name.size() + 1));
    const bool wanted = std::ranges::any_of(xattrs, [&](const auto& x) { return x.first == name; });
    if (moves(name) && !wanted && ::fremovexattr(fd, name.c_str()) != 0 && errno != ENODATA) {
      return io_failure(fmt::format("cannot remove the attribute {}", printable(name)), errno);
    }
  }
  for (const auto& [name, value] : xattrs) {
    if (!moves(name)) return corrupt(fmt::format("the attribute {} does not move", printable(name)));
    if (::fsetxattr(fd, name.c_str(), value.data(), value.size(), 0) != 0) {
      return io_failure(fmt::format("cannot set the attribute {}", printable(name)), errno);
    }
  }
  return {};
}

Result<> set_metadata(int fd, const Version& version, const Xattrs& xattrs, bool ours_alone) {
  struct ::stat now {};
  if (ours_alone && ::fstat(fd, &now) != 0) return io_failure("cannot stat a new file", errno);
  const bool owned = ours_alone && now.st_uid == version.uid && now.st_gid == version.gid;
  const bool permitted = owned && (now.st_mode & 07777) == version.mode;
  if (!owned && ::fchown(fd, version.uid, version.gid) != 0) return io_failure("cannot set the owner", errno);
  if (!permitted && ::fchmod(fd, version.mode) != 0) return io_failure("cannot set the mode", errno);
  CHECK_OK(write_xattrs(fd, xattrs));
  return set_time(fd, version.mtime_ns);
}

Result<> set_time(int fd, std::int64_t mtime_ns) {
  const timespec times[2] = {{0, UTIME_OMIT}, to_timespec(mtime_ns)};
  if (::futimens(fd, times) != 0) return io_failure("cannot set the modification time", errno);
  return {};
}

Result<std::vector<std::string>> list_names(int directory) {
  std::vector<std::string> names;
  for (auto& [name, file] : TRY(list_directory(directory))) names.push_back(std::move(name));
  return names;
}

Result<std::vector<Name>> list_directory(int directory) {
  const int copy = ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOATIME);
  const int fd = copy >= 0 ? copy : ::openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return errno_failure("cannot read a directory", errno);
  DIR* dir = ::fdopendir(fd);
  if (!dir) {
    ::close(fd);
    return errno_failure("cannot read a directory", errno);
  }
  std::vector<Name> names;
  errno = 0;
  while (const dirent* entry = ::readdir(dir)) {
    const std::string_view name(entry->d_name);
    if (name != "." && name != "..") names.push_back({std::string(name), entry->d_type == DT_REG});
    errno = 0;
  }
  const int code = errno;
  ::closedir(dir);
  if (code != 0) return errno_failure("cannot read a directory", code);
  return names;
}

}  // namespace midstream::files
