#include "movers/files/tree.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/text.h"
#include "movers/files/path.h"
#include "sys/clock.h"
#include "sys/file.h"

namespace midstream::files {

namespace {

// Tells the directory that was followed from an empty mount point in its place.
std::string mark_of(const Root& root) {
  struct ::statfs raw {};
  if (::fstatfs(root.fd(), &raw) != 0) return "unknown";
  std::uint64_t fsid = 0;
  static_assert(sizeof raw.f_fsid == sizeof fsid);
  std::memcpy(&fsid, &raw.f_fsid, sizeof fsid);
  return fmt::format("{}:{:x}:{:x}", root.stat().ino, static_cast<std::uint64_t>(raw.f_type), fsid);
}

Result<> write_fully(int to, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(to, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_failure("cannot keep what lost a conflict", errno);
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

Result<> copy_all(int from, int to) {
  if (::lseek(from, 0, SEEK_SET) < 0) return errno_failure("cannot rewind a file", errno);
  std::string buffer(256u << 10, '\0');
  while (true) {
    const ssize_t n = ::read(from, buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_failure("cannot read what lost a conflict", errno);
    if (n == 0) return {};
    CHECK_OK(write_fully(to, std::string_view(buffer.data(), static_cast<std::size_t>(n))));
  }
}

constexpr std::size_t kShown = 20;  // of what lost conflicts

void remember(Tree& tree, Kept kept) {
  ++tree.conflicts;
  tree.kept.push_back(std::move(kept));
  if (tree.kept.size() > kShown) tree.kept.pop_front();
}

// conflicts/list: one JSON line for each, with the path in hex, for it may be no text; after a torn line a new one begins.
Result<> list_kept(const Tree& tree, const Kept& kept) {
  const auto folder = tree.state / "conflicts";
  const Fd list(::open((folder / "list").c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
  const Fd held(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!list || !held) return io_failure("cannot list what lost a conflict", errno);
  const auto line =
      "\n" +
      Json{{"path", printable(kept.path)}, {"hex", to_hex(kept.path)}, {"file", kept.file}, {"wall_ms", kept.wall_ms}}
          .dump() +
      "\n";
  CHECK_OK(write_fully(list.get(), line));
  if (::fdatasync(list.get()) != 0 || ::fsync(held.get()) != 0)
    return io_failure("cannot list what lost a conflict", errno);
  return {};
}

// A line torn by a crash speaks of a loser whose place is still its own, or was copied again.
Result<> read_conflicts(Tree& tree) {
  const auto list = tree.state / "conflicts/list";
  std::error_code ignored;
  if (!std::filesystem::exists(list, ignored)) return {};
  for (const auto& line : split(TRY(read_file(list)), '\n')) {
    const auto row = parse_json(line, 4);
    if (!row) continue;
    const auto path = from_hex(get_string_or(*row, "hex", ""));
    if (!path) continue;
    remember(tree, Kept{*path, get_string_or(*row, "file", ""), get_int_or(*row, "wall_ms", 0)});
  }
  return {};
}

}  // namespace

Result<HostRun> host_run() {
  const auto stat = TRY(read_file("/proc/1/stat", 4096));
  const auto after_name = stat.rfind(')');  // the name may hold anything
  const auto fields = split(stat.substr(after_name == stat.npos ? 0 : after_name), ' ');
  constexpr std::size_t kStart = 20;  // field 22 of proc(5), counted from the name
  const long ticks = ::sysconf(_SC_CLK_TCK);
  if (fields.size() <= kStart || ticks <= 0) return corrupt("/proc/1/stat is not as proc(5) has it");
  const auto start = std::strtoull(fields[kStart].c_str(), nullptr, 10);
  const auto since_boot_ns = static_cast<std::int64_t>(start) * (1'000'000'000 / ticks);
  return HostRun{fmt::format("{}:{}", boot_id(), start),
                 wall_now_ms() * 1'000'000 - boot_now().count() + since_boot_ns};
}

std::vector<std::string> Tree::known_below(std::string_view top) const {
  std::vector<std::string> out;
  for (const auto id : index->nodes().below(top)) out.push_back(index->nodes().path(id));
  for (auto it = top == "." ? sent.begin() : sent.upper_bound(top); it != sent.end(); ++it) {
    if (it->second.entry.version.present() && is_below(it->first, top)) out.push_back(it->first);
    if (top != "." && !it->first.starts_with(top)) break;
  }
  std::erase(out, ".");
  return out;
}

std::optional<Entry> Tree::known(std::string_view wanted) const {
  if (const auto it = sent.find(wanted); it != sent.end()) return it->second.entry;
  return index->find(wanted);
}

Result<> open_tree(Tree& tree, bool create) {
  const std::lock_guard lock(tree.mutex);
  if (!tree.index) {
    CHECK_OK(make_directories(tree.state));
    tree.index = TRY(Index::open(tree.state / "index"));
    CHECK_OK(read_conflicts(tree));
    const auto run = tree.index->fact("boot");
    if (run.empty()) tree.index->set_fact("boot", tree.run.name);
    tree.distrusted = !run.empty() && run != tree.run.name;
    CHECK_OK(tree.index->write_records(tree.index->take_records(), true));
  }
  if (tree.root) return {};
  if (create && tree.index->fact("root").empty()) CHECK_OK(make_directories(tree.path, 0755));
  auto root = TRY(Root::open(tree.path));
  const auto mark = mark_of(root);
  const auto before = tree.index->fact("root");
  if (!before.empty() && before != mark && tree.index->size() > 0) {
    return refused(fmt::format("{} is not the directory that was followed before", tree.path.string()),
                   "a mount may be missing; nothing is deleted on the other host meanwhile");
  }
  if (before != mark) {
    tree.index->set_fact("root", mark);
    CHECK_OK(write_index(tree));
  }
  CHECK_OK(root.hidden());
  tree.root = std::make_unique<Root>(std::move(root));
  auto rescued = rescue(tree);
  if (!rescued) tree.root.reset();
  return rescued;
}

Result<> write_index(Tree& tree) {
  if (tree.received_unsynced || tree.syncing) return {};
  auto records = tree.index->take_records();
  if (records.empty()) return {};
  if (auto written = tree.index->write_records(records, false); !written) {
    tree.index->put_back(std::move(records));
    return written;
  }
  return {};
}

Result<> checkpoint(Tree& tree, const std::function<void()>& begun) {
  const std::lock_guard one(tree.checkpoint_mutex);
  std::string records;
  std::size_t changes = 0;
  int root = -1;
  {
    const std::lock_guard lock(tree.mutex);
    if (!tree.root) return retry(fmt::format("{} is not there", tree.path.string()));
    if (begun) begun();
    records = tree.index->take_records();
    changes = tree.index->since_checkpoint();
    tree.received_unsynced = false;
    tree.syncing = true;
    root = ::fcntl(tree.root->fd(), F_DUPFD_CLOEXEC, 0);
  }
  const Fd held(root);
  const int code = held && ::syncfs(held.get()) == 0 ? 0 : errno;
  const std::lock_guard lock(tree.mutex);
  tree.syncing = false;
  Result<> done;
  if (code != 0) done = errno_failure("syncing the file system failed", code);
  if (done && !tree.distrusted) records += Index::checkpoint_record();
  records += tree.index->ahead_since_take();
  if (done) done = tree.index->write_records(records, true);
  if (!done) {
    tree.index->put_back(std::move(records));
    tree.received_unsynced = true;
    return done;
  }
  if (!tree.distrusted) tree.index->checkpointed(changes);
  return {};
}

void trust(Tree& tree) {
  tree.distrusted = false;
  tree.index->set_fact("boot", tree.run.name);
}

Result<> keep_loser(Tree& tree, std::string_view path, int fd, std::string_view bytes) {
  const auto folder = tree.state / "conflicts";
  CHECK_OK(make_directories(folder));
  auto leaf = printable(leaf_of(path));
  if (leaf.size() > 100) leaf.resize(100);
  Kept kept{std::string(path), {}, wall_now_ms()};
  Fd out;
  for (int n = 0; !out; ++n) {
    kept.file = fmt::format("conflicts/{}-{}-{}", kept.wall_ms, n, leaf);
    out = Fd(::open((tree.state / kept.file).c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    if (!out && errno != EEXIST) return io_failure(fmt::format("cannot make {}", kept.file), errno);
  }
  auto done = fd >= 0 ? copy_all(fd, out.get()) : write_fully(out.get(), bytes);
  if (done && ::fsync(out.get()) != 0) done = io_failure("cannot keep what lost a conflict", errno);
  if (done) done = list_kept(tree, kept);  // and with it its name is durable
  if (!done) {
    ::unlink((tree.state / kept.file).c_str());
    return done;
  }
  tree.passes("kept");
  remember(tree, std::move(kept));
  return {};
}

Json conflicts_json(const Tree& tree) {
  Json latest = Json::array();
  for (const auto& kept : tree.kept) {
    latest.push_back({{"path", printable(kept.path)}, {"file", kept.file}, {"wall_ms", kept.wall_ms}});
  }
  return {
      {"count", tree.conflicts.load()}, {"folder", (tree.state / "conflicts").string()}, {"latest", std::move(latest)}};
}

}  // namespace midstream::files
