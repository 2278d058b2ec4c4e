// A base backup that is slowed down: what comes from old is read so slowly on new that old does not get rid of more, and does not read
// its disk either. What keeps the log is a process of its own, which goes on.
#pragma once

#include <cstdint>

#include "movers/postgres/seed_place.h"
#include "sys/clock.h"

namespace midstream::postgres {

class BackupPace {
 public:
  explicit BackupPace(SeedPlace place) : place_(std::move(place)) {}

  // It goes on now: whoever had it rest may be gone.
  Result<> go_on();
  // Called again and again: has it rest for as long as brings it down to that share of its own speed, and returns how long that is. Returns
  // at once; that it goes on then hangs on nobody but a process of its own.
  Result<Millis> at(double share);

 private:
  SeedPlace place_;
  std::int64_t written_ = -1;              // by its reader, at the last call
  std::chrono::nanoseconds at_{0};         // of the last call
  double speed_ = 100.0 * (1 << 20);       // bytes a second, when it is not slowed down
};

}  // namespace midstream::postgres
