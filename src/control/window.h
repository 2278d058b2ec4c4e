// The window in time: local time of the manifest's zone, from the system's zone files.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "base/result.h"
#include "manifest/manifest.h"

namespace midstream {

// Whether `wall_ms` lies within the window: one of its days, from_minute <= minute < to_minute. Refused for a zone
// that the system does not know.
Result<bool> window_open(const Window& window, std::int64_t wall_ms);

// One opening of the window: [opens_ms, closes_ms), wall clock. It is as long as the clock of the zone makes it: on the days
// when that clock is put forward or back an hour of it may be missing, or be there twice.
struct Opening {
  std::int64_t opens_ms = 0;  // of one that is open already: the minute that was asked about
  std::int64_t closes_ms = 0;
};
// The opening that `wall_ms` lies in, or the next one. Nothing where none begins within two weeks. Refused as above.
Result<std::optional<Opening>> window_opening(const Window& window, std::int64_t wall_ms);

// "Mon 2026-11-30 13:16:40", local time of the zone.
std::string zone_text(const std::string& zone, std::int64_t wall_ms);
// "mon-fri 11:00-14:00 America/Toronto".
std::string to_string(const Window& window);

}  // namespace midstream
