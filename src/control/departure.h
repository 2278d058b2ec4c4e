// Midstream taken off one host: the probe's log brought to the controller, the services, the state directory and the file
// removed. Needs no agent: whatever is there is removed, however far an earlier attempt got.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "control/link.h"

namespace midstream {

struct Departure {
  SshTarget target;
  std::string move;
  std::string journal;    // of the controller that asks: a host that follows another one is left alone
  std::uint64_t epoch = 0;
  bool power_off = false;  // the host is shut down then
  std::filesystem::path agent_binary;
  std::filesystem::path evidence;  // where the probe's log shall be kept; "" on hosts without a probe
};

// Returns when nothing of ours is there any more, or the host is about to be shut down. Retry where it cannot be
// reached; fenced where a newer epoch, or another journal, is in force there.
Result<> take_leave(const Departure& departure, Deadline deadline);

// ---- on the host itself; what take_leave runs there -----------------------------------------------------------

// What the probe's log is followed by where all of it was sent.
inline constexpr std::string_view kEvidenceEnd = "midstream: end of evidence\n";
// Ends the probe of the move and writes its log to stdout, and kEvidenceEnd; no log where there is none.
Result<> hand_over_evidence(const std::string& move, Deadline deadline);
// Removes the services, then the directory and the socket. What lost conflicts is users' data: it is moved beside the
// directory, to `kept_directory`. Fenced, with nothing removed, where the state directory says so.
Result<> remove_all_of_ours(const std::string& move, const std::string& journal, std::uint64_t epoch, Deadline deadline);
std::filesystem::path kept_directory(const std::string& move);

}  // namespace midstream
