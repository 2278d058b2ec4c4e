// Kind `follow`, on new: the copy, and every commit after it.
#pragma once

#include "movers/postgres/cluster.h"
#include "movers/postgres/recopy.h"

namespace midstream::postgres {

Result<Json> apply_follow(const Work& work);
// Copies that cannot go on are put into `notes`.
Result<Json> observe_follow(const Work& work, LostCopyNotes& notes);
Result<Json> undo_follow(const Work& work);

}  // namespace midstream::postgres
