// Tables that inherit (INHERITS, not partitions) and whose columns pg_dump cannot bring back in their order: it writes what is
// inherited first, so a column that a parent was given later (ALTER TABLE parent ADD COLUMN) comes to stand before the child's own.
// https://www.postgresql.org/docs/15/ddl-inherit.html
#pragma once

#include <string>
#include <vector>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

struct Reordered {
  std::string table;
  std::string is, will_be;  // the columns, separated by commas
};

// Those of the session's database.
Result<std::vector<Reordered>> reordered_tables(const Work& work, Session& session);

}  // namespace midstream::postgres
