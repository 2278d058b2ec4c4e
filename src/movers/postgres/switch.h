// The switch of all databases of the step, and back: what is asked of which side, in which order; and what to
// do where an earlier try was cut off.
#pragma once

#include <string_view>

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// The requests that a side answers, whoever asks: the other side's mover, or this one about itself. Takes
// the title mutex where the verb changes titles.
Result<Json> answer(const Work& work, std::string_view verb, const Json& args);

// Kind `switch`, on new. `to_new` false: the way back. Idempotent, also over a crash of either agent.
Result<Json> run_switch(const Work& work, bool to_new);
Result<Json> observe_switch(const Work& work);
// Whether the switch could be taken back now: the stream back runs and old is not far behind (Mover::observe_undo).
Result<Json> observe_way_back(const Work& work);

// The agent's own duty, without anybody asking: opens a database whose lease has ended (all of them where
// `all_leases`: the process that held them is gone), and takes over what has arrived. True: something was
// done.
Result<bool> keep(const Work& work, bool all_leases);

}  // namespace midstream::postgres
