#include "movers/files/tree.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/vfs.h>

#include <cerrno>
#include <cstring>

#include "base/text.h"
#include "movers/files/path.h"
#include "sys/clock.h"
#include "sys/file.h"

namespace midstream::files {

namespace {

// Tells the directory that was followed from an empty mount point in its place.
std::string mark_of(const Root& root) {
  struct ::statfs raw{};
  if (::fstatfs(root.fd(), &raw) != 0) return "unknown";
  std::uint64_t fsid = 0;
  static_assert(sizeof raw.f_fsid == sizeof fsid);
  std::memcpy(&fsid, &raw.f_fsid, sizeof fsid);
  return fmt::format("{}:{:x}:{:x}", root.stat().ino, static_cast<std::uint64_t>(raw.f_type), fsid);
}

Result<> copy_all(int from, int to) {
  if (::lseek(from, 0, SEEK_SET) < 0) return errno_failure("cannot rewind a file", errno);
  std::string buffer(256u << 10, '\0');
  while (true) {
    const ssize_t n = ::read(from, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_failure("cannot read what lost a conflict", errno);
    if (n == 0) return {};
    for (ssize_t put = 0; put < n;) {
      const ssize_t m = ::write(to, buffer.data() + put, static_cast<std::size_t>(n - put));
      if (m < 0 && errno == EINTR) continue;
      if (m < 0) return io_failure("cannot keep what lost a conflict", errno);
      put += m;
    }
  }
}

}  // namespace

const Entry* Tree::known(const std::string& wanted) const {
  if (const auto it = sent.find(wanted); it != sent.end()) return &it->second.entry;
  return std::as_const(*index).find(wanted);
}

Result<> open_tree(Tree& tree, bool create) {
  const std::lock_guard lock(tree.mutex);
  if (!tree.index) {
    CHECK_OK(make_directories(tree.state));
    tree.index = TRY(Index::open(tree.state / "index"));
    CHECK_OK(write_index(tree));
  }
  if (tree.root) return {};
  if (create && tree.index->fact("root").empty()) CHECK_OK(make_directories(tree.path, 0755));
  auto root = TRY(Root::open(tree.path));
  const auto mark = mark_of(root);
  const auto before = tree.index->fact("root");
  if (!before.empty() && before != mark && !tree.index->entries().empty()) {
    return refused(fmt::format("{} is not the directory that was followed before", tree.path.string()),
                   "a mount may be missing; nothing is deleted on the other host meanwhile");
  }
  if (before != mark) {
    tree.index->set_fact("root", mark);
    CHECK_OK(write_index(tree));
  }
  CHECK_OK(root.hidden());
  tree.root = std::make_unique<Root>(std::move(root));
  return {};
}

Result<> write_index(Tree& tree) {
  if (tree.received_unsynced) return {};
  auto records = tree.index->take_records();
  if (records.empty()) return {};
  if (auto written = tree.index->write_records(records, false); !written) {
    tree.index->put_back(std::move(records));
    return written;
  }
  return {};
}

Result<> keep_loser(Tree& tree, std::string_view path, int fd, std::string_view bytes) {
  const auto folder = tree.state / "conflicts";
  CHECK_OK(make_directories(folder));
  auto leaf = printable(leaf_of(path));
  if (leaf.size() > 100) leaf.resize(100);
  const auto file = folder / fmt::format("{}-{}-{}", wall_now_ms(), tree.conflict_number, leaf);
  const Fd out(::open(file.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!out) return io_failure(fmt::format("cannot make {}", file.string()), errno);
  auto kept = [&]() -> Result<> {
    if (fd >= 0) return copy_all(fd, out.get());
    if (::write(out.get(), bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) {
      return io_failure("cannot keep what lost a conflict", errno);
    }
    return {};
  }();
  if (kept && ::fsync(out.get()) != 0) kept = io_failure("cannot keep what lost a conflict", errno);
  if (!kept) {
    ::unlink(file.c_str());
    return kept;
  }
  ++tree.conflict_number;
  ++tree.conflicts;
  return {};
}

}  // namespace midstream::files
