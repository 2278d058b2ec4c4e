// Triggers of the application that fire for what apply brings (ENABLE ALWAYS, ENABLE REPLICA): they have fired on the side that the row comes
// from. While the move lasts the former are like any other trigger and the latter are off, which is the same to every client that does
// not replicate into the database itself; then they are what they were. What each was is in midstream.quieted.
#pragma once

#include <string>
#include <vector>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

struct LoudTrigger {
  std::string table;
  std::string name;
  char enabled = 'A';  // as in pg_trigger.tgenabled: 'A' or 'R'
};

// Needs nothing of ours in the database.
Result<std::vector<LoudTrigger>> loud_triggers(const Work& work, Session& session);
// Each in a transaction of its own that waits for a lock for a moment only. Harmless when repeated. REQUIRES the title.
Result<> quiet_triggers(const Work& work, const std::string& database);
// But for those that somebody else has changed since. REQUIRES that no stream comes in.
Result<> loud_triggers_back(const Work& work, const std::string& database);

// What was quieted in `database`: [[table, trigger, enabled]].
Result<Json> quieted_triggers(const Work& work, const std::string& database);
// SQL that notes the same in a database whose schema has them quiet already.
Result<std::string> note_quieted_sql(const Json& quieted);

}  // namespace midstream::postgres
