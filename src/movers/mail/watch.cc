#include "movers/mail/watch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/fanotify.h>
#include <sys/stat.h>
#include <sys/statfs.h>

#include <array>
#include <cstring>
#include <set>

#include "sys/stream.h"

namespace midstream::mail {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kEvents = FAN_CREATE | FAN_DELETE | FAN_MOVED_FROM | FAN_MOVED_TO | FAN_CLOSE_WRITE | FAN_ONDIR;

fs::path existing(fs::path path) {
  std::error_code ignored;
  while (!fs::exists(path, ignored) && path.has_relative_path()) path = path.parent_path();
  return path;
}

// The path of the directory that a file handle names, "" where it is gone or of another file system.
std::string path_of(const std::vector<Fd>& mounts, file_handle* handle) {
  for (const auto& mount : mounts) {
    const Fd directory(::open_by_handle_at(mount.get(), handle, O_PATH | O_CLOEXEC));
    if (!directory) continue;
    std::array<char, 4096> buffer{};
    const auto n = ::readlink(fmt::format("/proc/self/fd/{}", directory.get()).c_str(), buffer.data(), buffer.size());
    if (n > 0) return std::string(buffer.data(), static_cast<std::size_t>(n));
  }
  return "";
}

}  // namespace

bool is_mail_change(std::string_view directory, std::string_view name) {
  if (name.starts_with("dovecot") || name.starts_with(".dovecot-") || name.ends_with(".lock") ||
      name.ends_with(".svbin"))
    return false;
  if (directory.ends_with("/tmp") || name == "tmp") return false;
  return true;
}

Result<Watch> Watch::open(const std::vector<fs::path>& homes) {
  Watch watch;
  watch.events_ = Fd(::fanotify_init(
      FAN_CLASS_NOTIF | FAN_REPORT_DFID_NAME | FAN_CLOEXEC | FAN_NONBLOCK | FAN_UNLIMITED_QUEUE, O_RDONLY));
  if (!watch.events_) return errno_failure("cannot watch mail stores (fanotify)", errno);
  std::set<dev_t> seen;
  for (const auto& home : homes) {
    const auto at = existing(home);
    struct stat status {};
    if (::stat(at.c_str(), &status) != 0 || !seen.insert(status.st_dev).second) continue;
    if (::fanotify_mark(watch.events_.get(), FAN_MARK_ADD | FAN_MARK_FILESYSTEM, kEvents, AT_FDCWD, at.c_str()) != 0)
      return errno_failure(fmt::format("cannot watch the file system of {}", at.string()), errno);
    Fd mount(::open(at.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!mount) return errno_failure("cannot open " + at.string(), errno);
    watch.mounts_.push_back(std::move(mount));
  }
  return watch;
}

Result<> Watch::wait(const std::function<void(const std::string&)>& changed, const std::function<void()>& lost,
                     const std::stop_token& stop) {
  const auto ready = wait_fd(events_.get(), POLLIN, Deadline::in(Millis(500)), stop);
  if (!ready && ready.error().kind == ErrorKind::retry) return {};
  CHECK_OK(ready);
  std::array<char, 65'536> buffer;
  const ssize_t n = ::read(events_.get(), buffer.data(), buffer.size());
  if (n < 0)
    return errno == EAGAIN || errno == EINTR ? Result<>()
                                             : errno_failure("cannot read what changed in mail stores", errno);
  std::set<std::string> seen;  // handles of this read: one look at each
  for (std::size_t at = 0; at + sizeof(fanotify_event_metadata) <= static_cast<std::size_t>(n);) {
    fanotify_event_metadata event;
    std::memcpy(&event, buffer.data() + at, sizeof event);
    const std::string_view body(buffer.data() + at + sizeof event, event.event_len - sizeof event);
    at += event.event_len;
    if ((event.mask & FAN_Q_OVERFLOW) != 0) lost();
    // One record: header (4 bytes), file system id (8), then the handle of the directory and the name in it.
    constexpr std::size_t kBefore = sizeof(fanotify_event_info_header) + sizeof(__kernel_fsid_t);
    if (body.size() < kBefore + sizeof(file_handle)) continue;
    alignas(file_handle) std::array<char, sizeof(file_handle) + MAX_HANDLE_SZ> copy{};
    std::memcpy(copy.data(), body.data() + kBefore, std::min(copy.size(), body.size() - kBefore));
    auto* handle = reinterpret_cast<file_handle*>(copy.data());
    const std::size_t length = sizeof(file_handle) + handle->handle_bytes;
    if (handle->handle_bytes > MAX_HANDLE_SZ || body.size() < kBefore + length) continue;
    const auto name = body.substr(kBefore + length);
    if (static_cast<unsigned char>(body[0]) == FAN_EVENT_INFO_TYPE_DFID_NAME &&
        !is_mail_change("", name.substr(0, name.find('\0'))))
      continue;
    if (!seen.insert(std::string(copy.data(), length)).second) continue;
    const auto directory = path_of(mounts_, handle);
    if (!directory.empty() && is_mail_change(directory, "")) changed(directory);
  }
  return {};
}

}  // namespace midstream::mail
