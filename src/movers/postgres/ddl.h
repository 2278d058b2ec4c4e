// DDL while a move lasts: written down on the side that owns, repeated on the other at its place in the stream (ddl_sql.h). What cannot
// be repeated stops the stream there, before harm; who asks here is told what, why, and what to do.
#pragma once

#include <string>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// The part of schema `midstream` that carries DDL, as one batch; "" on the physical road, where the log of pages carries it.
std::string ddl_sql(const Plan& plan, const std::string& database);
// The event triggers that write down. Their functions are there.
Result<> make_ddl_triggers(const Work& work, Session& session);
std::string drop_ddl_triggers_sql(const Plan& plan);

// Every table of this side is part of the move as one that was there when it began is: also one whose DDL came while a subscription
// was being made. Before a stream that comes in is turned on.
Result<> complete_tables(const Work& work, const std::string& database);

// What was written down in the snapshot that `session` is in: [rows], oldest first. For note_ddl_sql() and repeat_before_copy().
Result<Json> ddl_rows(Session& session, Deadline deadline, const std::stop_token& stop);
// SQL that notes, in a database that has just got its schema, that `rows` are in it.
std::string note_ddl_sql(const Json& rows);
// On new, whose tables are empty: those of `rows` that are neither noted nor repeated yet are repeated. `guard_sql` comes first in each
// transaction. Refused, naming it, where one cannot be.
Result<> repeat_before_copy(const Work& work, Session& session, const Json& rows, const std::string& guard_sql);

// What of the owner's DDL the other side has not, and will not get by waiting: in words, with what to do; "" where there is none.
// Asks both sides. `old_owns`: who the owner is.
Result<std::string> ddl_in_the_way(const Work& work, const std::string& database, bool old_owns);

// Its parts, for the other side to ask. What was written down here last: [[turn, n, tag, about, why_not, age in ms]], newest first.
Result<Json> ddl_written(const Work& work, const std::string& database);
// Those of args "written" that are neither repeated nor settled here, oldest first.
Result<Json> ddl_missing(const Work& work, const std::string& database, const Json& args);
// The whole row (args "turn", "n"); its text may hold a secret.
Result<Json> ddl_row(const Work& work, const std::string& database, const Json& args);
// Why it cannot be repeated here, tried and rolled back where no stream runs that could be at it: {"error"}, "" if it can.
Result<Json> ddl_rehearsed(const Work& work, const std::string& database, const Json& row);

}  // namespace midstream::postgres
