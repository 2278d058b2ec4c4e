#include "movers/files/mend.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/text.h"
#include "movers/files/path.h"

namespace midstream::files {

namespace {

constexpr auto kSilence = std::chrono::seconds(30);
constexpr std::size_t kListing = 512;

Result<> send(Stream& stream, std::string_view frame, const std::stop_token& stop) {
  return write_frame(stream, frame, Deadline::in(kSilence), stop);
}

// The content of a file too large for a batch; holes are left out.
Result<> send_parts(const Place& place, const Stat& stat, Stream& stream, const std::stop_token& stop) {
  const auto fd = TRY(open_entry(place.fd(), place.leaf.c_str(), stat));
  std::string buffer(kMaxPart, '\0');
  std::uint64_t data_end = 0;
  for (std::uint64_t offset = 0; offset < stat.size;) {
    auto from = offset;
    if (from >= data_end) {
      const off_t data = ::lseek(fd.get(), static_cast<off_t>(from), SEEK_DATA);
      if (data < 0 && errno == ENXIO) break;
      if (data >= 0) from = static_cast<std::uint64_t>(data);
      data_end = from + until_hole(fd.get(), from, std::size_t{1} << 60);
    }
    const auto most = std::min<std::uint64_t>(buffer.size(), data_end - from);
    const ssize_t n = ::pread(fd.get(), buffer.data(), most, static_cast<off_t>(from));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_failure("reading a file failed", errno);
    if (n == 0) break;
    CHECK_OK(send(stream, encode(Part{1, from, std::string_view(buffer.data(), static_cast<std::size_t>(n))}), stop));
    offset = from + static_cast<std::uint64_t>(n);
  }
  return {};
}

// Walks over what an index knows, in the order of path_before. What changes meanwhile may be met or not. All but the
// constructor with the tree's mutex held.
class Ordered {
 public:
  explicit Ordered(Tree& tree) : tree_(tree) {
    const std::lock_guard lock(tree.mutex);
    ids_ = tree.index->nodes().in_order(".");
  }
  // Whether there is one; path() and version() are its.
  bool has_next() {
    const auto& nodes = tree_.index->nodes();
    for (; next_ < ids_.size(); ++next_) {
      if (!nodes.present(ids_[next_])) continue;
      path_ = nodes.path(ids_[next_]);
      if (last_.empty() || path_before(last_, path_)) return true;  // else another one lives in its place now
    }
    return false;
  }
  const std::string& path() const { return path_; }
  Version version() const { return tree_.index->nodes().entry(ids_[next_]).version; }
  void advance() { last_ = path_, ++next_; }

