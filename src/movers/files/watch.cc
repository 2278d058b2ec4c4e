#include "movers/files/watch.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/fanotify.h>

#include <cerrno>
#include <climits>
#include <cstring>

#include "movers/files/path.h"
#include "sys/stream.h"

namespace midstream::files {

namespace {

constexpr std::uint64_t kMask =
    FAN_CREATE | FAN_DELETE | FAN_RENAME | FAN_MODIFY | FAN_CLOSE_WRITE | FAN_ATTRIB | FAN_ONDIR;
constexpr std::size_t kMaxDirectories = 200'000;  // remembered handles, before all are forgotten

std::optional<std::string> path_of(int fd) {
  char link[64];
  fmt::format_to_n(link, sizeof link - 1, "/proc/self/fd/{}", fd).out[0] = '\0';
  char target[PATH_MAX];
  const ssize_t n = ::readlink(link, target, sizeof target);
  if (n <= 0 || n >= PATH_MAX) return std::nullopt;
  return std::string(target, static_cast<std::size_t>(n));
}

// The (handle, name) that an information record of a directory and a name holds.
bool split_record(std::string_view record, std::string_view& handle, std::string_view& name) {
  const auto offset = sizeof(fanotify_event_info_fid);
  if (record.size() < offset + sizeof(file_handle)) return false;
  file_handle head;
  std::memcpy(&head, record.data() + offset, sizeof head);
  const auto length = sizeof head + head.handle_bytes;
  if (record.size() < offset + length + 1) return false;
  handle = record.substr(offset, length);
  name = record.substr(offset + length);
  name = name.substr(0, name.find('\0'));
  return true;
}

}  // namespace

Result<std::unique_ptr<Watcher>> Watcher::start(const Root& root, WatchSink sink, bool unlimited_queue,
                                                const std::atomic<bool>* hold) {
  unsigned flags = FAN_CLASS_NOTIF | FAN_REPORT_DFID_NAME_TARGET | FAN_NONBLOCK | FAN_CLOEXEC;
  if (unlimited_queue) flags |= FAN_UNLIMITED_QUEUE;
  Fd fan(::fanotify_init(flags, O_RDONLY | O_CLOEXEC));
  if (!fan) return errno_failure("fanotify is not to be had", errno);
  if (::fanotify_mark(fan.get(), FAN_MARK_ADD | FAN_MARK_FILESYSTEM, kMask, root.fd(), nullptr) != 0) {
    return errno_failure("this file system takes no fanotify mark", errno);
  }
  return std::unique_ptr<Watcher>(new Watcher(root, std::move(fan), std::move(sink), hold));
}

Watcher::Watcher(const Root& root, Fd fan, WatchSink sink, const std::atomic<bool>* hold)
    : root_(root), fan_(std::move(fan)), sink_(std::move(sink)), hold_(hold),
      thread_([this](const std::stop_token& stop) { run(stop); }) {}

Watcher::~Watcher() = default;

void Watcher::run(const std::stop_token& stop) {
  alignas(fanotify_event_metadata) static thread_local char buffer[256 << 10];
  while (!stop.stop_requested()) {
    if (hold_ && hold_->load()) {
      pause_for(Millis(1), stop);
      continue;
    }
    if (!wait_fd(fan_.get(), POLLIN, Deadline::in(std::chrono::hours(1)), stop)) continue;
    const ssize_t n = ::read(fan_.get(), buffer, sizeof buffer);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n <= 0) return sink_.lost(fmt::format("reading events failed: {}", std::strerror(errno)));
    std::string_view left(buffer, static_cast<std::size_t>(n));
    while (left.size() >= sizeof(fanotify_event_metadata)) {
      fanotify_event_metadata meta;
      std::memcpy(&meta, left.data(), sizeof meta);
      if (meta.event_len < sizeof meta || meta.event_len > left.size()) break;
      if (meta.fd >= 0) ::close(meta.fd);
      event(&meta, left.substr(meta.metadata_len, meta.event_len - meta.metadata_len));
      left.remove_prefix(meta.event_len);
    }
  }
}

