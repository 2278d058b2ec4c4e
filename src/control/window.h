// Is the window open? Local time of the manifest's zone, from the system's zone files.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "manifest/manifest.h"

namespace midstream {

// Whether `wall_ms` lies within the window: one of its days, from_minute <= minute < to_minute. Refused for a zone
// that the system does not know.
Result<bool> window_open(const Window& window, std::int64_t wall_ms);

}  // namespace midstream
