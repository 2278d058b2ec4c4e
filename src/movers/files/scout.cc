#include "movers/files/scout.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/utsname.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "base/text.h"

namespace midstream::files {

namespace {

constexpr std::size_t kStep = 256;  // entries in one step of a walk
constexpr int kPatience = 5;        // readings of a file that keeps changing
constexpr std::int64_t kRacyNs = 20'000'000;
constexpr std::uint64_t kSlowBytes = 32u << 20;  // a second's worth, for files written to all the time

// Before Linux 6.13 the times of a file move in ticks: two changes within one look the same.
bool coarse_times() {
  static const bool coarse = [] {
    utsname name{};
    ::uname(&name);
    int major = 0, minor = 0;
    if (std::sscanf(name.release, "%d.%d", &major, &minor) != 2) return true;
    return major < 6 || (major == 6 && minor < 13);
  }();
  return coarse;
}

bool is_racy(const Stat& stat) {
  if (!coarse_times() || stat.type != EntryType::file) return false;
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME_COARSE, &now);
  const auto wall = std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
  return std::max(stat.ctime_ns, stat.mtime_ns) + kRacyNs > wall;
}

}  // namespace

Scout::Scout(Tree& tree, Outbox& outbox, Except except, std::stop_token stop)
    : tree_(tree), outbox_(outbox), except_(std::move(except)), stop_(std::move(stop)) {}
Scout::~Scout() = default;

std::string Scout::trouble() const {
  const std::lock_guard lock(trouble_mutex_);
  if (troubles_.empty()) return "";
  const auto& [path, why] = *troubles_.begin();
  return fmt::format("{} entries cannot be read, the first: {}: {}", troubles_.size(), printable(path), why);
}

void Scout::note_trouble(const std::string& path, std::string why) {
  const std::lock_guard lock(trouble_mutex_);
  troubles_[path] = std::move(why);
}

bool Scout::is_suspect(const std::string& path, const Stat& stat) {
  const std::lock_guard lock(tree_.mutex);
  const auto entry = tree_.index->find(path);
  if (stat.type != EntryType::file) return false;
  if (entry && !entry->unsure ? entry->ino == 0 || entry->matches(stat) : !unknown_too_) return false;
  const auto since = tree_.run.since_ns;
  return stat.ctime_ns < since || (stat.size == 0 && stat.mtime_ns < since);
}

Result<> Scout::look(const std::string& path, Mark mark) {
  bool gone = false;
  auto place = tree_.root->place(path, &gone);
  Result<std::optional<Stat>> stat = std::nullopt;
  if (place) stat = look_at(place->fd(), place->leaf.c_str());
  if ((!place && !gone) || !stat) {
    const std::lock_guard lock(trouble_mutex_);
    troubles_[path] = (place ? stat.error() : place.error()).what;
    tree_.dirty.put_back(path, mark, Millis(2000));
    return {};
  }
  if (!*stat || (*stat)->type == EntryType::none) {
    if (const auto to = tree_.renames.to(path)) {
      if (TRY(renamed_instead(path, *to, path, mark))) return {};
    }
    return look_gone(path, true);
  }
  if (except_.matches(path, (*stat)->type == EntryType::directory)) return {};
  if ((*stat)->dev != tree_.root->stat().dev) return {};  // a mount inside the tree: not ours
  return look_at_place(path, mark, *place, **stat);
}

