// A held tree: every operation starts at its root directory and follows no symbolic link and no mount on the way
// (openat2), so that nobody who may write in the tree can lead us out of it. Metadata is set on the held inode.
// Thread-safe: no state but the descriptors.
#pragma once

#include <sys/stat.h>

#include <atomic>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "movers/files/version.h"
#include "sys/fd.h"

namespace midstream::files {

// What the file system says of one entry.
struct Stat {
  EntryType type = EntryType::none;  // none also for sockets, which do not move: see `socket`
  bool socket = false;
  std::uint16_t mode = 0;
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::uint32_t nlink = 0;
  std::uint64_t ino = 0;
  std::uint64_t dev = 0;
  std::uint64_t rdev = 0;
  std::uint64_t size = 0;
  std::int64_t mtime_ns = 0;
  std::int64_t ctime_ns = 0;
  bool operator==(const Stat&) const = default;
};
Stat to_stat(const struct ::stat& raw);
// The part of a version that a stat gives; hash and xattrs are 0.
Version version_of(const Stat& stat);

// A directory that is held, and a name in it.
struct Place {
  std::shared_ptr<Fd> directory;
  std::string leaf;
  int fd() const { return directory->get(); }
};

// A file's content and attributes as read at one moment.
struct Loaded {
  Version version;
  Xattrs xattrs;
  std::string content;  // of a file if asked for, or a symlink's target
  bool steady = true;   // false: it changed while it was read
  Stat stat;            // after the reading
};

class Root {
 public:
  // Holds `path`, which must be a directory and not a symlink. retry where it is not there.
  static Result<Root> open(const std::filesystem::path& path);

  int fd() const { return fd_->get(); }
  const Stat& stat() const { return stat_; }
  // The hidden directory, made where missing; the root's mtime stays as it was. Left-overs in it are removed
  // when it is opened for the first time, but for what was taken out of its place: rescue() in tree.h.
  Result<int> hidden();
  Result<> remove_hidden();

  // The directory `path` itself. Errors keep errno's meaning; `gone` tells "no such directory" apart.
  Result<Place> directory(std::string_view path, bool* gone = nullptr) const;
  // The directory above `path` and its last component.
  Result<Place> place(std::string_view path, bool* gone = nullptr) const;
  // nullopt: nothing is there (or what is above it is no directory).
  Result<std::optional<Stat>> look(std::string_view path) const;

  // A fresh name in the hidden directory.
  std::string temporary_name();

 private:
  std::shared_ptr<Fd> fd_;
  std::shared_ptr<Fd> hidden_;
  Stat stat_;
  std::shared_ptr<std::atomic<std::uint64_t>> next_;
};

// nullopt where the name is not there.
Result<std::optional<Stat>> look_at(int directory, const char* leaf);

// Opens the regular file or directory `leaf` for reading without touching its atime; the descriptor is certain to
// be of `expected`'s inode (retry otherwise). `opened`: as it is now.
Result<Fd> open_entry(int directory, const char* leaf, const Stat& expected, Stat* opened = nullptr);

// The entry's version. Content of files up to `keep_limit` is kept, of larger ones only hashed; `hash` false
// leaves files unread (hash 0). Directories and specials have attributes only.
Result<Loaded> load(const Place& place, const Stat& stat, std::size_t keep_limit, bool hash,
                    const std::stop_token& stop = {});

// How many of the `most` bytes from `from` on lie before the next hole: never 0, that there is data is known.
std::size_t until_hole(int fd, std::uint64_t from, std::size_t most);
// The same of an open file or directory whose `out.stat` is its stat since it was opened.
Result<> load_open(int fd, std::size_t keep_limit, bool hash, Loaded& out, const std::stop_token& stop = {});
// Opens `leaf` for reading without touching its atime, if it is a regular file and that can be; none otherwise.
Fd open_file(int directory, const char* leaf, Stat& opened);

Result<Xattrs> read_xattrs(int fd);
// Makes the attributes those given; others of the kinds that move are removed.
Result<> write_xattrs(int fd, const Xattrs& xattrs);
// Owner, mode, attributes, times, in the order in which none undoes another. `ours_alone`: nobody else can reach the inode
// yet, and what of it is right already is left.
Result<> set_metadata(int fd, const Version& version, const Xattrs& xattrs, bool ours_alone = false);
Result<> set_time(int fd, std::int64_t mtime_ns);

// Reads the names in a directory, "." and ".." left out.
Result<std::vector<std::string>> list_names(int directory);
struct Name {
  std::string name;
  bool file = false;  // a regular file, when it was read; false also where that is not known
};
Result<std::vector<Name>> list_directory(int directory);

// An errno that says that a path is not there as a path of plain directories.
bool means_gone(int code);
// Errors that pass when an operator makes room or mends the disk: nothing may be dropped meanwhile.
bool means_stall(int code);
// errno_failure for writes in the tree: retry if and only if means_stall(code), else refused.
std::unexpected<Error> io_failure(std::string what, int code);

}  // namespace midstream::files
