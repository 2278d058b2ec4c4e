// Every mover, made once. The wiring of both binaries.
#pragma once

#include <memory>
#include <vector>

#include "movers/mover.h"

namespace midstream {

std::vector<std::unique_ptr<Mover>> make_movers();

}  // namespace midstream
