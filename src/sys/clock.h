// Time in the shell. The engine never includes this: there, time is an argument.
#pragma once

#include <chrono>
#include <cstdint>
#include <stop_token>
#include <string>

namespace midstream {

using Millis = std::chrono::milliseconds;

// CLOCK_BOOTTIME: goes on through suspend and is unmoved by settimeofday; comparable within one boot only.
std::chrono::nanoseconds boot_now();
// CLOCK_REALTIME, milliseconds since 1970; for people, logs and records, never for waiting.
std::int64_t wall_now_ms();
// RFC 3339 in UTC with milliseconds: "2026-11-22T11:02:03.456Z".
std::string format_wall(std::int64_t wall_ms);
// /proc/sys/kernel/random/boot_id of this kernel: leases from another boot count as expired.
std::string boot_id();

// A point in time by which something must have ended. Every wait takes one.
class Deadline {
 public:
  static Deadline in(Millis span) { return Deadline(boot_now() + span); }
  bool expired() const { return boot_now() >= at_; }
  // What is left, 0 once expired; rounded up to a whole millisecond.
  Millis remaining() const;
  // The earlier of this and `span` from now.
  Deadline sooner(Millis span) const;

 private:
  explicit Deadline(std::chrono::nanoseconds at) : at_(at) {}
  std::chrono::nanoseconds at_;
};

// Waits `span`; returns early, false, if `stop` is requested.
bool pause_for(Millis span, const std::stop_token& stop);

}  // namespace midstream
