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
enum Kind : std::uint8_t { kPut = 1, kErase = 2, kFact = 3, kCheckpoint = 4 };

std::string put_record(std::string_view path, const Entry& entry) {
  std::string out;
  Writer writer(out);
  writer.u8(kPut);
  writer.text(path);
  writer.version(entry.version);
  writer.u64(entry.ino);
  writer.u64(static_cast<std::uint64_t>(entry.ctime_ns));
  writer.u8(static_cast<std::uint8_t>((entry.from_peer ? 1 : 0) | (entry.racy ? 2 : 0) | (entry.linked ? 4 : 0)));
  return out;
}

std::string erase_record(std::string_view path) {
  std::string out;
  Writer writer(out);
  writer.u8(kErase);
  writer.text(path);
  return out;
}

std::string fact_record(std::string_view key, std::string_view value) {
  std::string out;
  Writer writer(out);
  writer.u8(kFact);
  writer.text(key);
  writer.text(value);
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

bool Entry::matches(const Stat& stat) const {
  if (racy || version.type != stat.type || ino != stat.ino || version.mtime_ns != stat.mtime_ns) return false;
  return ctime_ns == stat.ctime_ns && version.size == stat.size;
}

Entry make_entry(const Version& version, const Stat& stat, bool from_peer) {
  Entry entry;
  entry.version = version;
  entry.ino = stat.ino;
  entry.ctime_ns = stat.ctime_ns;
  entry.from_peer = from_peer;
  entry.linked = stat.nlink > 1 && stat.type == EntryType::file;
  return entry;
}

Result<std::unique_ptr<Index>> Index::open(const std::filesystem::path& file) {
  auto index = std::make_unique<Index>();
  index->file_ = file;
  index->log_ = Fd(::open(file.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  if (!index->log_) return errno_failure(fmt::format("cannot open the index {}", file.string()), errno);
  const auto log = TRY(midstream::read_file(file, std::size_t{8} << 30));
  std::size_t good = 0;
  CHECK_OK(index->replay(log, good));
  if (good < log.size() && ::ftruncate(index->log_.get(), static_cast<off_t>(good)) != 0) {
    return errno_failure(fmt::format("cannot cut the torn end off {}", file.string()), errno);
  }
  if (index->fact("incarnation").empty()) {
    std::uint64_t number = 0;
    if (::getrandom(&number, sizeof number, 0) != sizeof number) return errno_failure("no random numbers", errno);
    index->set_fact("incarnation", std::to_string(number | 1));
  }
  index->since_checkpoint_ = index->unproven_.size();
  if (good == 0 || index->records_ > 2 * index->entries_.size() + 1000) CHECK_OK(index->compact());
  return index;
}

Result<> Index::replay(std::string_view log, std::size_t& good) {
  good = 0;
  if (!log.starts_with(kMagic)) return {};
  auto left = log.substr(kMagic.size());
  while (true) {
    good = log.size() - left.size();
    Reader head(left);
    const auto size = head.u32();
    const auto sum = head.u64();
    if (!size || !sum || *size > kMaxRecord || *size > head.left()) break;
    const auto payload = left.substr(12, *size);
    if (hash_bytes(payload) != *sum || !apply_record(payload)) break;
    left.remove_prefix(12 + *size);
    ++records_;
  }
  return {};
}

Result<> Index::apply_record(std::string_view payload) {
  Reader in(payload);
  const auto kind = TRY(in.u8());
  if (kind == kCheckpoint) {
    unproven_.clear();
    return {};
  }
  const std::string path(TRY(in.text(kMaxPath)));
  if (kind == kPut || kind == kErase) unproven_.insert(path);
  if (kind == kErase) {
    if (const auto it = entries_.find(path); it != entries_.end()) {
      unlink(it->second, path);
      entries_.erase(it);
    }
    return {};
  }
  if (kind == kFact) {
    facts_[path] = TRY(in.text(kMaxPath));
    return {};
  }
  if (kind != kPut) return corrupt("unknown record in an index");
  Entry entry;
  entry.version = TRY(in.version());
  entry.ino = TRY(in.u64());
  entry.ctime_ns = static_cast<std::int64_t>(TRY(in.u64()));
  const auto flags = TRY(in.u8());
  entry.from_peer = flags & 1;
  entry.racy = flags & 2;
  entry.linked = flags & 4;
  if (const auto it = entries_.find(path); it != entries_.end()) unlink(it->second, path);
  if (entry.linked) link(entry.ino, path);
  entries_[path] = entry;
  return {};
}

Result<> Index::compact() {
  const auto next = file_.string() + ".next";
  Fd fd(::open(next.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600));
  if (!fd) return errno_failure(fmt::format("cannot write {}", next), errno);
  std::string out(kMagic);
  for (const auto& [key, value] : facts_) append_record(out, fact_record(key, value));
  for (const auto& [path, entry] : entries_) {
    if (unproven(path)) continue;
    append_record(out, put_record(path, entry));
    if (out.size() < (1u << 20)) continue;
    CHECK_OK(write_fully(fd.get(), out));
    out.clear();
  }
  out += checkpoint_record();
  for (const auto& path : unproven_) {
    const auto* entry = std::as_const(*this).find(path);
    append_record(out, entry ? put_record(path, *entry) : erase_record(path));
  }
  CHECK_OK(write_fully(fd.get(), out));
  if (::fdatasync(fd.get()) != 0) return errno_failure(fmt::format("cannot sync {}", next), errno);
  if (::rename(next.c_str(), file_.c_str()) != 0)
    return errno_failure(fmt::format("cannot replace {}", file_.string()), errno);
  const Fd parent(::open(file_.parent_path().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!parent || ::fsync(parent.get()) != 0) return errno_failure("cannot sync the index's directory", errno);
  log_ = std::move(fd);
  records_ = entries_.size() + unproven_.size();
  pending_.clear();
  return {};
}

const Entry* Index::find(std::string_view path) const {
  const auto it = entries_.find(path);
  return it == entries_.end() ? nullptr : &it->second;
}

Entry* Index::find(std::string_view path) {
  const auto it = entries_.find(path);
  return it == entries_.end() ? nullptr : &it->second;
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
  const auto it = entries_.find(path);
  if (it != entries_.end()) {
    unlink(it->second, path);
    it->second = entry;
  } else {
    entries_.emplace(path, entry);
  }
  if (entry.linked) link(entry.ino, path);
  record(put_record(path, entry));
}

void Index::erase(std::string_view path) {
  const auto it = entries_.find(path);
  if (it == entries_.end()) return;
  unlink(it->second, path);
  entries_.erase(it);
  record(erase_record(path));
}

void Index::link(std::uint64_t ino, std::string_view path) { links_.emplace(ino, path); }

void Index::unlink(const Entry& entry, std::string_view path) {
  if (!entry.linked) return;
  auto [first, last] = links_.equal_range(entry.ino);
  for (; first != last; ++first) {
    if (first->second == path) {
      links_.erase(first);
      return;
    }
  }
}

std::pair<Index::Map::const_iterator, Index::Map::const_iterator> Index::below(std::string_view path) const {
  if (path == ".") return {entries_.begin(), entries_.end()};
  const std::string first = std::string(path) + '/';
  const std::string last = std::string(path) + static_cast<char>('/' + 1);
  return {entries_.lower_bound(first), entries_.lower_bound(last)};
}

std::vector<std::string> Index::names_of(std::uint64_t ino) const {
  std::vector<std::string> out;
  auto [first, last] = links_.equal_range(ino);
  for (; first != last; ++first) out.push_back(first->second);
  return out;
}

std::string Index::fact(const std::string& key) const {
  const auto it = facts_.find(key);
  return it == facts_.end() ? std::string() : it->second;
}

void Index::set_fact(const std::string& key, const std::string& value) {
  facts_[key] = value;
  record(fact_record(key, value));
}

void Index::put_back(std::string records) { pending_.insert(0, records); }

std::string Index::take_records() { return std::exchange(pending_, {}); }

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
