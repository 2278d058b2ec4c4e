// A table's copy that cannot go on: PostgreSQL's own copying of tables ("tablesync") drops the table's slot at the other
// side before it commits here that the table is in sync, and with synchronous_commit off that commit is not even durable
// for up to 0.6 s. A crash of this side in between leaves a table that asks for good for a slot that is gone
// (src/backend/replication/logical/tablesync.c, process_syncing_tables_for_sync, PostgreSQL 14 to 17). What was committed
// between the position it stands at and the other side's present is to be had from nowhere any more: the table is emptied
// and copied anew, from a slot and a snapshot of its own; the other tables stay as they are.
//
// Seen by `observe`, which can ask the other side; done by a thread of the agent's own, for `observe` changes nothing. That a slot was seen
// missing stays true for as long as its table is in the state it was in, so the order of the two does not matter.
#pragma once

#include <map>
#include <mutex>
#include <set>
#include <string>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

struct LostCopy {
  std::string relation;  // its oid, in digits
  std::string name;      // schema-qualified, quoted where needed
  auto operator<=>(const LostCopy&) const = default;
};
using LostCopies = std::set<LostCopy>;

// Tables of the incoming subscription whose copy asks for a slot that is not at the other side. Asks the other side only
// where a copy is at that point. The moment between the drop and the commit of a healthy copy looks the same: copy_anew
// tells them apart.
Result<LostCopies> find_lost_copies(const Work& work, const std::string& database);

// Which of `names` are slots in the local cluster: the answer to that question.
Result<Json> which_slots(const Work& work, const Json& args);

// Empties the table and has PostgreSQL copy it again, in one transaction, under the lock of the subscription: whoever is
// about to commit that the table is in sync has done so by then, or never will. Only on a side that has never owned
// `database`; false where there is nothing to be done (any more). Takes as long as it takes to empty the table where
// foreign keys point at it.
Result<bool> copy_anew(const Work& work, const std::string& database, const LostCopy& lost);

// What `observe` saw and the keeper has not done yet. Thread-safe.
class LostCopyNotes {
 public:
  void put(const std::string& move, const std::string& database, LostCopies lost);
  void remove(const std::string& move, const std::string& database, const LostCopy& one);
  std::set<std::string> moves() const;  // that have any
  LostCopies get(const std::string& move, const std::string& database) const;

 private:
  mutable std::mutex mutex_;
  std::map<std::pair<std::string, std::string>, LostCopies> notes_;
};

// All that `notes` has of this move.
Result<> copy_lost_ones_anew(const Work& work, LostCopyNotes& notes);

}  // namespace midstream::postgres
