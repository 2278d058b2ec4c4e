// The gate as an agent sees it: a service of its own on the gate's host, begun and ended like a mover's desired state
// (docs/formats/desired.md, gate), and asked in the name of the movers of other hosts. The gate is a process apart: the agent's
// death does not stop it.
#pragma once

#include <memory>

#include "movers/mover.h"

namespace midstream {

std::unique_ptr<Mover> make_gate_mover();

}  // namespace midstream
