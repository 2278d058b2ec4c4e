// The probe as an agent sees it: a service of its own on the vantage host, begun, read and ended like a mover's
// desired state (docs/formats/desired.md, probe). The probe is a process apart: the agent's death does not stop it.
#pragma once

#include <memory>

#include "movers/mover.h"

namespace midstream {

std::unique_ptr<Mover> make_probe_mover();

}  // namespace midstream
