// A tree that nobody may change any more: every file and directory of it immutable (chattr +i), durable over reboots, root
// included until somebody takes the flags off again (chattr -R -i).
#pragma once

#include <filesystem>
#include <stop_token>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "sys/clock.h"

namespace midstream {

// Below `path` on its own file system. What matches one of `except` (a name or a path below the tree, shell patterns, a
// final slash for directories alone) stays as it is. Idempotent; the tree's own directory comes last, so that it tells
// whether all is done. Returns {"sealed": entries}.
Result<Json> seal_tree(const std::filesystem::path& path, const std::vector<std::string>& except, Deadline deadline,
                       const std::stop_token& stop);
// Whether that has come to its end. Refused where the file system knows no such flag.
Result<bool> is_sealed(const std::filesystem::path& path);

}  // namespace midstream
