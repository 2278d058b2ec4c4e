// Which roads lead from old to new: what each asks of both clusters, and why one is closed.
#pragma once

#include <string>
#include <vector>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// Of the local cluster and host, for the other side and ours; read-only.
Result<Json> road_facts(const Work& work);
// Each reason why new's cluster cannot become a copy of old's, in words; empty where it can. To be asked on new's host.
std::vector<std::string> why_not_seeded(const Plan& plan, const Json& old_facts, const Json& new_facts);
// The same of new's as a standby of old's, and old's as one of new's.
std::vector<std::string> why_not_physical(const Plan& plan, const Json& old_facts, const Json& new_facts);
// Refused, with every reason, where the plan's road that copies the cluster is closed.
Result<> road_is_open(const Work& work);
// One finding for each road, with the pause of a switch on it; that of the plan's road is not ok where it is closed.
void check_roads(const Plan& plan, const Json& old_facts, const Json& new_facts, Json& findings);

}  // namespace midstream::postgres
