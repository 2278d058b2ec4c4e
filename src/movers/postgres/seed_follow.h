// Kind `follow` on the seeded and the physical road, on new: the copy of the cluster, and every commit after it.
#pragma once

#include "movers/postgres/cluster.h"
#include "movers/postgres/copier.h"
#include "movers/postgres/seeder.h"

namespace midstream::postgres {

Result<Json> apply_seeded_follow(const Work& work, Seeder& seeder);
Result<Json> observe_seeded_follow(const Work& work, const Seeder& seeder, const Copier& copier);
Result<Json> undo_seeded_follow(const Work& work, Seeder& seeder);

}  // namespace midstream::postgres
