// Files too large for a batch: read and sent piece by piece, holes left out, so that small changes slip between.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>

#include "movers/files/scout.h"

namespace midstream::files {

namespace {
constexpr std::size_t kFarthest = std::size_t{1} << 60;
constexpr int kLargePatience = 3;  // readings of a large file that keeps changing, before what was read is sent

void hash_zeros(XXH3_state_t* state, std::uint64_t count) {
  static const std::string zeros(256u << 10, '\0');
  while (count > 0) {
    const auto step = std::min<std::uint64_t>(count, zeros.size());
    XXH3_64bits_update(state, zeros.data(), step);
    count -= step;
  }
}
}  // namespace

void Scout::put_large_back(Millis settle) {
  tree_.dirty.put_back(large_->path, large_->mark, settle);
  queued_.erase(large_->path);
  large_.reset();
}

void Scout::abandon_large() {
  if (large_) put_large_back(Millis(0));
  for (const auto& [path, mark] : queue_) tree_.dirty.put_back(path, mark, Millis(0));
  queue_.clear();
  queued_.clear();
}

Result<> Scout::begin_large(const std::string& path, Mark mark) {
  large_ = Large{};
  large_->path = path;
  large_->mark = mark;
  large_->file = ++large_number_;
  bool gone = false;
  auto place = tree_.root->place(path, &gone);
  auto stat = place ? look_at(place->fd(), place->leaf.c_str()) : Result<std::optional<Stat>>(std::nullopt);
  if (!place || !stat || !*stat || (*stat)->type != EntryType::file || (*stat)->size <= kMaxInline) {
    put_large_back(Millis(0));
    return {};
  }
  auto fd = open_entry(place->fd(), place->leaf.c_str(), **stat);
  auto xattrs = fd ? read_xattrs(fd->get()) : Result<Xattrs>(std::unexpected(fd.error()));
  if (!xattrs) {
    const std::lock_guard lock(trouble_mutex_);
    if (xattrs.error().kind != ErrorKind::retry) troubles_[path] = xattrs.error().what;
    put_large_back(Millis(2000));
    return {};
  }
  large_->fd = std::move(*fd);
  large_->before = **stat;
  large_->xattrs = std::move(*xattrs);
  large_->hash = std::shared_ptr<XXH3_state_t>(XXH3_createState(), [](XXH3_state_t* state) { XXH3_freeState(state); });
  XXH3_64bits_reset(large_->hash.get());
  // Only its metadata may have changed: reading it is cheaper than sending it.
  bool maybe_same = false;
  {
    const std::lock_guard lock(tree_.mutex);
    const auto known = tree_.known(path);
    maybe_same = known && !mark.force && !known->unsure && known->ino == large_->before.ino && known->version.size == large_->before.size &&
                 known->version.mtime_ns == large_->before.mtime_ns;
  }
  if (!maybe_same) return {};
  auto loaded = load(*place, **stat, 0, true, stop_);
  if (!loaded || !loaded->steady) {
    put_large_back(Millis(50));
    return {};
  }
  const std::lock_guard lock(tree_.mutex);
  const auto known = tree_.known(path);
  if (!known || known->unsure || known->version.hash != loaded->version.hash) return {};
  emit(path, *loaded, false, false);
  queued_.erase(path);
  large_.reset();
  return {};
}

Result<> Scout::large_step() {
  if (!large_) {
    if (queue_.empty()) return {};
    const auto [path, mark] = queue_.front();
    queue_.pop_front();
    CHECK_OK(begin_large(path, mark));
    if (!large_) return {};
  }
  auto& large = *large_;
  auto from = large.offset;
  if (from >= large.data_end) {
    const off_t data = ::lseek(large.fd.get(), static_cast<off_t>(from), SEEK_DATA);
    if (data < 0 && errno == ENXIO) return end_large();  // nothing but a hole until the end
    if (data >= 0) from = static_cast<std::uint64_t>(data);
    // Asked for once: to find it, memory's file system looks at every page before it.
    large.data_end = from + until_hole(large.fd.get(), from, kFarthest);
  }
  const auto most = std::min<std::uint64_t>(kMaxPart, large.data_end - from);
  auto part = begin_part(large.file, from, most);
  char* const bytes = part.data() + kPartHead;
  const ssize_t n = ::pread(large.fd.get(), bytes, most, static_cast<off_t>(from));
  if (n < 0 && errno == EINTR) return {};
  if (n < 0) {
    const int code = errno;
    const std::lock_guard lock(trouble_mutex_);
    troubles_[large.path] = errno_failure("reading failed", code).error().what;
    CHECK_OK(outbox_.send(encode(Cancel{large.file})));
    put_large_back(Millis(5000));
    return {};
  }
  if (n == 0) return end_large();
  hash_zeros(large.hash.get(), from - large.offset);
  XXH3_64bits_update(large.hash.get(), bytes, static_cast<std::size_t>(n));
  large.offset = from + static_cast<std::uint64_t>(n);
  outbox_.count_bytes(static_cast<std::uint64_t>(n));
  ::posix_fadvise(large.fd.get(), static_cast<off_t>(from), n, POSIX_FADV_NOREUSE);
  end_part(part, static_cast<std::size_t>(n));
  return outbox_.send(std::move(part));
}

Result<> Scout::end_large() {
  auto& large = *large_;
  CHECK_OK(send_parents(large.path));
  struct ::stat raw;
  if (::fstat(large.fd.get(), &raw) != 0) return errno_failure("cannot stat an open file", errno);
  const auto after = to_stat(raw);
  Loaded loaded;
  loaded.version = version_of(large.before);
  loaded.version.size = std::max(large.offset, after.size);
  hash_zeros(large.hash.get(), loaded.version.size - large.offset);
  loaded.version.hash = XXH3_64bits_digest(large.hash.get());
  loaded.version.xattrs = hash_xattrs(large.xattrs);
  loaded.stat = after;
  const bool steady = after == large.before && loaded.version.size == after.size;
  std::unique_lock lock(tree_.mutex);
  const auto now = tree_.root->look(large.path);
  const bool in_place = now && *now && **now == after;
  if (!in_place || (!steady && ++large.mark.tries < kLargePatience)) {
    lock.unlock();  // nothing is sent with the mutex held: acknowledgements need it
    const auto cancelled = outbox_.send(encode(Cancel{large.file}));
    put_large_back(Millis(20) * (1 << std::min(large.mark.tries, 8)));
    return cancelled;
  }
  auto entry = make_entry(loaded.version, after, false);
  if (!steady) entry.ino = 0;  // looked at again
  const auto known = tree_.known(large.path);
  Change change;
  change.op = Op::parts;
  change.path = large.path;
  change.version = loaded.version;
  change.base = known ? digest(known->version) : 0;
  change.xattrs = large.xattrs;
  change.file = large.file;
  outbox_.add(change, entry);
  if (!steady) {
    put_large_back(Millis(1000));
  } else {
    queued_.erase(large.path);
    large_.reset();
  }
  return {};
}

}  // namespace midstream::files
