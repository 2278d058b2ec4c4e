// The title: the durable row that says who owns a database, and everything that hangs on it. Schema
// `midstream` in the database itself:
//   owner (one row)  state owner | closing | yielded | standby; writes are denied unless it is `owner`
//   handover         one row a hand-over, published: the last row of the stream that ends
#pragma once

#include <string>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

struct Title {
  std::uint64_t epoch = 0;
  std::string state;         // "" where there is no title
  std::int64_t turn = 0;     // hand-overs that this side has taken part in
  std::int64_t arrived = 0;  // the newest hand-over whose row is here; above `turn`: given to this side, not taken yet
  // Where in this side's log its last ownership began: everything before it came by the stream from the other side. ""
  // where it never took over.
  std::string began;
};

// Makes schema, functions and the title (in `state`) where they are missing. `connection_limit`: what the
// database shall have once this side owns it.
Result<> make_title(const Work& work, const std::string& database, std::string_view state, int connection_limit);
// Deny triggers on every ordinary table, and the event triggers for DDL; each table in a transaction of its
// own with a short lock timeout, so that live clients never queue behind it.
Result<> make_triggers(const Work& work, const std::string& database);
// How many of the event triggers are not there, or do not fire for everybody.
std::string missing_event_triggers_sql(const Plan& plan);
// All of it gone: triggers, then schema.
Result<> remove_title(const Work& work, const std::string& database);

// Of a cluster that recovers from another's log the row is that other one's: it is `standby`, whatever the row says.
Result<Title> read_title(const Work& work, const std::string& database);
Json to_json(const Title& title);
Title title_from_json(const Json& value);

// The database exists in this cluster.
Result<bool> database_exists(const Work& work, const std::string& database);

// One line for each table's columns, identity and order, and each sequence: equal on both sides or the switch
// would lose something.
Result<std::string> fingerprint(const Work& work, const std::string& database);

// Raises where the task's epoch is older than one that acted here before; in the caller's transaction.
std::string adopt_sql(const Work& work);
// ErrorKind::fenced where the error says so, else as to_error().
Error title_error(const SqlError& error, std::string_view doing);

}  // namespace midstream::postgres
