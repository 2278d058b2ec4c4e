// The files that a host is provided with before its first boot.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace midstream::lab {

// Accounts of the lab's hosts; /etc/passwd is generated from these.
inline constexpr uid_t kRoot = 0;
inline constexpr uid_t kPostgres = 110;
inline constexpr uid_t kBind = 111;
inline constexpr uid_t kHaproxy = 112;
inline constexpr uid_t kSshd = 113;
inline constexpr uid_t kDovecot = 114;
inline constexpr uid_t kDovenull = 115;
inline constexpr uid_t kPostfix = 116;
inline constexpr uid_t kShop = 2001;
inline constexpr uid_t kStaff = 2002;
inline constexpr uid_t kVmail = 5000;

struct FileEntry {
  enum class Kind { file, directory, symlink };
  Kind kind = Kind::file;
  std::string path;     // absolute in the host; parents are made as 0755 root
  std::string content;  // or the symlink's target
  unsigned mode = 0644;
  uid_t owner = kRoot;
  gid_t group = kRoot;
  std::int64_t mtime_ns = 0;  // 0: now
};

class FileSet {
 public:
  void file(std::string path, std::string content, unsigned mode = 0644, uid_t owner = kRoot);
  void directory(std::string path, unsigned mode = 0755, uid_t owner = kRoot);
  void symlink(std::string path, std::string target);
  // A supervised service: `command` is the last line of a shell script, and is exec'ed. `setup` is run before it.
  void service(const std::string& name, const std::string& command, const std::string& setup = "");
  void add(FileEntry entry) { entries_.push_back(std::move(entry)); }
  const std::vector<FileEntry>& entries() const { return entries_; }

 private:
  std::vector<FileEntry> entries_;
};

// Writes the entries below `root`, in their order, and makes them durable. Existing files are replaced.
Result<> write_files(const std::string& root, const FileSet& files);

}  // namespace midstream::lab
