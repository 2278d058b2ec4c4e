// Kind `switch` on the physical road, on new: the database goes to new, or back.
#pragma once

#include "movers/postgres/cluster.h"

namespace midstream::postgres {

// A hand-over that was cut off is brought to one of its two ends first: back where it was not yielded, on where it was.
Result<Json> run_physical_switch(const Work& work, bool to_new);
Result<Json> observe_physical_switch(const Work& work);
Result<Json> observe_physical_way_back(const Work& work);

}  // namespace midstream::postgres
