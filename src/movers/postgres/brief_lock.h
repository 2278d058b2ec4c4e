// Changes to tables that clients use at the same time.
#pragma once

#include <string>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// `sql` in a transaction that waits for a table's lock for a moment only, several times: whoever waits for a lock makes everybody
// behind it wait too. What holds the table for longer is named in a retry. An autovacuum gives way. Event triggers of the
// application do not fire: they are users' code, and would write.
Result<> briefly_locked(const Work& work, Session& session, const std::string& sql, const std::string& table = "");

}  // namespace midstream::postgres
