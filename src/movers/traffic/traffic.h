// Moves traffic between the servers of one HAProxy backend. Runs on HAProxy's host.
#pragma once

#include <memory>

#include "movers/mover.h"

namespace midstream {

// Kinds `weights` and `drain` of docs/formats/desired.md.
//
// Every effect is read back, because the runtime socket has no status codes. Weights carry no lease: if
// midstream vanishes, the split stays, in the running process and in the configuration file. Frontend limits
// are never touched: lifting one again crashes HAProxy 2.6.12.
std::unique_ptr<Mover> make_traffic_mover();

}  // namespace midstream
