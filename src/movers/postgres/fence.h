// The fence of one database in the local cluster, and the proof that it holds.
//
// What holds it: CONNECTION LIMIT 0 (ordinary roles), membership in the fence role that pg_hba.conf refuses
// (superusers), every backend ended, and deny triggers (ENABLE ALWAYS) that read the title. All of it is set,
// and lifted, in the one transaction that changes the title. What passes: our own role over the unix socket,
// the replication role's walsenders, and logical apply workers.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// Makes every superuser that may log in a member of the database's fence role, or takes all members out.
std::string members_sql(const Plan& plan, const std::string& database, bool fenced);

// owner -> closing, with the fence, in one commit. Fenced where the title is not `owner` or the epoch is old.
Result<> set_closing(const Work& work, Session& session, const std::string& database);
// Does once what a switch will do while clients wait, and rolls it back: what a server process reads of the catalogs the first time
// is read before anybody waits, and what would fail fails here. `last`: what is to follow in the same transaction. Changes nothing.
Result<> rehearse_fence(const Work& work, Session& session, const std::string& database, const std::string& last);
// closing -> owner, fence lifted, in one commit; false, and nothing done, where the title is not `closing`.
Result<bool> reopen(const Work& work, const std::string& database);
// The same text for who becomes owner inside a transaction of the caller's.
std::string lift_sql(const Plan& plan, const std::string& database);

// Ends every backend of the database that the fence shall not let through, again and again until none is
// left. `spared`: those that the gate holds, if they are idle indeed. Returns the process ids of the clients it ended. Out of time: retry, naming who
// stayed.
Result<std::set<int>> end_sessions(const Work& work, Session& session, Deadline deadline, const std::set<int>& spared = {});

// Sessions opened before the fence, to be found dead behind it.
struct Witnesses {
  struct One {
    std::string attempt;
    Session session;
    std::string sql;
  };
  std::vector<One> open;
};
Result<Witnesses> open_witnesses(const Work& work, const std::string& database);

// Tries to write in every known way; each must fail, and for the reason that the fence gives. The list of
// {attempt, refused, error}; the caller judges with `holds`. With witnesses: clients wait, so the login over TCP is
// left to the proof that follows the switch.
Result<Json> prove_fence(const Work& work, const std::string& database, Witnesses* witnesses);
// Refused, naming the attempts that got through; retry where one failed for another reason than the fence.
Result<> holds(const Json& proof, const std::string& host, const std::string& database);

}  // namespace midstream::postgres
