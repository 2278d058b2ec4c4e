// Files of a Postfix queue, told apart and named. See "queue" in Postfix's OVERVIEW and its mail_queue(3).
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace midstream::mail {

// [0-9A-Za-z], 6 to 60 characters: anything else is no queue file.
bool is_queue_id(std::string_view id);
// Whether an id is of the long kind, which repeats on no other machine: 'z' between time and inode, no such letter in hex.
bool is_long_queue_id(std::string_view id);
// The short id that Postfix itself would give a file with this inode at this microsecond.
std::string short_queue_id(std::uint32_t usec, ino_t inode);
// The subdirectories ("A/") into which `id` is hashed at `depth`; "" at 0.
std::string hashed(std::string_view id, int depth);

struct QueueFile {
  std::string queue;  // incoming, active, deferred, hold; or defer, bounce, trace: what goes with a message
  std::string id;
  std::filesystem::path path;
};

// Whether files of this queue are logs that go with a message.
bool is_log(std::string_view queue);

// Every complete message in these queues ("hold", "incoming" ...), each after what goes with it. One that is still being
// received (not executable by its owner) was not acknowledged to anybody and is left out.
Result<std::vector<QueueFile>> list_queues(const std::filesystem::path& queue_directory,
                                           const std::vector<std::string>& queues);

}  // namespace midstream::mail
