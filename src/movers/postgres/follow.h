// Kind `follow`, on new: the copy, and every commit after it.
#pragma once

#include "movers/postgres/cluster.h"
#include "movers/postgres/copier.h"

namespace midstream::postgres {

Result<Json> apply_follow(const Work& work, Copier& copier);
Result<Json> observe_follow(const Work& work, const Copier& copier);
Result<Json> undo_follow(const Work& work, Copier& copier);

}  // namespace midstream::postgres
