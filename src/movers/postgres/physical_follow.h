// Kinds `follow` and `verify` on the physical road, once the base backup is there: new's cluster is a standby of old's.
#pragma once

#include "movers/postgres/cluster.h"
#include "movers/postgres/seed_place.h"

namespace midstream::postgres {

// The base backup, which was never started, is what its manifest says, and will come up as a standby with new's own configuration.
// Corrupt where a file is not as old sent it.
Result<> prepare_standby(const Work& work, const SeedPlace& place, int major);
// It has come up as one, and nobody gets in. Refused otherwise.
Result<> is_standby(const Work& work);
Result<Json> observe_standby(const Work& work);
// Both run on one cluster's data: the copy was compared file by file with what old sent, and every commit since is replayed as it is
// in old's log. Reached while that holds.
Result<Json> observe_physical_verify(const Work& work);

}  // namespace midstream::postgres
