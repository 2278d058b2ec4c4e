// What old knows of a new that may be gone for good: while new answers, its positions are noted on old (`midstream.heard`), so that it can
// be said afterwards up to when everything is here, and how much is known to be missing.
#pragma once

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// On new, while it owns: what old is to note. {"at_ms", "position", "confirmed"}: everything that was acknowledged by then lies before
// `position` of the log; old has said that it has everything before `confirmed` (both by new's slot for the way back).
Result<Json> own_positions(const Work& work, const std::string& database);
// On old. `args`: what own_positions() gave, and "sync": what new commits waits for old.
Result<Json> note_heard(const Work& work, const std::string& database, const Json& args);
// On old, of itself alone. {"turn", "state", "connected", "heard_ms", "safe_ms", "bytes", "sync"}: new was last heard of at `heard_ms`;
// everything that it had acknowledged by `safe_ms` is here; of its log up to when it was heard of last, `bytes` are not; `sync`: its commits
// waited for old then. The times are new's clock, 0 where nothing was ever noted. `connected`: the stream runs, so new is not gone.
Result<Json> what_is_here(const Work& work, const std::string& database);

}  // namespace midstream::postgres
