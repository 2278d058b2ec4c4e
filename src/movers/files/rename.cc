// A rename as a rename: the other host moves what it has. It is worth while for directories and large files; what cannot be
// had so is sent as what is gone and what is new, as if nobody knew of the rename.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "base/text.h"
#include "movers/files/apply.h"
#include "movers/files/path.h"
#include "movers/files/scout.h"

namespace midstream::files {

namespace {

constexpr std::int64_t kPatienceNs = 1'000'000'000;  // for what is in flight below a directory that was renamed
constexpr Millis kAgain{20};

// Whether something at `path` or below is sent and not durable yet. With the tree's mutex held.
bool in_flight(const Tree& tree, const std::string& path) {
  if (tree.sent.contains(path)) return true;
  const auto it = tree.sent.lower_bound(path + '/');
  return it != tree.sent.end() && is_below(it->first, path);
}

// The longest path that would come of it.
std::size_t longest(const Nodes& nodes, const std::string& from, const std::string& to) {
  if (to.size() <= from.size()) return to.size();
  std::size_t most = from.size();
  for (const auto id : nodes.below(from)) most = std::max(most, nodes.path(id).size());
  return most - from.size() + to.size();
}

}  // namespace

bool Tree::below_renaming(std::string_view path) const {
  for (const auto& [from, to] : renaming) {
    if (path == to || is_below(path, to)) return true;
  }
  return false;
}

// With the tree's mutex held: whether what was `from` is `to` now, on disk, and the other host could do the same.
Scout::Renamed Scout::may_rename(const std::string& from, const std::string& to, const Mark& mark) {
  const auto known = tree_.known(from);
  if (!known || !known->version.present() || known->ino == 0) return Renamed::no;
  const bool directory = known->version.type == EntryType::directory;
  const bool large = known->version.type == EntryType::file && known->version.size > kMaxInline;
  if (!directory && !large) return Renamed::no;
  if (except_.matches(to, directory) || except_.matches(from, directory) || (directory && except_.anchored())) return Renamed::no;
  const auto there = tree_.root->look(to), left = tree_.root->look(from);
  if (!there || !*there || !left || *left) return Renamed::no;
  if ((*there)->ino != known->ino || (*there)->type != known->version.type || (*there)->dev != tree_.root->stat().dev) return Renamed::no;
  const auto& nodes = tree_.index->nodes();
  if (is_below(to, from) || !nodes.below(to).empty() || tree_.known(to)) return Renamed::no;
  if (longest(nodes, from, to) > kMaxPath) return Renamed::no;
  const bool pending_below = std::ranges::any_of(tree_.renaming, [&](const auto& one) { return is_below(one.first, from) || is_below(one.second, from); });
  if (pending_below || in_flight(tree_, from) || in_flight(tree_, to) || tree_.below_renaming(from)) {
    return boot_now().count() - mark.first_ns < kPatienceNs ? Renamed::later : Renamed::no;
  }
  return Renamed::yes;
}

Result<Scout::Renamed> Scout::try_rename(const std::string& from, const std::string& to, const Mark& mark) {
  auto may = Renamed::no;
  bool directory = false;
  {
    const std::lock_guard lock(tree_.mutex);
    may = may_rename(from, to, mark);
    if (may == Renamed::yes) {
      auto entry = *tree_.known(from);
      if (!tree_.index->rename(from, to)) return Renamed::no;
      directory = entry.version.type == EntryType::directory;
      entry.racy = true;  // looked at again: it may have been changed as well
      Change change;
      change.op = Op::rename;
      change.path = to;
      change.from = from;
      change.version = entry.version;
      change.base = digest(entry.version);
      tree_.renaming.emplace_back(from, to);
      outbox_.add(change, entry);
    }
  }
  if (may == Renamed::later) {
    const auto now = boot_now().count();
    if (now - asked_durable_ns_ > 200'000'000) {
      asked_durable_ns_ = now;
      CHECK_OK(outbox_.flush());
      CHECK_OK(outbox_.send(encode(Ping{true})));
    }
    return may;
  }
  tree_.renames.forget(from);
  if (may == Renamed::yes) {
    // Walked over at once: a barrier waits for a walk, and the mark may be younger than it.
    if (directory) scans_.push_back(Scan{to, ++stamp_, {to}, {}, {}, {}, 0, false, {}});
    tree_.dirty.mark(to, Millis(0), kTree);
    CHECK_OK(outbox_.flush());
  }
  return may;
}

Result<bool> Scout::renamed_instead(const std::string& from, const std::string& to, const std::string& path, const Mark& mark) {
  const auto renamed = TRY(try_rename(from, to, mark));
  if (renamed == Renamed::later) tree_.dirty.put_back(path, mark, kAgain);
  return renamed != Renamed::no;
}

// What the other host renamed, or could not: see Applier::rename. With the tree's mutex held.
void Outbox::settle_renames(const Flight& flight) {
  for (const auto& [from, to] : flight.renames) {
    if (std::erase(tree_.renaming, std::pair(from, to)) > 0) tree_.index->note_rename(from, to);
  }
}

void Outbox::doubt_rename(const std::string& from, const std::string& to) {
  if (std::erase(tree_.renaming, std::pair(from, to)) == 0) return;
  // What was sent below `to` meanwhile has made it a directory there all the same, and may have come from there.
  tree_.index->split_rename(from, to);
  tree_.sent.erase(to);
  tree_.dirty.mark(from, Millis(0));
  tree_.dirty.mark(to, Millis(0), kTree);
}

// Moves what the sender has renamed, if it is here as the sender knew it and nothing is where it shall go. Anything else
// is refused: the sender then sends what is gone and what is new.
Result<> Applier::rename(const Change& change) {
  const std::string from(change.from), to(change.path);
  restore_times();  // what is moved is known by another path afterwards
  bool gone = false;
  auto source = tree_.root->place(from, &gone);
  if (!source) return as_refusal(source.error());
  const auto seen = look_at(source->fd(), source->leaf.c_str());
  if (!seen) return as_refusal(seen.error());
  const auto entry = tree_.index->find(from);
  if (!*seen || !entry || entry->ino != (*seen)->ino || entry->version.type != change.version.type || (*seen)->type != change.version.type)
    return refused(fmt::format("{} is not there as it was", printable(from)));
  if ((*seen)->type != EntryType::directory && digest(TRY(current_version(from, *source, **seen))) != change.base)
    return refused(fmt::format("{} was changed there", printable(from)));
  if (in_flight(tree_, from) || in_flight(tree_, to) || tree_.below_renaming(from) || tree_.below_renaming(to))
    return refused(fmt::format("{} is on its way the other way", printable(from)));
  if (!tree_.index->nodes().below(to).empty() || tree_.index->find(to)) return refused(fmt::format("{} is known there", printable(to)));
  const auto target = TRY(make_place(to));
  CHECK_OK(touch(std::string(parent_of(from)), *source));
  if (::renameat2(source->fd(), source->leaf.c_str(), target.fd(), target.leaf.c_str(), RENAME_NOREPLACE) != 0) {
    const int code = errno;
    return code == EEXIST || code == ENOTEMPTY || code == ENOENT || code == EINVAL
               ? std::unexpected(Error{ErrorKind::refused, fmt::format("{} cannot become {} there: {}", printable(from), printable(to), std::strerror(code)), ""})
               : io_failure(fmt::format("cannot rename {}", printable(from)), code);
  }
  tree_.passes("renamed");
  if (!tree_.index->rename(from, to)) return refused(fmt::format("{} is known there", printable(to)));
  tree_.index->note_rename(from, to);
  if (const auto now = look_at(target.fd(), target.leaf.c_str()); now && *now) {
    auto moved = *entry;
    moved.ctime_ns = (*now)->ctime_ns;
    tree_.index->put(to, moved);
  }
  // What users did below it here, at the old path, is found at the new one.
  if (tree_.outgoing) tree_.dirty.mark(to, Millis(0), kTree);
  return {};
}

}  // namespace midstream::files
