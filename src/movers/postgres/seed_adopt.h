// The copy holds old's title, roles and subscriptions. Before anybody else can log in it is made the non-owner, fenced, and ours.
#pragma once

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// `work` speaks to the server on the copy (seed_server_options). Idempotent.
Result<> adopt_copy(const Work& work);
// Every database of the move: the title is `standby` and never was anything else here, nobody but our roles gets in, every table
// has its deny trigger, and no subscription is on. Corrupt, naming what is otherwise: then the copy is not to be seen by anybody.
Result<> copy_is_fenced(const Work& work);

}  // namespace midstream::postgres