 private:
  Tree& tree_;
  std::vector<Nodes::Id> ids_;
  std::size_t next_ = 0;
  std::string path_, last_;
};

}  // namespace

Result<> send_known(Tree& tree, Stream& stream, const std::stop_token& stop) {
  Welcome welcome;
  {
    const std::lock_guard lock(tree.mutex);
    welcome.incarnation = std::strtoull(tree.index->fact("incarnation").c_str(), nullptr, 10);
  }
  CHECK_OK(send(stream, encode(welcome), stop));
  Ordered all(tree);
  while (true) {
    std::vector<Listed> part;
    {
      const std::lock_guard lock(tree.mutex);
      for (; part.size() < kListing && all.has_next(); all.advance()) part.push_back({all.path(), all.version()});
    }
    const bool last = part.size() < kListing;
    CHECK_OK(send(stream, encode_listing(part, last), stop));
    if (last) return {};
  }
}

Result<> send_entry(const Root& root, const std::string& path, Stream& stream, const std::stop_token& stop) {
  Change change;
  change.path = path;
  change.op = Op::gone;
  bool gone = false;
  const auto place = root.place(path, &gone);
  if (!place && !gone) return std::unexpected(place.error());
  const auto stat = gone ? std::optional<Stat>() : TRY(look_at(place->fd(), place->leaf.c_str()));
  Loaded loaded;
  if (stat && stat->type != EntryType::none) {
    loaded = TRY(load(*place, *stat, kMaxInline, true, stop));
    const bool large = loaded.version.type == EntryType::file && loaded.version.size > kMaxInline;
    if (large) CHECK_OK(send_parts(*place, loaded.stat, stream, stop));
    const auto after = TRY(look_at(place->fd(), place->leaf.c_str()));
    if (!loaded.steady || !after || *after != loaded.stat)
      return retry(fmt::format("{} is being changed", printable(path)));
    change.op = large ? Op::parts : Op::put;
    change.file = 1;
    change.version = loaded.version;
    change.xattrs = loaded.xattrs;
    if (!large) change.content = loaded.content;
  }
  BatchWriter writer;
  writer.add(change);
  return send(stream, writer.take(1), stop);
}

// Reads what the other host's index knows, and names the paths of which it is not certain that both hosts have them on
// disk alike: known to one index only, known by different versions, or noted here behind the last checkpoint.
Result<std::vector<Mender::Doubt>> Mender::doubtful(Stream& stream) {
  std::vector<Doubt> out;
  std::string before;  // the last path that was listed
  Ordered all(tree_);
  const auto only_here = [&](const std::string& until, bool last) {
    for (; all.has_next() && (last || path_before(all.path(), until)); all.advance()) out.push_back({all.path(), {}});
    if (!last && all.has_next() && all.path() == until) all.advance();
  };
  for (bool last = false; !last;) {
    const auto body = TRY(read_frame(stream, Deadline::in(kSilence), stop_, kMaxFileFrame));
    std::vector<Listed> part;
    last = TRY(decode_listing(body, part));
    const std::lock_guard lock(tree_.mutex);
    for (const auto& listed : part) {
      if (!before.empty() && !path_before(before, listed.path)) return corrupt("the other host lists what it knows out of order");
      only_here(listed.path, false);
      before = listed.path;
      const auto entry = tree_.index->find(listed.path);
      if (!entry || entry->unsure || entry->version != listed.version || tree_.index->unproven(listed.path)) {
        out.push_back({listed.path, listed.version});
      }
    }
    if (last) only_here("", true);
  }
  return out;
}

Result<> Mender::compare() {
  auto stream = TRY(open_({{"for", "known"}}));
  const auto body = TRY(read_frame(*stream, Deadline::in(kSilence), stop_, kMaxFileFrame));
  const auto frame = TRY(decode(body));
  if (const auto* refusal = std::get_if<Refusal>(&frame)) {
    // It has never received this tree: nothing is agreed, and nothing of this host's is there to be had back.
    return refusal->error.kind == ErrorKind::refused ? Result<>() : Result<>(std::unexpected(refusal->error));
  }
  const auto* welcome = std::get_if<Welcome>(&frame);
  if (!welcome) return corrupt("the other host answered with something else than what it knows");
  {
    const std::lock_guard lock(tree_.mutex);
    const auto agreed = tree_.index->fact("peer");
    if (!agreed.empty() && agreed != std::to_string(welcome->incarnation)) return {};  // all will be compared anyway
  }
  const auto doubts = TRY(doubtful(*stream));
  stream->shut();
  // What is to go goes first, children before their directory: it may be in the way. The rest from the top down.
  for (auto it = doubts.rbegin(); it != doubts.rend(); ++it) {
    if (!it->theirs.present()) CHECK_OK(mend(it->path));
  }
  for (const auto& doubt : doubts) {
    if (doubt.theirs.present() && !TRY(is_agreed(doubt))) CHECK_OK(mend(doubt.path));
  }
  return {};
}

// What is here is what the other host's index says, by its content: an overwritten block may be lost without a trace
// in size and times.
Result<bool> Mender::is_agreed(const Doubt& doubt) {
  {
    const std::lock_guard lock(tree_.mutex);
    const auto entry = tree_.index->find(doubt.path);
    if (!entry || entry->version != doubt.theirs) return false;
  }
  const auto local = look(doubt.path);
  return local && local->version == doubt.theirs;
}

Result<> Mender::fetch(const std::string& path, Fetched& out) {
  auto stream = TRY(open_({{"for", "entry"}, {"entry", to_hex(path)}}));
  while (true) {
    out.body = TRY(read_frame(*stream, Deadline::in(kSilence), stop_, kMaxFileFrame));
    auto frame = TRY(decode(out.body));
    if (const auto* refusal = std::get_if<Refusal>(&frame)) {
      return with_context(refusal->error, fmt::format("getting {} back after a power cut", printable(path)));
    }
    if (const auto* part = std::get_if<Part>(&frame)) {
      const std::lock_guard lock(tree_.mutex);
      CHECK_OK(stage_part(tree_, out.staged, *part));
      continue;
    }
    auto* batch = std::get_if<Batch>(&frame);
    if (!batch || batch->changes.size() != 1 || batch->changes[0].path != path)
      return corrupt("the other host gave something else back");
    out.change = batch->changes[0];
    if (out.change.op == Op::parts && !out.staged.fd) {  // nothing but a hole
      const std::lock_guard lock(tree_.mutex);
      CHECK_OK(stage_part(tree_, out.staged, Part{1, 0, {}}));
    }
    return {};
  }
}

void Mender::drop(Fetched& fetched) {
  if (fetched.staged.name.empty()) return;
  const std::lock_guard lock(tree_.mutex);
  if (const auto hidden = tree_.root->hidden()) ::unlinkat(*hidden, fetched.staged.name.c_str(), 0);
}

Result<Mender::Local> Mender::look(const std::string& path) {
  Local out;
  bool gone = false;
  const auto place = tree_.root->place(path, &gone);
  if (!place) return gone ? Result<Local>(out) : Result<Local>(std::unexpected(place.error()));
  out.stat = TRY(look_at(place->fd(), place->leaf.c_str()));
  if (!out.stat || out.stat->type == EntryType::none) return out;
  const auto loaded = TRY(load(*place, *out.stat, 0, true, stop_));
  if (!loaded.steady) return retry(fmt::format("{} is being changed", printable(path)));
  out.stat = loaded.stat;
  out.version = loaded.version;
  return out;
}

// Whether what is here is a user's, later than what the other host holds. What was written before the cut is believed
// only if it is later and not empty: a file cut short by the cut has its writer's time, and nothing in it.
bool Mender::wins(const Local& local, const Version& theirs) const {
  const auto& stat = *local.stat;
  if (stat.type == EntryType::directory)
    return stat.mtime_ns > theirs.mtime_ns;  // our own writes in it change its ctime
  const auto since = tree_.run.since_ns;
  const bool emptied = stat.type == EntryType::file && stat.size == 0 && stat.mtime_ns < since;
  if (stat.ctime_ns >= since && !emptied) return true;
  return stat.type == EntryType::file && stat.size > 0 && stat.mtime_ns > theirs.mtime_ns;
}

Result<> Mender::keep_local(const std::string& path, const Local& local) {
  const bool known = [&] {  // both had it once: what the other host has came after it
    const auto entry = tree_.index->find(path);
    return entry && entry->version == local.version;
  }();
  if (known || (local.stat->type == EntryType::file && local.stat->size == 0)) return {};
  const auto place = TRY(tree_.root->place(path));
  if (local.stat->type == EntryType::symlink)
    return keep_loser(tree_, path, -1, TRY(load(place, *local.stat, 0, true)).content);
  if (local.stat->type != EntryType::file) return {};
  const auto fd = TRY(open_entry(place.fd(), place.leaf.c_str(), *local.stat));
  return keep_loser(tree_, path, fd.get(), {});
}

Result<> Mender::keep_theirs(const std::string& path, const Fetched& fetched) {
  const auto& v = fetched.change.version;
  if (v.type == EntryType::symlink || (v.type == EntryType::file && v.size > 0)) {
    CHECK_OK(keep_loser(tree_, path, fetched.staged.fd ? fetched.staged.fd.get() : -1, fetched.change.content));
  }
  Entry entry;  // matches nothing on this disk: what is here is sent, as later than this
  entry.version = v;
  entry.from_peer = true;
  tree_.index->put(path, entry);
  tree_.dirty.mark(path, Millis(0));
  return {};
}

Result<> Mender::settle(const std::string& path, Fetched& fetched) {
  auto& theirs = fetched.change;
  const auto local = TRY(look(path));
  const std::lock_guard lock(tree_.mutex);
  const bool here = local.version.present();
  if (local.stat && !here) return {};  // a socket: not ours
  if (here && local.version == theirs.version) {
    auto entry = make_entry(local.version, *local.stat, true);
    tree_.index->put(path, entry);
    return {};
  }
  if (theirs.op == Op::gone) {
    const auto entry = tree_.index->find(path);
    const bool as_agreed = here && entry && entry->matches(*local.stat);
    if (!as_agreed) {  // changed here since it was agreed on, or gone from both
      tree_.index->erase(path);
      if (here) tree_.dirty.mark(path, Millis(0));  // a user's: it is sent
      return {};
    }
  } else if (here && wins(local, theirs.version)) {
    return keep_theirs(path, fetched);
  } else if (here) {
    CHECK_OK(keep_local(path, local));
  }
  theirs.base = digest(local.version);
  tree_.index->erase(path);
  Applier applier(tree_);
  bool need_content = false;
  CHECK_OK(applier.apply(theirs, theirs.op == Op::parts ? &fetched.staged : nullptr, need_content));
  ++restored_;
  return {};
}

Result<> Mender::mend(const std::string& path) {
  {
    const std::lock_guard lock(tree_.mutex);
    const auto stat = TRY(tree_.root->look(path));
    if (stat && stat->type == EntryType::none) return {};
  }
  Fetched fetched;
  auto done = fetch(path, fetched);
  if (done) done = settle(path, fetched);
  drop(fetched);
  return done;
}

}  // namespace midstream::files
