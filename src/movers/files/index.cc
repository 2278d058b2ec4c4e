#include "movers/files/index.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>

#include "movers/files/path.h"
#include "movers/files/wire.h"
#include "sys/file.h"

namespace midstream::files {

namespace {

constexpr std::string_view kMagic = "midstream-index-1\n";
constexpr std::size_t kMaxRecord = 16u << 10;
constexpr std::size_t kReading = 1u << 20;
enum Kind : std::uint8_t { kPut = 1, kErase = 2, kFact = 3, kCheckpoint = 4, kRename = 5, kRenaming = 6, kSplit = 7 };

std::string put_record(std::string_view path, const Entry& entry) {
  std::string out;
  Writer writer(out);
  writer.u8(kPut);
  writer.text(path);
  writer.version(entry.version);
  writer.u64(entry.ino);
  writer.u64(static_cast<std::uint64_t>(entry.ctime_ns));
  writer.u8(static_cast<std::uint8_t>((entry.from_peer ? 1 : 0) | (entry.racy ? 2 : 0) | (entry.linked ? 4 : 0) | (entry.unsure ? 8 : 0)));
  return out;
}

std::string erase_record(std::string_view path) {
  std::string out;
  Writer writer(out);
  writer.u8(kErase);
  writer.text(path);
  return out;
}

std::string two_texts(Kind kind, std::string_view first, std::string_view second) {
  std::string out;
  Writer writer(out);
  writer.u8(kind);
  writer.text(first);
  writer.text(second);
  return out;
}

void append_record(std::string& log, std::string_view payload) {
  Writer writer(log);
  writer.u32(static_cast<std::uint32_t>(payload.size()));
  writer.u64(hash_bytes(payload));
  log += payload;
}

Result<> write_fully(int fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_failure("writing the index failed", errno);
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

}  // namespace

Result<std::unique_ptr<Index>> Index::open(const std::filesystem::path& file) {
  auto index = std::make_unique<Index>();
  index->file_ = file;
  index->log_ = Fd(::open(file.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!index->log_) return errno_failure(fmt::format("cannot open the index {}", file.string()), errno);
  const off_t size = ::lseek(index->log_.get(), 0, SEEK_END);
  if (size < 0) return errno_failure(fmt::format("cannot measure the index {}", file.string()), errno);
  std::size_t good = 0;
  CHECK_OK(index->replay(good));
  for (const auto& [from, to] : std::exchange(index->renaming_, {})) index->split_rename(from, to);
  if (good < static_cast<std::size_t>(size) && ::ftruncate(index->log_.get(), static_cast<off_t>(good)) != 0) {
    return errno_failure(fmt::format("cannot cut the torn end off {}", file.string()), errno);
  }
  if (index->fact("incarnation").empty()) {
    std::uint64_t number = 0;
    if (::getrandom(&number, sizeof number, 0) != sizeof number) return errno_failure("no random numbers", errno);
    index->set_fact("incarnation", std::to_string(number | 1));
  }
  index->since_checkpoint_ = index->doubted_.size() + index->doubted_gone_.size();
  if (good == 0 || index->records_ > 2 * index->nodes_.size() + 1000) CHECK_OK(index->compact());
  return index;
}

// Reads the log piece by piece: it may be larger than the memory that its entries take.
Result<> Index::replay(std::size_t& good) {
  std::string buffer;
  std::string_view left;
  std::size_t offset = 0;  // of what has been read
  bool begun = false;
  const auto more = [&]() -> Result<bool> {
    std::string rest(left);
    const auto had = rest.size();
    rest.resize(had + kReading);
    ssize_t n = 0;
    while ((n = ::pread(log_.get(), rest.data() + had, kReading, static_cast<off_t>(offset))) < 0 && errno == EINTR) {}
    if (n < 0) return errno_failure("cannot read the index", errno);
    offset += static_cast<std::size_t>(n);
    rest.resize(had + static_cast<std::size_t>(n));
    buffer = std::move(rest);
    left = buffer;
    return n > 0;
  };
  good = 0;
  while (true) {
    Reader head(left);
    const auto size = begun ? head.u32() : Result<std::uint32_t>(static_cast<std::uint32_t>(kMagic.size()));
    const auto sum = begun ? head.u64() : Result<std::uint64_t>(0);
    if (!size || !sum || *size > head.left()) {
      if (size && *size > kMaxRecord) return {};
      if (!TRY(more())) return {};
      continue;
    }
    const auto payload = left.substr(begun ? 12 : 0, *size);
    if (begun ? hash_bytes(payload) != *sum || !apply_record(payload) : payload != kMagic) return {};
    left.remove_prefix(*size + (begun ? 12 : 0));
    good = offset - left.size();
    if (begun) ++records_;
    begun = true;
  }
}

void Index::doubt(std::string_view path) {
  const auto id = nodes_.find(path);
  if (id == Nodes::kNone) {
    doubted_gone_.emplace(path);
  } else if (!nodes_.marked(id)) {
    nodes_.set_mark(id, true);
    doubted_.push_back(id);
  }
}

void Index::clear_doubts() {
  for (const auto id : doubted_) nodes_.set_mark(id, false);
  doubted_.clear();
  doubted_gone_.clear();
}

bool Index::unproven(std::string_view path) const {
  const auto id = nodes_.find(path);
  return (id != Nodes::kNone && nodes_.marked(id)) || doubted_gone_.contains(path);
}

Result<> Index::apply_put(std::string_view path, Reader& in) {
  Entry entry;
  entry.version = TRY(in.version());
  entry.ino = TRY(in.u64());
  entry.ctime_ns = static_cast<std::int64_t>(TRY(in.u64()));
  const auto flags = TRY(in.u8());
  entry.from_peer = flags & 1;
  entry.racy = flags & 2;
  entry.linked = flags & 4;
  entry.unsure = flags & 8;
  if (!entry.version.present() || (path != "." && !is_safe_path(path))) return corrupt("an entry of nothing in an index");
  nodes_.put(path, entry);
  doubt(path);
  return {};
}

Result<> Index::apply_rename(std::uint8_t kind, std::string_view from, std::string_view to) {
  if (!is_safe_path(from) || !is_safe_path(to) || is_below(from, to) || is_below(to, from)) return corrupt("an improper rename in an index");
  const std::pair<std::string, std::string> both(from, to);
  std::erase(renaming_, both);
  if (kind == kRenaming) renaming_.push_back(both);
  if (kind == kSplit) split(from, to);
  if (kind != kRename) return {};
  if (!nodes_.rename(from, to)) merge(from, to);
  doubt(from);
  doubt(to);
  for (const auto id : nodes_.below(to)) {
    if (nodes_.marked(id)) continue;
    nodes_.set_mark(id, true);
    doubted_.push_back(id);
  }
  return {};
}

Result<> Index::apply_record(std::string_view payload) {
  Reader in(payload);
  const auto kind = TRY(in.u8());
  if (kind == kCheckpoint) {
    clear_doubts();
    return {};
  }
  const auto path = TRY(in.text(kMaxPath));
  if (kind == kErase) {
    nodes_.erase(path);
    doubt(path);
    return {};
  }
  if (kind == kFact) {
    facts_[std::string(path)] = TRY(in.text(kMaxPath));
    return {};
  }
  if (kind == kRename || kind == kRenaming || kind == kSplit) return apply_rename(kind, path, TRY(in.text(kMaxPath)));
  return kind == kPut ? apply_put(path, in) : corrupt("unknown record in an index");
}

Result<> Index::compact() {
  const auto next = file_.string() + ".next";
  Fd fd(::open(next.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
  if (!fd) return errno_failure(fmt::format("cannot write {}", next), errno);
  std::string out(kMagic);
  for (const auto& [key, value] : facts_) append_record(out, two_texts(kFact, key, value));
  for (const auto id : nodes_.below(".")) {
    if (nodes_.marked(id)) continue;
    append_record(out, put_record(nodes_.path(id), nodes_.entry(id)));
    if (out.size() < kReading) continue;
    CHECK_OK(write_fully(fd.get(), out));
    out.clear();
  }
  out += checkpoint_record();
  for (const auto& path : doubted_gone_) append_record(out, erase_record(path));
  for (const auto id : nodes_.below(".")) {
    if (nodes_.marked(id)) append_record(out, put_record(nodes_.path(id), nodes_.entry(id)));
  }
  CHECK_OK(write_fully(fd.get(), out));
  if (::fdatasync(fd.get()) != 0) return errno_failure(fmt::format("cannot sync {}", next), errno);
  if (::rename(next.c_str(), file_.c_str()) != 0)
    return errno_failure(fmt::format("cannot replace {}", file_.string()), errno);
  const Fd parent(::open(file_.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!parent || ::fsync(parent.get()) != 0) return errno_failure("cannot sync the index's directory", errno);
  log_ = std::move(fd);
  records_ = nodes_.size() + doubted_gone_.size();
  pending_.clear();
  return {};
}

void Index::record(std::string_view payload) {
  append_record(pending_, payload);
  ++records_;
  ++since_checkpoint_;
}

std::string Index::checkpoint_record() {
  std::string out;
  append_record(out, std::string(1, static_cast<char>(kCheckpoint)));
  return out;
}

void Index::put(std::string_view path, const Entry& entry) {
  nodes_.put(path, entry);
  record(put_record(path, entry));
}

void Index::refresh(std::string_view path, const Entry& entry) { nodes_.put(path, entry); }

void Index::erase(std::string_view path) {
  if (nodes_.find(path) == Nodes::kNone) return;
  nodes_.erase(path);
  record(erase_record(path));
}

void Index::note_rename(std::string_view from, std::string_view to) { record(two_texts(kRename, from, to)); }

void Index::record_ahead(std::string_view payload) {
  append_record(ahead_, payload);
  append_record(ahead_since_take_, payload);
  ++records_;
  // What is pending may be written later, and must not seem to be newer then.
  if (!pending_.empty()) append_record(pending_, payload);
}

void Index::note_sent(std::string_view path, const Entry& sent) {
  auto entry = nodes_.get(path).value_or(sent);
  if (!entry.version.present() || entry.unsure) return;
  entry.unsure = true;
  nodes_.put(path, entry);
  record_ahead(put_record(path, entry));
}

void Index::note_renaming(std::string_view from, std::string_view to) { record_ahead(two_texts(kRenaming, from, to)); }

Result<> Index::write_ahead() {
  if (ahead_.empty()) return {};
  CHECK_OK(write_records(ahead_, false));
  ahead_.clear();
  return {};
}

void Index::split(std::string_view from, std::string_view to) {
  std::vector<std::pair<std::string, std::string>> all;  // a path, and what it is by the other name
  for (const auto& [here, there] : {std::pair(from, to), std::pair(to, from)}) {
    if (nodes_.find(here) != Nodes::kNone) all.emplace_back(here, there);
    for (const auto id : nodes_.below(here)) {
      auto path = nodes_.path(id);
      auto other = std::string(there) + path.substr(here.size());
      all.emplace_back(std::move(path), std::move(other));
    }
  }
  for (const auto& [path, other] : all) {
    auto entry = *nodes_.get(path);
    entry.unsure = true;
    nodes_.put(path, entry);
    entry.ino = 0;
    if (is_safe_path(other) && nodes_.find(other) == Nodes::kNone) nodes_.put(other, entry);
  }
}

void Index::split_rename(std::string_view from, std::string_view to) {
  split(from, to);
  record_ahead(two_texts(kSplit, from, to));
}

// Moves what lies below `from`, and it, where the new place is not known: what is, is newer.
void Index::merge(std::string_view from, std::string_view to) {
  auto all = nodes_.below(from);
  if (const auto top = nodes_.find(from); top != Nodes::kNone) all.insert(all.begin(), top);
  for (auto it = all.rbegin(); it != all.rend(); ++it) {  // a directory last
    const auto path = nodes_.path(*it);
    const auto entry = nodes_.entry(*it);
    nodes_.erase(path);
    const auto moved = std::string(to) + path.substr(from.size());
    if (is_safe_path(moved) && nodes_.find(moved) == Nodes::kNone) nodes_.put(moved, entry);
  }
}

std::optional<Entry> Index::see(std::string_view path, std::uint32_t stamp) {
  const auto id = nodes_.find(path);
  if (id == Nodes::kNone) return std::nullopt;
  nodes_.see(id, stamp);
  return nodes_.entry(id);
}

std::string Index::fact(const std::string& key) const {
  const auto it = facts_.find(key);
  return it == facts_.end() ? std::string() : it->second;
}

void Index::set_fact(const std::string& key, const std::string& value) {
  facts_[key] = value;
  record(two_texts(kFact, key, value));
}

void Index::put_back(std::string records) { pending_.insert(0, records); }

std::string Index::take_records() {
  ahead_since_take_.clear();
  return std::exchange(pending_, {});
}

Result<> Index::write_records(std::string_view records, bool sync) {
  const off_t end = ::lseek(log_.get(), 0, SEEK_END);
  if (auto written = write_fully(log_.get(), records); !written) {
    if (end >= 0 && ::ftruncate(log_.get(), end) != 0) return errno_failure("cannot cut a torn record off", errno);
    return written;
  }
  if (sync && ::fdatasync(log_.get()) != 0) return errno_failure("cannot sync the index", errno);
  return {};
}

}  // namespace midstream::files
