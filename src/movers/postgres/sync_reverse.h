// `reverse: sync`: what commits on new waits until old has it durably. The reverse subscriptions are new's synchronous standbys while new
// owns all databases of the move, and PostgreSQL does the waiting.
#pragma once

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// The plan asks for it.
inline bool is_sync_reverse(const Plan& plan) { return get_string_or(plan.raw, "reverse", "") == "sync"; }

struct SyncReverse {
  bool ours = false;     // synchronous_standby_names says so
  bool present = false;  // old answers as what new waits for
  int waiting = 0;       // backends that wait in their commit
};
Result<SyncReverse> look_at_sync_reverse(const Work& work);

// On new. Begun once every stream back runs (retry before); refused where new has synchronous standbys of somebody else's. Idempotent.
Result<> begin_sync_reverse(const Work& work);
// As it was: nobody is waited for. Needs no commit, so that it works while commits wait; those go on then. Idempotent.
Result<> end_sync_reverse(const Work& work);

// What to do where new waits for an old that does not come back, in words.
std::string words_of_waiting(const SyncReverse& look);

}  // namespace midstream::postgres
