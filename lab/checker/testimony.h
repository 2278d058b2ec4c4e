// What the witness writes down, docs/formats/witness.md. Pure: lines in, values out.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "lab/checker/frames.h"

namespace midstream::lab {

struct TimedClaim {
  std::int64_t at_ns = 0;  // CLOCK_BOOTTIME
  Claim claim;
};
struct TimedQuestion {
  std::int64_t at_ns = 0;
  Question question;
};
struct Beat {
  std::int64_t at_ns = 0;
  std::int64_t drops = 0;  // frames that the kernel could not keep for the witness, since the start
};

struct Testimony {
  std::string boot_id;
  std::vector<TimedClaim> claims;        // in the order of their times
  std::vector<TimedQuestion> questions;  // likewise
  std::vector<Beat> beats;               // the start and the end are beats too
  bool ended = false;                    // stopped in order
};

// One line without its newline, as the witness writes it.
std::string start_line(std::int64_t at_ns, std::int64_t wall_ms, std::string_view boot_id,
                       std::string_view interfaces);
std::string claim_line(const TimedClaim& claim, std::string_view interface);
std::string question_line(const TimedQuestion& question, std::string_view interface);
std::string beat_line(const Beat& beat, bool last);

// A torn last line is left out; anything else that cannot be read is corrupt.
Result<Testimony> parse_testimony(std::string_view text);

// Why the testimony is no proof for [from_ns, to_ns]: it does not cover it, the witness was silent for longer
// than `longest_gap_ns`, or frames were lost. "" if it is one.
std::string gap_in(const Testimony& testimony, std::int64_t from_ns, std::int64_t to_ns,
                   std::int64_t longest_gap_ns);

}  // namespace midstream::lab
