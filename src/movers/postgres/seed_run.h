// One seed from where its note says it is up to a copy that is followed.
#pragma once

#include "movers/postgres/cluster.h"
#include "movers/postgres/seed_note.h"

namespace midstream::postgres {

// Goes on until the copy is followed and the note is gone. An error says what failed, and the note where it is.
Result<> run_seed(const Work& work, SeedFigures& figures);
// New's own cluster back in its place, from whatever stage; the note, which says "undo", goes last.
Result<> put_back(const Work& work, SeedNote note);

}  // namespace midstream::postgres
