// Indexes of large tables are built after their rows are there: keeping one up row by row costs several times as much.
//
// None is dropped and made again. An index that is set aside is marked in pg_index as one that is not ready, like one that
// CREATE INDEX CONCURRENTLY has not finished: the server writes nothing into it, and all that hangs on it (its constraint,
// foreign keys, the table's identity, comments) stays as it is. REINDEX builds it and marks it as ready, in one transaction.
// So pg_index itself says what is still to be built, whoever was killed when; and emptying a table makes its indexes ready.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// Thread-safe.
struct IndexFigures {
  std::atomic<int> all = 0;  // 0 until their turn has come
  std::atomic<int> built = 0;
};

// Sets the indexes of these tables aside, in one commit. Those on expressions, with a condition, or of an exclusion
// constraint stay as they are: they run the application's own functions, in the settings of the session that fills the table.
// REQUIRES that this side owns nothing; `guard` is the statement that makes sure of it.
Result<> set_indexes_aside(Session& session, const std::vector<std::string>& tables, std::string_view guard,
                           const std::stop_token& stop);

// Builds what was set aside, several at once, and has the tables analyzed; returns when nothing is left to be built.
Result<> build_indexes(const Work& work, const std::string& database, int most_workers, IndexFigures& figures);

}  // namespace midstream::postgres
