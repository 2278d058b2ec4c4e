// The copy's first life: a server on the copy that nobody can reach but our own role, over a socket in our box. It follows old up
// to the point of the slots, becomes writable there, and is made the non-owner before it is ever seen on new's port.
//
// It starts no logical workers and no library of the application (jobs), takes no client, and nothing of old's or new's
// configuration: BOX/seed.conf is all that it reads.
#pragma once

#include <string>

#include "movers/postgres/cluster.h"
#include "movers/postgres/seed_place.h"

namespace midstream::postgres {

// What it reads, written anew, and the order to recover up to `point` and no further. REQUIRES a base backup that was never started.
Result<> prepare_seed_server(const Work& work, const SeedPlace& place, const std::string& point);
// Runs, or is started; does not wait for it to answer.
Result<> start_seed_server(const SeedPlace& place, int major);
bool seed_server_runs(const SeedPlace& place);
// What it said last that is an error; "" where there is none.
std::string seed_server_trouble(const SeedPlace& place);
// Shut down in order; returns once it has ended.
Result<> stop_seed_server(const SeedPlace& place, int major);
// Without order, for a copy that is thrown away.
Result<> kill_seed_server(const SeedPlace& place);
// Its files in the box, but for the copy.
Result<> clear_box(const SeedPlace& place);

// The options with which a Work speaks to it.
PostgresOptions seed_server_options(const Work& work, const SeedPlace& place);

}  // namespace midstream::postgres
