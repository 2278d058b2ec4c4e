// What a path holds, as both hosts compare it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace midstream::files {

enum class EntryType : std::uint8_t { none = 0, file, directory, symlink, fifo, character, block };
inline constexpr std::uint8_t kLastEntryType = 6;

// Everything of an entry that travels, the bulk by its hash. Equal versions on both hosts are equal entries.
// Owner and group are numbers: both hosts must give them the same meaning, which `check` of the hosts sees to.
struct Version {
  EntryType type = EntryType::none;  // none: there is nothing
  std::uint16_t mode = 0;            // permission bits with setuid, setgid and sticky; 0 for symlinks
  std::uint32_t uid = 0;
  std::uint32_t gid = 0;
  std::int64_t mtime_ns = 0;
  std::uint64_t size = 0;    // of files; 0 for everything else
  std::uint64_t rdev = 0;    // of devices
  std::uint64_t hash = 0;    // XXH3 of a file's content or a symlink's target
  std::uint64_t xattrs = 0;  // XXH3 of the extended attributes, 0 where there are none
  bool operator==(const Version&) const = default;
  bool present() const { return type != EntryType::none; }
};

// A short name of a version for "what I knew before": never 0 but for a version that is none.
std::uint64_t digest(const Version& version);

// The rule for two versions neither of which knew the other: the later mtime wins, then the larger, then an
// arbitrary but equal choice on both hosts. A file cut short by a power cut thus loses to the whole one.
bool wins_over(const Version& a, const Version& b);

using Xattrs = std::vector<std::pair<std::string, std::string>>;  // ordered by name
std::uint64_t hash_xattrs(const Xattrs& xattrs);
std::uint64_t hash_bytes(std::string_view bytes);

}  // namespace midstream::files
