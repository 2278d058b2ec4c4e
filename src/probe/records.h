// The probe's log, line by line: see docs/formats/probe.md, which is normative. Pure.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace midstream {

using Nanos = std::chrono::nanoseconds;

enum class ProbeOutcome {
  ok,
  slow,     // the right answer, later than the service's limit for slowness: not down
  failed,   // an error, or a wrong answer
  timeout,  // no answer in time
};
std::string_view to_string(ProbeOutcome outcome);
inline bool is_up(ProbeOutcome outcome) { return outcome == ProbeOutcome::ok || outcome == ProbeOutcome::slow; }

// What is probed, as a session announces it.
struct Target {
  std::string name;  // the service's name, or the numeric address
  bool is_address = false;
  std::chrono::milliseconds every{100};
  std::chrono::milliseconds timeout{1'000};
};

// The probe has started. Its boot clock starts anew with each boot, so times of sessions with different boot ids
// are compared by the wall clock.
struct SessionLine {
  std::string boot_id;
  Nanos boot{0};              // CLOCK_BOOTTIME
  std::int64_t wall_ms = 0;   // at the same moment
  std::vector<Target> targets;
};

// One probe of a service, or a row of consecutive probes of an address with the same outcome.
struct RunLine {
  int target = 0;                // index into the session's targets
  std::int64_t first_seq = 0;    // numbers never repeat within a log
  std::int64_t last_seq = 0;
  Nanos first_start{0};          // boot clock; when the probe was due
  Nanos last_start{0};
  std::chrono::microseconds first_latency{0};  // from the start, however it ended
  std::chrono::microseconds worst_latency{0};
  ProbeOutcome outcome = ProbeOutcome::ok;
  std::string error;             // class in one word; "-" where there is none. With ok: "reconnected", "deferred" or "-"
  std::string host;              // who answered, where the answer says so; else "-"
};

// The probe ended in order.
struct EndLine {
  Nanos boot{0};
};

using LogLine = std::variant<SessionLine, RunLine, EndLine>;

// With checksum and final newline.
std::string encode_line(const LogLine& line);
// `text` without its newline. Corrupt if the checksum does not match or a field is not what it must be.
Result<LogLine> decode_line(std::string_view text);

// One word of at most 64 letters, digits and -_.:, for the fields `error` and `host`; "-" for an empty one.
std::string log_word(std::string_view text);

}  // namespace midstream
