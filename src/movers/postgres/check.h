// The preconditions of a database move, read-only.
#pragma once

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// What the local cluster is, for the other side's check: version, settings, and what of each database
// matters.
Result<Json> cluster_facts(const Work& work);
// The findings for the step's kind.
Result<Json> run_check(const Work& work);

}  // namespace midstream::postgres
