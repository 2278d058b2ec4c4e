// One copy of one database: every row of the slot's snapshot, by several workers at once, each part in a transaction of
// its own on new that also notes that the part is there. What is noted is not copied again as long as the snapshot lives.
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "movers/postgres/chunks.h"
#include "movers/postgres/cluster.h"
#include "movers/postgres/late_indexes.h"
#include "movers/postgres/manners.h"
#include "movers/postgres/snapshot_holder.h"

namespace midstream::postgres {

// Thread-safe figures of a copy under way.
struct CopyFigures {
  std::atomic<std::int64_t> bytes_total = 0;  // pages on old, an estimate
  std::atomic<std::int64_t> bytes_done = 0;   // the same pages
  std::atomic<std::int64_t> bytes_sent = 0;   // rows as they went over the wire, this agent's life only
  std::atomic<std::int64_t> rows = 0;         // the same
  std::atomic<int> chunks = 0;
  std::atomic<int> chunks_done = 0;
  std::atomic<int> tables = 0;
  std::atomic<int> workers = 0;
  std::atomic<std::int64_t> began_ms = 0;  // boot clock
  IndexFigures indexes;
  MannersFigures manners;
};

// Where rows come from: the other side's cluster as the replication role, which may read everything.
Session::Target source_of(const Work& work, const std::string& database, const std::string& password);

// Empties what an earlier copy left: only while this side has never owned anything.
Result<> empty_tables(const Work& work, const std::string& database);

// Copies what is not noted yet and returns when all rows are there, noted durably; large tables have got no indexes then that
// keep a copy slow (late_indexes.h). An error says what failed; whether the snapshot still lives
// is to be looked at then. ErrorKind::corrupt: a table was rewritten on old meanwhile, or rows of another copy are there, and
// only a new beginning helps. Calls `alive` every second or two.
// Stops at work.context.stop with ErrorKind::cancelled.
Result<> run_copy(const Work& work, const std::string& database, const Session::Target& source, const Snapshot& snapshot,
                  int most_workers, CopyFigures& figures, const std::function<void()>& alive);
// Whether all rows are noted as there: the snapshot is of no more use then.
Result<bool> rows_are_there(const Work& work, const std::string& database);
// The notes, and the marks of the workers, are of no more use.
Result<> forget_copy_notes(const Work& work, const std::string& database);

}  // namespace midstream::postgres
