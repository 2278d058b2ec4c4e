// Preconditions of a follow, and what of a target may be taken back.
#pragma once

#include <stop_token>

#include "base/json.h"
#include "movers/files/outgoing.h"
#include "movers/files/tree.h"

namespace midstream::files {

// {"entries", "bytes", "mail": path of a mail store or "", "mounts": [paths], "complete": bool} of a tree; stops
// counting at the deadline.
Result<Json> measure_tree(const std::string& path, const Except& except, Deadline deadline, const std::stop_token& stop);

// {"bytes", "inodes"} free where `path` is or would be.
Result<Json> room_for(const std::string& path);

// The findings about the sending side.
Result<Json> check_source(const FollowSpec& spec, Deadline deadline, const std::stop_token& stop, Json& measured);

// Notes, durably and before the first byte, what was at the target: {"root": "absent" | "empty" | "present",
// "version": ..., "made": topmost directory that will be made}. Keeps an earlier note.
Result<> note_origin(const Tree& tree);

// Takes back what was copied into the target, if note_origin() saw it absent or empty: entries that are still as
// they were applied. Returns {"removed", "kept"}. Idempotent.
Result<Json> remove_copied(Tree& tree);

}  // namespace midstream::files
