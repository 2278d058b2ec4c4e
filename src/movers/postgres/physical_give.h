// The giver's part of a switch on the physical road, and the taker's. Each function runs on the host of its side.
#pragma once

#include "movers/postgres/physical_side.h"

namespace midstream::postgres {

// The taker is a standby that is connected and close; it has the slot for the giver as its standby; nobody logs in but, from here on,
// the gate. {"proof"}.
Result<Json> physical_prepare_take(const Work& work);
// Nobody is in the way, the standby is close, a stop will be quick (what is dirty has been written), and it is known who runs the
// server. {"lag_bytes"}.
Result<Json> physical_prepare_give(const Work& work);
// closing, fence, proof, the standby has replayed all of it, yielded; then the clean stop. Until `yielded` every failure opens the
// database again. args: as of give(). {"turn", "lsn", "fence_ms", "barrier_ms", "stop_ms", ...}.
Result<Json> physical_give(const Work& work, const Json& args);
// Waits until the shutdown checkpoint at `lsn` has been replayed, promotes, and becomes owner with the fence lifted in one commit.
// Retry where it has not come. Idempotent. args: "turn", "lsn". {"took_ms", "promote_ms"}.
Result<Json> physical_take(const Work& work, const Json& args);
// Nothing came of it: nobody logs in on the taker, and it keeps no log. Idempotent.
Result<Json> physical_refuse(const Work& work);
// The giver, after that: up as a standby of the taker, the hard fence in force. Idempotent. {"proof"}.
Result<Json> physical_rejoin(const Work& work);

}  // namespace midstream::postgres
