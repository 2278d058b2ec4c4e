// Logical replication between the two sides: publication, slot, subscription, and how far it is. Both
// directions are the same but for their names; PostgreSQL's own apply does the work.
#pragma once

#include <filesystem>
#include <string>

#include "movers/postgres/cluster.h"
#include "movers/postgres/wal.h"

namespace midstream::postgres {

// Publication of every ordinary logged table, of midstream.handover and midstream.ddl. Tables without a replica identity are given one (identity.h):
// publishing them as they are would make clients' UPDATE and DELETE fail.
Result<> make_publication(const Work& work, const std::string& database);
// Tables of this side that its publication does not have: made (again) since. What is written to them is not carried over.
Result<std::vector<std::string>> tables_not_followed(const Work& work, Session& session);

// The slot `name` in the local cluster. `fresh`: dropped and made anew (while nobody writes, or before the
// copy).
Result<> make_slot(const Work& work, const std::string& database, const std::string& name, bool fresh);
// Who keeps a slot from being made: the oldest transaction here that has written, in words; "" where there is none.
Result<std::string> oldest_writer(const Work& work);
Result<> drop_slot(const Work& work, const std::string& name);
Result<> drop_slot_alone(const Work& work, const std::string& name);  // what is noted about it stays

// Our own directory beside the data directory `data`, as the server's user has it.
std::filesystem::path our_directory(const Work& work, const std::filesystem::path& data);
// The file with the replication password, readable by the server alone, and the line that points to it.
Result<std::string> write_pass_file(const Work& work, const std::string& password);
Result<> remove_pass_file(const Work& work);

// The subscription to the other side's stream, where it is missing: off, and without a copy.
Result<> make_subscription(const Work& work, const std::string& database);
// Enabled, from where the slot stands.
Result<> start_subscription(const Work& work, const std::string& database);
// Enabled with synchronous_commit=on, or off; when off, returns only once its worker is gone. One that was off begins
// at `from` (a position in the other side's log) where it is not further already; "" for where it stands.
Result<> enable_subscription(const Work& work, const std::string& database, const std::string& from = "");
Result<> disable_subscription(const Work& work, Session& session, const std::string& database);
// Without touching the other side's slot.
Result<> drop_subscription(const Work& work, const std::string& database);

struct Arrival {
  bool present = false;
  bool enabled = false;
  bool running = false;  // an apply worker is connected
  int tables = 0;
  int ready = 0;
  std::int64_t copied_bytes = 0;  // on disk, of the tables here
};
Result<Arrival> look_at_subscription(const Work& work, const std::string& database);

struct Lag {
  bool slot = false;
  bool active = false;
  std::int64_t bytes = 0;
  std::int64_t ms = 0;
  WalRoom wal;
};
Result<Lag> look_at_slot(const Work& work, const std::string& name);
Json to_json(const Lag& lag);
Lag lag_from_json(const Json& value);

// A marker in the local log, flushed; the position that the other side must have confirmed.
Result<std::string> barrier_position(const Work& work, Session& session);
// Waits until the slot's consumer has made everything up to `position` durable.
Result<> wait_confirmed(const Work& work, Session& session, const std::string& slot, const std::string& position,
                        Deadline deadline);

}  // namespace midstream::postgres
