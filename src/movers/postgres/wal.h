// The log that a slot keeps on this side's disk, watched: a consumer that never comes back must not fill the disk under a
// database that serves users.
#pragma once

#include <string>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

struct WalRoom {
  std::int64_t retained = 0;    // bytes of log that the slot keeps
  std::int64_t safe = -1;       // bytes that may still be written before PostgreSQL gives the slot up; -1: no limit
  std::int64_t free = -1;       // bytes free on the disk of the log; -1: not known
  std::int64_t floor = 0;       // with less free than this, the agent gives its slot up
  std::string status;           // wal_status of pg_replication_slots; "" where there is no slot
  std::string given_up;         // words for the operator where the slot is lost, by our act or PostgreSQL's; else ""

  // The slot keeps more than the server would keep by itself.
  bool burdens() const { return status == "extended" || status == "unreserved"; }
};

// Of the local slot `name`.
Result<WalRoom> look_at_wal(const Work& work, const std::string& name);
Json to_json(const WalRoom& room);
WalRoom wal_room_from_json(const Json& value);
// Words for the operator while it gets tight; "" while it does not.
std::string alarm_of(const WalRoom& room, const std::string& host);

// The agent's own duty, once a second: where less than the floor is free and the slot of ours is what burdens the disk, it
// is given up, with a note on disk that says so first. Never while a hand-over is under way: the slot carries it.
Result<> guard_wal(const Work& work);
// A slot that is made anew, or dropped in order, was not given up.
Result<> forget_given_up(const Work& work, const std::string& name);

// The figures of `check`: `wal_free`, `wal_floor`, `max_wal_size`, `max_slot_wal_keep_size` (bytes; -1: no limit).
Result<Json> wal_facts(const Work& work);
void check_wal(const Json& facts, const std::string& where, Json& findings);

}  // namespace midstream::postgres
