// How large a host is, what old uses of what moves, and whether new is large enough for it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "sys/clock.h"

namespace midstream {

struct Room {
  std::string at;  // the path that was asked about
  std::uint64_t device = 0;
  std::uint64_t bytes = 0;  // free, for users that are not root
  std::uint64_t inodes = 0;
};

struct HostSize {
  std::uint64_t memory = 0;  // bytes
  std::int64_t cpus = 0;     // online
  std::vector<Room> rooms;   // one a file system that holds data
};
Result<HostSize> size_of_host();

// What a path takes on old.
struct Use {
  std::string what;  // "/srv/shop", "PostgreSQL on port 5432"
  std::uint64_t bytes = 0;
  std::uint64_t inodes = 0;
  bool bound = false;  // it could not be counted in time: all that its file system has in use
};
// Allocated bytes and entries below `path`, hard links once; not across file systems.
Result<Use> use_of(const std::string& what, const std::string& path, Deadline deadline);
// The file system on which `path` is, or will be once it is made.
Result<Room> room_at(const std::string& path);

struct Wish {  // 0: not asked
  std::uint64_t memory = 0, disk = 0, inodes = 0;
  std::int64_t cpus = 0;
  double grow = 0;  // times old's memory and processors, and room for the uses
};
struct Landing {
  Use use;
  Room room;  // on new
};

// Findings, each with its sum. `old_side` counts where `wish.grow` is set. Pure.
Json judge_size(const Wish& wish, const HostSize& host, const HostSize& old_side, const std::vector<Landing>& landings);
// "1.5 GiB". Pure.
std::string human_bytes(std::uint64_t bytes);

}  // namespace midstream
