// The mover `end`: who still talks to a host, so that it is given up only when nobody does, and what makes its files
// read-only then. docs/formats/desired.md.
#pragma once

#include <memory>

#include "movers/mover.h"

namespace midstream {

std::unique_ptr<Mover> make_end_mover();

}  // namespace midstream
