// Direct sessions: those of old's databases that do not come through the gate. The switch ends them; so they are gone before it.
#pragma once

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// Kind `drain`, on old: waits until no client session is direct. desired "idle_ms": one that has been idle for so long is closed
// (0: never); its client finds a closed connection when it next looks, and comes again, through the gate. {"closed"}; retry,
// naming one and how many there are, where time runs out.
Result<Json> apply_drain(const Work& work);
// {"direct": how many}
Result<Json> observe_drain(const Work& work);

}  // namespace midstream::postgres
