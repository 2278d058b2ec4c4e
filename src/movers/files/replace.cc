// Taking something out of its place in the tree, for what comes instead of it or for good. Whoever writes at that very
// moment, and whenever we are killed: what was not both hosts' is in its place, in conflicts/, or in the hidden
// directory under a name that rescue() knows.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "base/text.h"
#include "movers/files/apply.h"
#include "movers/files/path.h"
#include "movers/files/quiet.h"

namespace midstream::files {

// Whether two stats are of the same state of one inode, moved or not (moving changes the ctime).
bool same_state(const Stat& a, const Stat& b) {
  return a.ino == b.ino && a.type == b.type && a.mtime_ns == b.mtime_ns && a.size == b.size;
}

std::unexpected<Error> as_refusal(Error error) {
  error.kind = ErrorKind::refused;
  return std::unexpected(std::move(error));
}

namespace {

constexpr std::string_view kWritten = "is open for writing";
constexpr char kTaken = 'x';  // first letter of the names of what was, or is about to be, taken out

std::string taken_name(Tree& tree, std::string_view path) {
  auto name = fmt::format("{}{}-{}", kTaken, tree.root->temporary_name(), leaf_of(path));
  if (name.size() > 255) name.resize(255);
  return name;
}

// Whether what was taken out is still as it was judged, and nobody holds it open to write on. `why` where not.
bool is_as_judged(int hidden, const std::string& name, const Stat& judged, std::string& why) {
  const auto taken = look_at(hidden, name.c_str());
  if (!taken || !*taken || !same_state(**taken, judged)) {
    why = "changed at that moment";
    return false;
  }
  if (judged.type != EntryType::file) return true;
  const Fd fd(::openat(hidden, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd || Quiet(fd.get()).written()) {  // once: it is out of its place meanwhile
    why = kWritten;
    return false;
  }
  return true;
}

}  // namespace

// Before what wins takes the place of what is here.
Result<> Applier::keep_local(const Change& change, const Place& place, const Stat& local, bool& again) {
  again = false;
  if (local.type == EntryType::symlink) {
    const auto loaded = TRY(load(place, local, 0, true));
    again = !loaded.steady;
    return again ? Result<>() : keep_loser(tree_, change.path, -1, loaded.content);
  }
  if (local.type != EntryType::file) return {};
  const auto fd = open_entry(place.fd(), place.leaf.c_str(), local);
  if (!fd && fd.error().kind == ErrorKind::retry) {
    again = true;
    return {};
  }
  if (!fd) return as_refusal(fd.error());
  if (Quiet::written_for_long(fd->get())) return refused(fmt::format("{} {} there", printable(change.path), kWritten));
  return keep_loser(tree_, change.path, fd->get(), {});
}

// Moves the place's content to `name` in the hidden directory (with RENAME_EXCHANGE: for what is there), or leaves all as
// it was. refused where it is not as it was judged; `again` where it may be judged anew.
Result<> Applier::take_out(const Change& change, const Place& place, const Stat& local, const std::string& name,
                           int flags, bool& again) {
  again = false;
  const int hidden = TRY(tree_.root->hidden());
  const char* leaf = place.leaf.c_str();
  const bool exchange = flags & RENAME_EXCHANGE;
  // Looked at in its place first: to move it out and back would look like a change to whoever follows this side.
  if (local.type == EntryType::file) {
    const Fd fd(::openat(place.fd(), leaf, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (fd && Quiet::written_for_long(fd.get()))
      return refused(fmt::format("{} {} there", printable(change.path), kWritten));
  }
  const int done = exchange ? ::renameat2(hidden, name.c_str(), place.fd(), leaf, RENAME_EXCHANGE)
                            : ::renameat2(place.fd(), leaf, hidden, name.c_str(), RENAME_NOREPLACE);
  if (done != 0) return io_failure(fmt::format("cannot take {} out of its place", printable(change.path)), errno);
  tree_.passes("taken out");
  std::string why;
  if (is_as_judged(hidden, name, local, why)) return {};
  const int back = ::renameat2(hidden, name.c_str(), place.fd(), leaf, exchange ? RENAME_EXCHANGE : RENAME_NOREPLACE);
  if (back != 0) {  // somebody has put something new there: both stay
    const Fd fd(::openat(hidden, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (fd) CHECK_OK(keep_loser(tree_, change.path, fd.get(), {}));
    ::unlinkat(hidden, name.c_str(), 0);
  }
  again = back == 0 && why != kWritten;
  return refused(fmt::format("{} {} there", printable(change.path), why));
}

// Moves the staged entry to its place if that still holds `local`; `again` if it does not.
Result<> Applier::install(const Change& change, const Place& place, const std::optional<Stat>& local, Staged& staged,
                          bool& again) {
  const int hidden = TRY(tree_.root->hidden());
  const char* leaf = place.leaf.c_str();
  again = false;
  tree_.passes("staged");
  bool occupied = local.has_value();
  if (local && local->type == EntryType::directory) {
    if (::unlinkat(place.fd(), leaf, AT_REMOVEDIR) != 0) {
      return io_failure(fmt::format("{} is a directory there", printable(change.path)), errno);
    }
    let_go(change.path);
    occupied = false;
  }
  if (!occupied) {
    if (::renameat2(hidden, staged.name.c_str(), place.fd(), leaf, RENAME_NOREPLACE) != 0) {
      again = errno == EEXIST || errno == ENOENT;
      return again ? Result<>()
                   : Result<>(io_failure(fmt::format("cannot put {} in its place", printable(change.path)), errno));
    }
  } else {
    const auto name = taken_name(tree_, change.path);
    if (::renameat2(hidden, staged.name.c_str(), hidden, name.c_str(), RENAME_NOREPLACE) != 0) {
      return io_failure("cannot rename a temporary file", errno);
    }
    staged.name = name;
    tree_.passes("named");
    if (auto taken = take_out(change, place, *local, name, RENAME_EXCHANGE, again); !taken)
      return again ? Result<>() : taken;
    ::unlinkat(hidden, name.c_str(), 0);
    tree_.passes("unlinked");
    if (change.version.type == EntryType::directory) CHECK_OK(set_time(staged.fd.get(), change.version.mtime_ns));  // XFS
  }
  const auto now = TRY(look_at(place.fd(), leaf));
  if (now) record(change, *now);
  return {};
}

Result<> Applier::remove(const Change& change) {
  const std::string path(change.path);
  bool gone = false;
  auto place = tree_.root->place(path, &gone);
  if (!place && !gone) return as_refusal(place.error());
  auto local = gone ? Result<std::optional<Stat>>(std::nullopt) : look_at(place->fd(), place->leaf.c_str());
  if (!local) return as_refusal(local.error());
  if (!*local) {
    tree_.index->erase(path);
    tree_.sent.erase(path);
    return {};
  }
  if ((*local)->type == EntryType::none) return {};  // a socket: not ours
  CHECK_OK(touch(std::string(parent_of(path)), *place));
  if ((*local)->type == EntryType::directory) return remove_directory(change, *place);
  Version current;
  if (TRY(judge(change, *place, *local, current)) != Verdict::clean) {  // changed here since: that wins
    if (tree_.outgoing) tree_.dirty.mark(path, Millis(0), kForce);
    return {};
  }
  const auto name = taken_name(tree_, path);
  bool again = false;
  CHECK_OK(take_out(change, *place, **local, name, 0, again));
  ::unlinkat(TRY(tree_.root->hidden()), name.c_str(), 0);
  tree_.index->erase(path);
  tree_.sent.erase(path);
  return {};
}

// What an earlier run was killed with in its hands. What the index knows both hosts had is nobody's loss; anything else
// may be a user's.
Result<> rescue(Tree& tree) {
  const int hidden = TRY(tree.root->hidden());
  for (const auto& name : TRY(list_names(hidden))) {
    if (name.front() != kTaken) continue;
    const auto stat = TRY(look_at(hidden, name.c_str()));
    if (!stat) continue;
    std::string path = name.substr(std::min(name.size(), name.find('-') + 1));
    bool agreed = stat->type != EntryType::file && stat->type != EntryType::symlink;
    const auto& nodes = tree.index->nodes();
    for (const auto id : nodes.below(".")) {
      const auto entry = nodes.entry(id);
      if (entry.ino != stat->ino) continue;
      path = nodes.path(id);
      agreed |= !entry.racy && entry.version.type == stat->type && entry.version.mtime_ns == stat->mtime_ns &&
                entry.version.size == stat->size;
    }
    if (!agreed && stat->type == EntryType::file) {
      const Fd fd(::openat(hidden, name.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
      if (!fd) return errno_failure(fmt::format("cannot open {} in the hidden directory", printable(name)), errno);
      CHECK_OK(keep_loser(tree, path, fd.get(), {}));
    } else if (!agreed) {
      auto loaded = TRY(load(Place{std::make_shared<Fd>(::fcntl(hidden, F_DUPFD_CLOEXEC, 0)), name}, *stat, 0, true));
      CHECK_OK(keep_loser(tree, path, -1, loaded.content));
    }
    if (::unlinkat(hidden, name.c_str(), 0) != 0) return errno_failure("cannot remove a temporary file", errno);
  }
  return {};
}

}  // namespace midstream::files
