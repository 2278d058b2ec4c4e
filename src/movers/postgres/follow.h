// Kind `follow`, on new: the copy, and every commit after it.
#pragma once

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

Result<Json> apply_follow(const Work& work);
Result<Json> observe_follow(const Work& work);
Result<Json> undo_follow(const Work& work);

}  // namespace midstream::postgres