void Watcher::event(const void* metadata, std::string_view infos) {
  const auto mask = static_cast<const fanotify_event_metadata*>(metadata)->mask;
  if (mask & FAN_Q_OVERFLOW) return sink_.lost("the kernel's queue of events overflowed");
  if (mask & FAN_RENAME) renamed(infos);
  while (infos.size() >= sizeof(fanotify_event_info_header)) {
    fanotify_event_info_header head;
    std::memcpy(&head, infos.data(), sizeof head);
    if (head.len < sizeof head || head.len > infos.size()) return;
    const bool named = head.info_type == FAN_EVENT_INFO_TYPE_DFID_NAME ||
                       head.info_type == FAN_EVENT_INFO_TYPE_OLD_DFID_NAME ||
                       head.info_type == FAN_EVENT_INFO_TYPE_NEW_DFID_NAME;
    std::string_view handle, name;
    if (named && split_record(infos.substr(0, head.len), handle, name)) name_changed(handle, name, mask);
    infos.remove_prefix(head.len);
  }
  // What was below a renamed directory has other paths now.
  if ((mask & FAN_RENAME) && (mask & FAN_ONDIR)) directories_.clear();
}

std::optional<std::string> Watcher::path_of_record(std::string_view handle, std::string_view name) {
  const auto directory = resolve(handle);
  if (!directory || *directory == kHidden) return std::nullopt;
  auto path = join_path(*directory, name);
  return is_safe_path(path) ? std::optional(std::move(path)) : std::nullopt;
}

// Both names of a rename within the tree.
void Watcher::renamed(std::string_view infos) {
  std::optional<std::string> from, to;
  while (infos.size() >= sizeof(fanotify_event_info_header)) {
    fanotify_event_info_header head;
    std::memcpy(&head, infos.data(), sizeof head);
    if (head.len < sizeof head || head.len > infos.size()) break;
    std::string_view handle, name;
    if (split_record(infos.substr(0, head.len), handle, name)) {
      if (head.info_type == FAN_EVENT_INFO_TYPE_OLD_DFID_NAME) from = path_of_record(handle, name);
      if (head.info_type == FAN_EVENT_INFO_TYPE_NEW_DFID_NAME) to = path_of_record(handle, name);
    }
    infos.remove_prefix(head.len);
  }
  if (from && to && sink_.renamed) sink_.renamed(std::move(*from), std::move(*to));
}

void Watcher::name_changed(std::string_view handle, std::string_view name, std::uint64_t mask) {
  const auto directory = resolve(handle);
  if (!directory) return;
  if (*directory == kHidden) {
    if (mask & FAN_CREATE) sink_.cookie(name);
    return;
  }
  const bool entry_itself = name == "." || name.empty();
  auto path = entry_itself ? *directory : join_path(*directory, name);
  if (path != "." && !is_safe_path(path)) return;
  const bool names = mask & (FAN_CREATE | FAN_DELETE | FAN_RENAME);
  const bool written_only = !(mask & ~std::uint64_t{FAN_MODIFY});
  const bool moved_directory = names && !entry_itself && (mask & FAN_ONDIR);
  sink_.changed(std::move(path), written_only ? Hint::written : moved_directory ? Hint::directory : Hint::changed);
  if (names && !entry_itself) sink_.changed(*directory, Hint::children);
}

std::optional<std::string> Watcher::resolve(std::string_view handle) {
  const std::string key(handle);
  if (const auto it = directories_.find(key); it != directories_.end()) return it->second;
  auto path = resolve_slowly(handle);
  if (directories_.size() >= kMaxDirectories) directories_.clear();
  directories_.emplace(key, path);
  return path;
}

std::optional<std::string> Watcher::resolve_slowly(std::string_view handle) const {
  alignas(file_handle) char copy[sizeof(file_handle) + MAX_HANDLE_SZ];
  if (handle.size() > sizeof copy) return std::nullopt;
  std::memcpy(copy, handle.data(), handle.size());
  const Fd fd(::open_by_handle_at(root_.fd(), reinterpret_cast<file_handle*>(copy), O_PATH | O_CLOEXEC));
  if (!fd) return std::nullopt;
  const auto root = path_of(root_.fd());
  auto path = path_of(fd.get());
  if (!root || !path) return std::nullopt;
  if (*path == *root) return ".";
  const std::string prefix = *root == "/" ? "/" : *root + "/";
  if (!path->starts_with(prefix)) return std::nullopt;
  struct ::stat raw;
  if (::fstat(fd.get(), &raw) != 0 || raw.st_nlink == 0) return std::nullopt;  // "... (deleted)"
  return path->substr(prefix.size());
}

}  // namespace midstream::files
