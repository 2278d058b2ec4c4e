// What may be missing on old if new is gone for good, in words. Pure.
#pragma once

#include <string>

#include "base/json.h"

namespace midstream {

// Of one database. `outlook`: what old's postgres mover says of itself (src/movers/postgres/outlook.h).
std::string lost_text(const std::string& database, const Json& outlook);

}  // namespace midstream
