#include "movers/files/apply.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>

#include "base/text.h"
#include "movers/files/path.h"
#include "movers/files/quiet.h"

namespace midstream::files {

namespace {

constexpr int kAttempts = 8;
constexpr std::size_t kMaxHeld = 200;  // directories

timespec omit() { return {0, UTIME_OMIT}; }
timespec at_ns(std::int64_t ns) {
  auto seconds = ns / 1'000'000'000;
  auto rest = ns % 1'000'000'000;
  if (rest < 0) --seconds, rest += 1'000'000'000;
  return {static_cast<time_t>(seconds), static_cast<long>(rest)};
}

Result<> write_at(int fd, std::string_view bytes, std::uint64_t offset) {
  while (!bytes.empty()) {
    const ssize_t n = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_failure("cannot write a file", errno);
    bytes.remove_prefix(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
  return {};
}

// A new file's content. Within a batch it travels with the zeros of its holes: as many as this are a hole again.
Result<> write_content(int fd, std::string_view bytes) {
  constexpr std::size_t kHole = 32u << 10;
  static const std::string zeros(kHole, '\0');
  if (bytes.size() <= kHole) return write_at(fd, bytes, 0);
  std::size_t begin = 0;
  for (std::size_t at = 0; at < bytes.size(); at += kHole) {
    const auto piece = bytes.substr(at, kHole);
    if (piece.back() != '\0' || piece != std::string_view(zeros).substr(0, piece.size())) continue;
    CHECK_OK(write_at(fd, bytes.substr(begin, at - begin), begin));
    begin = at + piece.size();
  }
  if (begin < bytes.size()) return write_at(fd, bytes.substr(begin), begin);
  return ::ftruncate(fd, static_cast<off_t>(bytes.size())) == 0 ? Result<>() : Result<>(io_failure("cannot size a file", errno));
}

Result<> set_name_metadata(int directory, const char* name, const Version& version) {
  if (::fchownat(directory, name, version.uid, version.gid, AT_SYMLINK_NOFOLLOW) != 0)
    return io_failure("cannot set the owner", errno);
  if (version.type != EntryType::symlink && ::fchmodat(directory, name, version.mode, 0) != 0) {
    return io_failure("cannot set the mode", errno);
  }
  const timespec times[2] = {omit(), at_ns(version.mtime_ns)};
  if (::utimensat(directory, name, times, AT_SYMLINK_NOFOLLOW) != 0)
    return io_failure("cannot set the modification time", errno);
  return {};
}

mode_t special_bits(EntryType type) {
  if (type == EntryType::fifo) return S_IFIFO;
  return type == EntryType::character ? S_IFCHR : S_IFBLK;
}

}  // namespace

Result<> stage_part(Tree& tree, Staged& staged, const Part& part) {
  if (!staged.fd) {
    const int hidden = TRY(tree.root->hidden());
    staged.name = tree.root->temporary_name();
    staged.fd = Fd(::openat(hidden, staged.name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (!staged.fd) return io_failure("cannot make a temporary file", errno);
  }
  return write_at(staged.fd.get(), part.bytes, part.offset);
}

// Not in the place's directory: its defaults would be taken over, and a watcher told of it before it has its name.
Result<Fd> make_nameless(int hidden, const Change& change, bool bare) {
  const auto& v = change.version;
  // But for its time it is right as it is made. (Who writes may lose setuid and setgid by it: they come afterwards.)
  const bool done = bare && v.uid == 0 && v.gid == 0 && (v.mode & 07000) == 0 && change.xattrs.empty();
  Fd fd(::openat(hidden, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, done ? v.mode : 0600));
  if (!fd) return io_failure("cannot make a temporary file", errno);
  CHECK_OK(write_content(fd.get(), change.content));
  if (!done) {
    CHECK_OK(set_metadata(fd.get(), v, change.xattrs, true));
    return fd;
  }
  const timespec times[2] = {omit(), at_ns(v.mtime_ns)};
  if (::futimens(fd.get(), times) != 0) return io_failure("cannot set the modification time", errno);
  return fd;
}

bool gives_nothing(int directory) {
  struct ::stat raw;
  if (::fstat(directory, &raw) != 0 || (raw.st_mode & S_ISGID) || ::getegid() != 0 || ::geteuid() != 0) return false;
  return ::fgetxattr(directory, "system.posix_acl_default", nullptr, 0) < 0 && (errno == ENODATA || errno == ENOTSUP);
}

Result<> Applier::apply(const Change& change, Staged* staged, bool& need_content, Fd nameless) {
  need_content = false;
  ++tree_.received;
  tree_.received_unsynced = true;
  if (touched_.size() >= kMaxHeld) restore_times();
  if (change.op == Op::gone) return remove(change);
  if (change.op == Op::rename) return rename(change);
  if (change.path == ".") return put_root(change);
  return put(change, staged, need_content, std::move(nameless));
}

// Remembers a directory's time before anything in it is changed by us, to give it back afterwards.
Result<> Applier::touch(const std::string& directory, const Place& place) {
  if (touched_.contains(directory)) return {};
  const auto stat = TRY(look_at(place.fd(), "."));
  if (!stat) return refused(fmt::format("{} went away", printable(directory)));
  const auto entry = tree_.index->find(directory);
  touched_[directory] = Touched{Place{place.directory, "."}, stat->mtime_ns, entry && entry->matches(*stat)};
  return {};
}

void Applier::restore_times() {
  for (const auto& [path, touched] : touched_) {
    const timespec times[2] = {omit(), at_ns(touched.mtime_ns)};
    if (::utimensat(touched.place.fd(), ".", times, 0) != 0 || !touched.known) continue;
    const auto stat = look_at(touched.place.fd(), ".");
    const auto entry = tree_.index->find(path);
    if (!stat || !*stat || !entry || entry->ino != (*stat)->ino) continue;
    auto fresh = *entry;
    fresh.ctime_ns = (*stat)->ctime_ns;
    if (fresh.ctime_ns != entry->ctime_ns && fresh.version.mtime_ns == (*stat)->mtime_ns) tree_.index->put(path, fresh);
  }
  touched_.clear();
}

// The held directory above `path`; parents that this host lacks are made, their own state will follow. One that was held
// for an earlier change still is: whoever moves it meanwhile might as well have done so after both.
Result<Place> Applier::make_place(const std::string& path) {
  if (const auto it = touched_.find(parent_of(path)); it != touched_.end())
    return Place{it->second.place.directory, std::string(leaf_of(path))};
  bool gone = false;
  auto place = tree_.root->place(path, &gone);
  if (!place && gone && parent_of(path) != ".") {
    const std::string parent(parent_of(path));
    const auto above = TRY(make_place(parent));
    if (::mkdirat(above.fd(), above.leaf.c_str(), 0755) != 0 && errno != EEXIST) {
      return io_failure(fmt::format("cannot make the directory {}", printable(parent)), errno);
    }
    place = tree_.root->place(path, &gone);
  }
  if (!place) return as_refusal(place.error());
  CHECK_OK(touch(std::string(parent_of(path)), *place));
  return place;
}

// The directory is not, or may not be, the one at its path any more.
void Applier::let_go(std::string_view directory) {
  if (const auto it = touched_.find(directory); it != touched_.end()) touched_.erase(it);
}

// A directory in which we have changed something since is as it was before: its time comes back with restore_times().
Result<Version> Applier::current_version(const std::string& path, const Place& place, const Stat& stat) {
  auto local = stat;
  if (const auto it = touched_.find(path); it != touched_.end()) {
    if (const auto entry = tree_.index->find(path); entry && it->second.known) return entry->version;
    local.mtime_ns = it->second.mtime_ns;
  }
  if (const auto it = tree_.sent.find(path); it != tree_.sent.end() && it->second.entry.matches(local))
    return it->second.entry.version;
  if (const auto entry = tree_.index->find(path); entry && entry->matches(local)) return entry->version;
  auto loaded = load(place, stat, 0, true);
  if (!loaded) return as_refusal(loaded.error());
  loaded->version.mtime_ns = local.mtime_ns;
  return loaded->version;
}

// Who wins between the change and what is here. Clean: the sender knew what is here, nobody changed it since.
Result<Applier::Verdict> Applier::judge(const Change& change, const Place& place, const std::optional<Stat>& local,
                                        Version& current) {
  const std::string path(change.path);
  const auto entry = tree_.index->find(path);
  current = Version{};
  if (!local) {
    const bool deleted_here = tree_.outgoing && entry && entry->version == change.version;
    return deleted_here ? Verdict::stale : Verdict::clean;
  }
  current = TRY(current_version(path, place, *local));
  if (current == change.version) return Verdict::same;
  const auto touched = touched_.find(path);
  const bool unchanged = entry && (entry->matches(*local) || (touched != touched_.end() && touched->second.known));
  if (unchanged && entry->from_peer) return Verdict::clean;
  if (digest(current) == change.base) return Verdict::clean;
  if (current.type == EntryType::directory && change.version.type == EntryType::directory && !tree_.outgoing)
    return Verdict::clean;
  if (maybe_torn(*local) && current.mtime_ns <= change.version.mtime_ns) return Verdict::wins;
  return wins_over(change.version, current) ? Verdict::wins : Verdict::loses;
}

// A file from before this run of the host, on a disk that may have lost content in a power cut: the times and the size of
// what arrived here came back, and zeros in it. It is not a user's version that a tie could decide for. A host that only
// receives trusts its index, which speaks of nothing that was not on disk; of what the index does not know, nothing is said.
bool Applier::maybe_torn(const Stat& local) const {
  const bool doubted = tree_.distrusted || !tree_.outgoing;
  return doubted && local.type == EntryType::file && local.ctime_ns < tree_.run.since_ns;
}

void Applier::record(const Change& change, const Stat& stat) {
  const std::string path(change.path);
  tree_.index->put(path, make_entry(change.version, stat, true));
  tree_.sent.erase(path);
}

Result<> Applier::put_root(const Change& change) {
  const auto local = TRY(look_at(tree_.root->fd(), "."));
  if (!local) return refused("the root of the tree went away");
  const Place place{std::make_shared<Fd>(::fcntl(tree_.root->fd(), F_DUPFD_CLOEXEC, 0)), "."};
  CHECK_OK(touch(".", place));
  Version current;
  const auto verdict = TRY(judge(change, place, local, current));
  if (verdict == Verdict::loses) return lose(change, nullptr);
  bool again = false;
  return change_metadata(change, place, *local, again);
}

// A file where nobody knows of anything: it gets its name if the place is free. False: it is not, or cannot be done so
// here, and nothing has happened.
Result<bool> Applier::put_fresh(const Change& change, const Place& place, Fd nameless) {
  if (change.op != Op::put || change.version.type != EntryType::file) return false;
  if (tree_.index->find(change.path) || tree_.sent.contains(change.path)) return false;
  auto fd = std::move(nameless);
  if (!fd) {
    auto made = make_nameless(TRY(tree_.root->hidden()), change, false);
    if (!made && made.error().kind == ErrorKind::retry) return std::unexpected(made.error());
    if (!made) return false;
    fd = std::move(*made);
  }
  tree_.passes("staged");
  if (::linkat(fd.get(), "", place.fd(), place.leaf.c_str(), AT_EMPTY_PATH) != 0) {
    if (means_stall(errno)) return io_failure(fmt::format("cannot put {} in its place", printable(change.path)), errno);
    return false;
  }
  struct ::stat raw;
  if (::fstat(fd.get(), &raw) != 0) return io_failure("cannot stat a new file", errno);
  record(change, to_stat(raw));
  return true;
}

// A directory that users brought here or took away by a rename, and nobody has looked yet: to know it by the change alone would
// leave what lies in it unsent, or what lay in it untold.
void Applier::note_unlooked(const Change& change, const std::optional<Stat>& local) {
  if (!tree_.outgoing || change.version.type != EntryType::directory) return;
  const std::string path(change.path);
  const auto known = tree_.known(path);
  const bool was_here = local && local->type == EntryType::directory;
  if (was_here ? !known || known->ino != local->ino : known.has_value()) tree_.dirty.mark(path, Millis(0), kTree);
}

Result<> Applier::put(const Change& change, Staged* staged, bool& need_content, Fd nameless) {
  if (TRY(put_fresh(change, TRY(make_place(std::string(change.path))), std::move(nameless)))) return {};
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const auto place = TRY(make_place(std::string(change.path)));
    auto seen = look_at(place.fd(), place.leaf.c_str());
    if (!seen) return as_refusal(seen.error());
    const auto local = *seen;
    if (local && local->type == EntryType::none)
      return refused(fmt::format("{} is a socket there", printable(change.path)), "remove it");
    note_unlooked(change, local);
    Version current;
    const auto verdict = TRY(judge(change, place, local, current));
    if (verdict == Verdict::stale) return {};
    if (verdict == Verdict::same) {
      record(change, *local);
      return {};
    }
    if (verdict == Verdict::loses) return lose(change, staged);
    const bool both_directories =
        local && change.version.type == EntryType::directory && local->type == EntryType::directory;
    const bool same_content = local && change.version.type == EntryType::file && local->type == EntryType::file &&
                              current.hash == change.version.hash && current.size == change.version.size;
    bool again = false;
    if (both_directories || (same_content && local->nlink == 1)) {
      CHECK_OK(change_metadata(change, place, *local, again));
      if (!again) return {};
      continue;
    }
    if (change.op == Op::meta && change.version.type == EntryType::file) {
      need_content = true;
      return refused("the content is not there");
    }
    CHECK_OK(replace(change, place, local, verdict, staged, again));
    if (!again) return {};
    restore_times();  // and hold no directory that may have gone
  }
  return refused(fmt::format("{} keeps changing there", printable(change.path)));
}

// With a writer kept out meanwhile, or, where there is one already, so that what it writes is seen as a change.
Result<> Applier::change_metadata(const Change& change, const Place& place, const Stat& local, bool& again) {
  auto fd = open_entry(place.fd(), place.leaf.c_str(), local);
  if (!fd) return as_refusal(fd.error());
  std::optional<Quiet> quiet;
  struct ::stat raw;
  if (local.type == EntryType::file) {
    quiet.emplace(fd->get());
    if (::fstat(fd->get(), &raw) != 0) return io_failure("cannot stat what is to be changed", errno);
    again = !same_state(to_stat(raw), local);
    if (again) return {};
  }
  CHECK_OK(set_metadata(fd->get(), change.version, change.xattrs));
  if (::fstat(fd->get(), &raw) != 0) return io_failure("cannot stat what was changed", errno);
  const std::string path(change.path);
  auto now = to_stat(raw);
  if (quiet && quiet->written()) {
    now.ino = 0;
    if (tree_.outgoing) tree_.dirty.mark(path, Millis(50));
  }
  record(change, now);
  if (const auto it = touched_.find(path); it != touched_.end()) {
    it->second.mtime_ns = change.version.mtime_ns;
    it->second.known = true;
  }
  return {};
}

// Writes a new entry into the hidden directory, complete with its metadata.
Result<> Applier::stage(const Change& change, Staged& staged) {
  const int hidden = TRY(tree_.root->hidden());
  const auto& v = change.version;
  if (staged.name.empty()) staged.name = tree_.root->temporary_name();
  const char* name = staged.name.c_str();
  if (v.type == EntryType::file) {
    if (!staged.fd) {
      staged.fd = Fd(::openat(hidden, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
      if (!staged.fd) return io_failure("cannot make a temporary file", errno);
      CHECK_OK(write_content(staged.fd.get(), change.content));
    } else if (::ftruncate(staged.fd.get(), static_cast<off_t>(v.size)) != 0) {
      return io_failure("cannot size a file", errno);
    }
    return set_metadata(staged.fd.get(), v, change.xattrs);
  }
  if (v.type == EntryType::directory) {
    if (::mkdirat(hidden, name, 0700) != 0) return io_failure("cannot make a directory", errno);
    staged.fd = Fd(::openat(hidden, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!staged.fd) return io_failure("cannot open a new directory", errno);
    return set_metadata(staged.fd.get(), v, change.xattrs);
  }
  if (v.type == EntryType::symlink) {
    if (::symlinkat(std::string(change.content).c_str(), hidden, name) != 0)
      return io_failure("cannot make a link", errno);
  } else if (::mknodat(hidden, name, special_bits(v.type) | 0600, v.rdev) != 0) {
    return io_failure("cannot make a special file", errno);
  }
  return set_name_metadata(hidden, name, v);
}

Result<> Applier::replace(const Change& change, const Place& place, const std::optional<Stat>& local, Verdict verdict,
                          Staged* staged, bool& again) {
  Staged own;
  Staged& use = staged ? *staged : own;
  if (verdict == Verdict::wins) {
    CHECK_OK(keep_local(change, place, *local, again));
    if (again) return {};
  }
  const int hidden = TRY(tree_.root->hidden());
  auto done = stage(change, use);
  if (done) done = install(change, place, local, use, again);
  const bool keep_for_retry = staged && (again || (!done && done.error().kind == ErrorKind::retry));
  if ((!done || again) && !keep_for_retry && !use.name.empty()) {
    ::unlinkat(hidden, use.name.c_str(), change.version.type == EntryType::directory ? AT_REMOVEDIR : 0);
  }
  return done;
}

// What arrived is the older of two that did not know each other: what is here stays, the other is kept aside.
Result<> Applier::lose(const Change& change, Staged* staged) {
  if (change.version.type == EntryType::file && change.op != Op::meta) {
    CHECK_OK(keep_loser(tree_, change.path, staged ? staged->fd.get() : -1, change.content));
  } else if (change.version.type == EntryType::symlink) {
    CHECK_OK(keep_loser(tree_, change.path, -1, change.content));
  }
  if (tree_.outgoing) tree_.dirty.mark(std::string(change.path), Millis(0), kForce);
  return {};
}

Result<> Applier::remove_directory(const Change& change, const Place& place) {
  const std::string path(change.path);
  const auto known = tree_.known(path);
  if (tree_.outgoing && known && !known->from_peer && digest(known->version) != change.base) {
    tree_.dirty.mark(path, Millis(0), kForce);  // made or changed here, and the other host did not know: that wins
    return {};
  }
  if (::unlinkat(place.fd(), place.leaf.c_str(), AT_REMOVEDIR) != 0 && errno != ENOENT) {
    if (errno != ENOTEMPTY && errno != EEXIST)
      return io_failure(fmt::format("cannot remove {}", printable(path)), errno);
    const auto& nodes = tree_.index->nodes();
    const bool theirs = std::ranges::any_of(nodes.below(path), [&](auto id) { return nodes.entry(id).from_peer; });
    if (theirs && !tree_.outgoing) return refused(fmt::format("{} is not empty there yet", printable(path)));
    if (tree_.outgoing) tree_.dirty.mark(path, Millis(0));  // something new is in it: it goes back
  }
  touched_.erase(path);
  tree_.index->erase(path);
  tree_.sent.erase(path);
  return {};
}

}  // namespace midstream::files