Result<> Scout::look_at_place(const std::string& path, Mark mark, const Place& place, const Stat& stat) {
  if (distrust_ && is_suspect(path, stat)) {
    lost_.push_back(path);
    return {};
  }
  bool scan_it = false;
  bool was_directory = false;
  bool unknown = false;
  {
    const std::lock_guard lock(tree_.mutex);
    const auto known = tree_.known(path);
    if (known && known->matches(stat) && !mark.force && !mark.tree) {
      outbox_.nothing_to_send(path);
      return {};
    }
    was_directory = known && known->version.type == EntryType::directory;
    scan_it = stat.type == EntryType::directory && (mark.tree || !was_directory || known->ino != stat.ino);
    unknown = !known;
  }
  if (const auto from = unknown ? tree_.renames.from(path) : std::nullopt) {
    if (TRY(renamed_instead(*from, path, path, mark))) return {};
  }
  if (was_directory && stat.type != EntryType::directory) CHECK_OK(children_gone(path));
  if (stat.type == EntryType::file && stat.size > kMaxInline) {
    const auto settle = Millis(std::min<std::uint64_t>(stat.size * 1000 / kSlowBytes, 10'000));
    if (mark.due_ns - mark.first_ns > 100'000'000 && !mark.settled && settle.count() > 200) {
      mark.settled = true;  // written to and not closed: large ones not at every turn
      tree_.dirty.put_back(path, mark, settle);
      return {};
    }
    if (queued_.insert(path).second) queue_.emplace_back(path, mark);
    return {};
  }
  CHECK_OK(send_parents(path));
  CHECK_OK(send_content(path, mark, place, stat));
  if (scan_it && path != ".") scans_.push_back(Scan{path, ++stamp_, {path}, {}, {}, {}, 0, false, {}});
  return outbox_.flush_if_large();
}

// What is sent has its directory sent before it: the other host makes what is missing, and of what this host has not sent
// nobody would tell it when it goes.
Result<> Scout::send_parents(const std::string& path) {
  const std::string parent(parent_of(path));
  if (parent == "." || path == ".") return {};
  {
    const std::lock_guard lock(tree_.mutex);
    const auto known = tree_.known(parent);
    if (known && known->version.type == EntryType::directory) return {};
  }
  return look(parent, Mark{});
}

Result<> Scout::send_content(const std::string& path, Mark mark, const Place& place, const Stat& stat) {
  const std::lock_guard lock(tree_.mutex);
  auto loaded = load(place, stat, kMaxInline, true, stop_);
  sort_out(path, mark, loaded);
  return {};
}

// Emits what was loaded, or has it looked at again. With the tree's mutex held since before the loading.
void Scout::sort_out(const std::string& path, Mark mark, Result<Loaded>& loaded) {
  if (!loaded) {
    tree_.dirty.put_back(path, mark, loaded.error().kind == ErrorKind::retry ? Millis(1) : Millis(2000));
    const std::lock_guard trouble_lock(trouble_mutex_);
    if (loaded.error().kind != ErrorKind::retry) troubles_[path] = loaded.error().what;
    return;
  }
  if (!troubles_.empty()) {
    const std::lock_guard trouble_lock(trouble_mutex_);
    troubles_.erase(path);
  }
  if (!loaded->steady) {
    const bool give_up = ++mark.tries >= kPatience;
    tree_.dirty.put_back(path, mark, Millis(5) * (1 << std::min(mark.tries, 8)));
    if (!give_up) return;
  }
  if (loaded->stat.nlink > 1 && loaded->stat.type == EntryType::file) {
    for (const auto& other : tree_.index->names_of(loaded->stat.ino)) {
      if (other != path) tree_.dirty.mark(other, Millis(0));
    }
  }
  emit(path, *loaded, mark.force, !loaded->steady);
}

// With the tree's mutex held.
void Scout::emit(const std::string& path, const Loaded& loaded, bool force, bool unsteady) {
  auto entry = make_entry(loaded.version, loaded.stat, false);
  entry.racy = is_racy(loaded.stat);
  entry.seen = walking_;
  if (unsteady) entry.ino = 0;  // matches nothing: it will be looked at again
  const auto known = tree_.known(path);
  if (known && known->version == loaded.version && !force && !known->unsure) {
    entry.from_peer = known->from_peer;
    if (const auto it = tree_.sent.find(path); it != tree_.sent.end()) {
      it->second.entry = entry;
    } else {
      entry.seen = known->seen;
      tree_.below_renaming(path) ? tree_.index->refresh(path, entry) : tree_.index->put(path, entry);
    }
    return;
  }
  Change change;
  change.path = path;
  change.version = loaded.version;
  change.base = known ? digest(known->version) : 0;
  change.xattrs = loaded.xattrs;
  const bool same_content = known && !force && !known->unsure && known->version.type == EntryType::file &&
                            loaded.version.type == EntryType::file && known->version.hash == loaded.version.hash &&
                            known->version.size == loaded.version.size;
  change.op = same_content ? Op::meta : Op::put;
  if (change.op == Op::put) change.content = loaded.content;
  outbox_.add(change, entry);
}

Result<> Scout::guard_root() {
  const auto names = TRY(list_names(tree_.root->fd()));
  const bool empty = std::ranges::all_of(names, [](const auto& name) { return name == kHidden; });
  const std::lock_guard lock(tree_.mutex);
  if (empty && tree_.index->size() > 2) {
    return refused(
        fmt::format("{} is empty all of a sudden: nothing is deleted on the other host", tree_.path.string()),
        "put its files back, or undo the follow if this is meant");
  }
  return {};
}

Result<> Scout::children_gone(const std::string& path) {
  std::vector<std::string> children;
  {
    const std::lock_guard lock(tree_.mutex);
    children = tree_.known_below(path);
  }
  std::ranges::sort(children, std::greater<>());
  children.erase(std::unique(children.begin(), children.end()), children.end());
  for (const auto& child : children) {
    bool gone = false;
    const auto stat = tree_.root->look(child);
    gone = stat && !*stat;
    if (gone) CHECK_OK(look_gone(child, false));
  }
  return {};
}

Result<> Scout::look_gone(const std::string& path, bool with_children) {
  if (path == ".") return refused("the root of the tree went away");
  if (with_children) CHECK_OK(children_gone(path));
  if (path.find('/') == path.npos) CHECK_OK(guard_root());
  {
    const std::lock_guard lock(tree_.mutex);
    const auto known = tree_.known(path);
    const bool there = known && known->version.present();
    if (!there) {
      outbox_.nothing_to_send(path);
      return {};
    }
    // The look happens under the mutex: what the other host sends is not applied meanwhile.
    const auto stat = tree_.root->look(path);
    if (!stat || (*stat && (*stat)->type != EntryType::none)) {
      tree_.dirty.mark(path, Millis(1));
      return {};
    }
    Change change;
    change.op = Op::gone;
    change.path = path;
    change.base = digest(known->version);
    outbox_.add(change, Entry{});
  }
  if (!troubles_.empty()) {
    const std::lock_guard lock(trouble_mutex_);
    troubles_.erase(path);
  }
  return outbox_.flush_if_large();
}

void Scout::rescan() {
  scans_.clear();
  lost_.clear();
  seen_files_ = seen_bytes_ = equal_files_ = equal_bytes_ = sockets_ = 0;
  scans_.push_back(Scan{".", ++stamp_, {"."}, {}, {}, {}, 0, false, {}});
}

Result<> Scout::enter_directory(Scan& scan) {
  scan.directory = std::move(scan.todo.back());
  scan.todo.pop_back();
  scan.next = 0;
  scan.names.clear();
  scan.place.reset();
  bool gone = false;
  auto place = tree_.root->directory(scan.directory, &gone);
  if (!place) {
    if (gone) {
      tree_.dirty.mark(scan.directory, Millis(0), kTree);  // it may come back, known but not walked over
    } else {
      scan.failed = true;
      scan.why = place.error().what;
    }
    return {};
  }
  auto names = list_directory(place->fd());
  if (!names) {
    scan.failed = true;
    scan.why = fmt::format("{}: {}", printable(scan.directory), names.error().what);
    return {};
  }
  scan.place = std::move(*place);
  scan.names = std::move(*names);
  if (scan.directory == ".") CHECK_OK(look(".", Mark{}));
  return {};
}

// A small file that nobody has known of is opened at once. False: it is no such file, or not so easily read.
Result<bool> Scout::visit_new(Scan& scan, const std::string& path, const Name& name) {
  if (!name.file || distrust_ || except_.matches(path, false)) return false;
  {
    const std::lock_guard lock(tree_.mutex);
    const auto above = scan.directory == "." ? std::optional<Entry>() : tree_.known(scan.directory);
    if (scan.directory != "." && (!above || above->version.type != EntryType::directory)) return false;  // sent before it
    if (tree_.known(path)) return false;
    Loaded loaded;
    const auto fd = open_file(scan.place->fd(), name.name.c_str(), loaded.stat);
    if (!fd || loaded.stat.size > kMaxInline || loaded.stat.dev != tree_.root->stat().dev) return false;
    ++seen_files_;
    seen_bytes_ += loaded.stat.size;
    auto read = load_open(fd.get(), kMaxInline, true, loaded, stop_);
    Result<Loaded> result = read ? Result<Loaded>(std::move(loaded)) : std::unexpected(read.error());
    sort_out(path, Mark{}, result);
  }
  CHECK_OK(outbox_.flush_if_large());
  return true;
}

Result<> Scout::visit(Scan& scan, const Name& entry) {
  const auto& name = entry.name;
  const auto path = join_path(scan.directory, name);
  if (scan.directory == "." && name == kHidden) return {};
  if (!is_safe_path(path)) {
    const std::lock_guard lock(trouble_mutex_);
    troubles_[path.substr(0, 200)] = "the path is too long to move";
    return {};
  }
  if (TRY(visit_new(scan, path, entry))) return {};
  const auto stat = look_at(scan.place->fd(), name.c_str());
  if (!stat) {
    scan.failed = true;
    scan.why = stat.error().what;
    return {};
  }
  if (!*stat) return {};
  if ((*stat)->socket) ++sockets_;
  if ((*stat)->type == EntryType::none || except_.matches(path, (*stat)->type == EntryType::directory)) return {};
  if ((*stat)->dev != tree_.root->stat().dev) return {};
  const bool directory = (*stat)->type == EntryType::directory;
  bool equal = false;
  {
    const std::lock_guard lock(tree_.mutex);
    const auto indexed = tree_.index->see(path, scan.stamp);
    const auto it = tree_.sent.find(path);
    if (it != tree_.sent.end()) it->second.entry.seen = scan.stamp;
    equal = it != tree_.sent.end() ? it->second.entry.matches(**stat) : indexed && indexed->matches(**stat);
  }
  if ((*stat)->type == EntryType::file) {
    ++seen_files_;
    seen_bytes_ += (*stat)->size;
    if (equal) ++equal_files_, equal_bytes_ += (*stat)->size;
  }
  const auto behind = scans_.size();
  if (!equal) CHECK_OK(look_at_place(path, Mark{}, Place{scan.place->directory, name}, **stat));
  if (scans_.size() > behind) scans_.pop_back();  // this very walk goes into it
  if (directory) scan.todo.push_back(path);
  return {};
}

// What the index knows below the top and this walk did not meet is looked at once more: gone, or only new.
Result<> Scout::finish_scan(Scan& scan) {
  if (scan.failed)
    return refused(fmt::format("the tree cannot be read: {}", scan.why),
                   "nothing is deleted on the other host meanwhile");
  std::vector<std::string> missing;
  {
    const std::lock_guard lock(tree_.mutex);
    const auto& nodes = tree_.index->nodes();
    for (const auto id : nodes.below(scan.top)) {
      if (nodes.seen(id) != scan.stamp) missing.push_back(nodes.path(id));
    }
    std::erase(missing, ".");
    for (const auto& [path, sent] : tree_.sent) {
      const bool met = sent.entry.seen == scan.stamp;
      if (!met && is_below(path, scan.top) && sent.entry.version.present()) missing.push_back(path);
    }
  }
  std::ranges::sort(missing);
  missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
  if (!missing.empty() && scan.top == ".") CHECK_OK(guard_root());
  for (auto it = missing.rbegin(); it != missing.rend(); ++it) {
    const auto stat = tree_.root->look(*it);
    if (!stat) return std::unexpected(stat.error());
    const bool excepted = except_.matches(*it, *stat && (*stat)->type == EntryType::directory);
    if (*stat || excepted) continue;
    CHECK_OK(look_gone(*it, false));
  }
  return {};
}

Result<> Scout::scan_step() {
  if (scans_.empty()) return {};
  const auto stamp = scans_.front().stamp;
  for (std::size_t i = 0; i < kStep; ++i) {
    auto& scan = scans_.front();
    if (scan.place && scan.next < scan.names.size()) {
      const auto name = std::move(scan.names[scan.next++]);
      walking_ = scan.stamp;
      auto visited = visit(scan, name);
      walking_ = 0;
      CHECK_OK(visited);
    } else if (!scan.todo.empty()) {
      CHECK_OK(enter_directory(scan));
    } else {
      auto ended = std::move(scan);
      scans_.pop_front();
      CHECK_OK(finish_scan(ended));
      if (ended.top == ".") ++scans_done_;
      return {};
    }
    if (scans_.empty() || scans_.front().stamp != stamp) return {};
  }
  return {};
}

}  // namespace midstream::files
