// The process that holds a slot's exported snapshot. A snapshot lives as long as the connection that made it stays open and
// idle, and a copy must outlive the agent that runs it: so the connection is kept by a process of its own
// (`midstream-agent hold-snapshot`), which the agent starts and does not wait for.
//
// It keeps old from removing dead rows, so it has a dead-man timer: it ends when the file that tells of it is gone, when
// nobody has touched that file for `lease`, or when old has closed the connection.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "movers/postgres/libpq.h"

namespace midstream::postgres {

// Options of a session to another host: that host ends it within half a minute of ours being gone. By itself it would wait
// for two hours, with the snapshot held.
inline constexpr const char* kNoticedGone =
    "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 ";

struct Snapshot {
  std::string name;   // as SET TRANSACTION SNAPSHOT takes it
  std::string point;  // the slot's consistent point: everything after it comes by the slot
};

struct SnapshotOrder {
  Session::Target source;           // role with REPLICATION in the database at the other side
  std::string slot;                 // made anew: what there was under that name is dropped
  Millis patience{30'000};          // for transactions that have written and are still open
  Millis lease{600'000};
  std::filesystem::path file;       // where it tells of itself; beside it FILE.lock, held as long as it lives
};

// Starts `program` with the order on its stdin, and waits until the snapshot is there. What was held under that file
// before is let go first.
Result<Snapshot> start_snapshot_holder(const std::vector<std::string>& program, const SnapshotOrder& order,
                                       Deadline deadline, const std::stop_token& stop);
// The one that is held under `file`, if its process lives; touches the file.
Result<std::optional<Snapshot>> held_snapshot(const std::filesystem::path& file);
// Lets it go: returns once its process has ended.
Result<> let_snapshot_go(const std::filesystem::path& file, Deadline deadline, const std::stop_token& stop);

// The process itself: reads its order from stdin, returns when it is over.
Result<> hold_snapshot();

}  // namespace midstream::postgres
