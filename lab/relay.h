// Distance between a host and a network: the kernel that labs run on may have no netem, so every frame goes through a process that
// keeps it for a while.
#pragma once

#include <string>

#include "base/result.h"
#include "sys/clock.h"

namespace midstream::lab {

// Takes `port` (a bridge's end of a host's port) out of `bridge`, and carries every frame between the two, each way `delay` later. To
// be run beside the bridges; says "relaying" on stdout when it does, and goes on until it is killed (the port stays out of the bridge).
// A frame that comes when 20,000 are on the way is lost, as on any wire that is too long for its queue. Fails where the port
// is gone.
Result<> relay(const std::string& port, const std::string& bridge, Millis delay);

}  // namespace midstream::lab
