#include "movers/postgres/seed_place.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>

#include "movers/postgres/as_user.h"
#include "sys/fd.h"
#include "sys/file.h"

namespace midstream::postgres {

namespace {

namespace fs = std::filesystem;

constexpr const char* kMark = "midstream.seed";

// PostgreSQL's own in a data directory, versions 14 to 17; the rest is the host's.
constexpr std::array<std::string_view, 27> kOwn{
    "PG_VERSION",   "base",         "global",       "pg_commit_ts",  "pg_dynshmem",      "pg_logical",          "pg_multixact",
    "pg_notify",    "pg_replslot",  "pg_serial",    "pg_snapshots",  "pg_stat",          "pg_stat_tmp",         "pg_subtrans",
    "pg_tblspc",    "pg_twophase",  "pg_wal",       "pg_xact",       "backup_label",     "backup_label.old",    "tablespace_map",
    "standby.signal", "recovery.signal", "postmaster.pid", "postmaster.opts", "current_logfiles", kMark};

bool is_own(const fs::path& name) { return std::ranges::find(kOwn, name.native()) != kOwn.end(); }

bool there(const fs::path& path) {
  std::error_code ignored;
  return fs::symlink_status(path, ignored).type() != fs::file_type::not_found;
}

// Everything that the file system of `directory` has taken is on disk.
Result<> sync_all(const fs::path& directory) {
  const Fd fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::syncfs(fd.get()) != 0) return errno_failure(fmt::format("cannot sync {}", directory.native()), errno);
  return {};
}

Result<> change(const fs::path& from, const fs::path& to, unsigned how) {
  if (::syscall(SYS_renameat2, AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), how) != 0)
    return errno_failure(fmt::format("cannot {} {} and {}", how == RENAME_EXCHANGE ? "exchange" : "rename", from.native(), to.native()), errno);
  return sync_all(to.parent_path());
}

Result<> remove_tree(const fs::path& path) {
  std::error_code error;
  fs::remove_all(path, error);
  if (error) return errno_failure(fmt::format("cannot remove {}", path.native()), error.value());
  return {};
}

// The host's files of `to` are those of `from`.
Result<> copy_host_files(const fs::path& from, const fs::path& to) {
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(to, error))
    if (!is_own(entry.path().filename())) CHECK_OK(remove_tree(entry.path()));
  for (const auto& entry : fs::directory_iterator(from, error)) {
    const auto kind = entry.symlink_status().type();
    const bool carried = kind == fs::file_type::regular || kind == fs::file_type::directory || kind == fs::file_type::symlink;
    if (is_own(entry.path().filename()) || !carried) continue;
    fs::copy(entry.path(), to / entry.path().filename(), fs::copy_options::recursive | fs::copy_options::copy_symlinks, error);
    if (error) return errno_failure(fmt::format("cannot copy {} to {}", entry.path().native(), to.native()), error.value());
  }
  if (error) return errno_failure(fmt::format("cannot read {}", from.native()), error.value());
  return {};
}

}  // namespace

SeedPlace seed_place(const std::string& os_user, const fs::path& data, const fs::path& box, const std::string& move) {
  auto before = data;
  before += ".before-" + move;
  return {os_user, data, box, before};
}

bool is_cluster(const fs::path& directory) { return there(directory / "PG_VERSION"); }
bool is_copy(const fs::path& directory) { return there(directory / kMark); }

Result<> mark_copy(const SeedPlace& place, const std::string& move) {
  const auto as = TRY(AsUser::enter(place.os_user));
  return write_file_durably(place.cluster() / kMark, fmt::format("made by midstream for move {}: a copy of old's cluster\n", move));
}

Result<> unmark_copy(const SeedPlace& place) {
  const auto as = TRY(AsUser::enter(place.os_user));
  return remove_file_durably(place.data / kMark);
}

Result<> settle_files(const SeedPlace& place) {
  if (!is_copy(place.cluster()) || is_copy(place.data))
    return corrupt(fmt::format("{} is not the copy that shall take the place of {}", place.cluster().native(), place.data.native()));
  const auto as = TRY(AsUser::enter(place.os_user));
  CHECK_OK(copy_host_files(place.data, place.cluster()));
  return sync_all(place.box);
}

Result<> swap_in(const SeedPlace& place) {
  const auto as = TRY(AsUser::enter(place.os_user));
  if (!is_copy(place.data)) {
    if (!is_copy(place.cluster())) return corrupt(fmt::format("there is no copy in {}", place.cluster().native()));
    if (there(place.before))
      return refused(fmt::format("{} is there already", place.before.native()), "rename it: the cluster that is there now shall be kept under that name");
    CHECK_OK(change(place.cluster(), place.data, RENAME_EXCHANGE));
  }
  if (is_cluster(place.cluster()) && !is_copy(place.cluster())) CHECK_OK(change(place.cluster(), place.before, RENAME_NOREPLACE));
  return {};
}

Result<> swap_back(const SeedPlace& place) {
  const auto as = TRY(AsUser::enter(place.os_user));
  if (is_copy(place.data)) {
    // An exchange that was cut off left it in the box.
    const auto& kept = is_cluster(place.before) ? place.before : place.cluster();
    if (!is_cluster(kept) || is_copy(kept))
      return refused(fmt::format("the cluster that was in {} is not in {} any more", place.data.native(), place.before.native()),
                     "put it back there");
    CHECK_OK(change(kept, place.data, RENAME_EXCHANGE));
  }
  if (is_copy(place.before) && !there(place.cluster())) CHECK_OK(change(place.before, place.cluster(), RENAME_NOREPLACE));
  return {};
}

Result<> remove_copy(const SeedPlace& place) {
  const auto as = TRY(AsUser::enter(place.os_user));
  if (is_copy(place.data) && !is_copy(place.cluster()) && there(place.cluster()))
    return corrupt(fmt::format("{} holds the cluster that was in {}", place.cluster().native(), place.data.native()));
  // The mark goes last: what is left of a removal that was cut off is still known for ours.
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(place.cluster(), error))
    if (entry.path().filename() != kMark) CHECK_OK(remove_tree(entry.path()));
  return remove_tree(place.cluster());
}

}  // namespace midstream::postgres
