// The order of a unit's handover, the same code in both directions: the giver holds and stops it and says durably that
// nothing of it is left; only then the taker starts it. Runs on one of the two hosts and speaks to both through the
// verbs of UnitSide.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"

namespace midstream {

// One verb asked of one side; the link's own errors are retry (not begun) and unknown (may have happened).
using AskUnit = std::function<Result<Json>(std::string_view verb, const Json& args)>;

struct UnitHandover {
  std::string name;
  std::string giver_host;
  std::string taker_host;
  AskUnit giver;
  AskUnit taker;
  std::function<void(std::string_view)> checkpoint;
};

// Makes the taker the one that runs it; where it does already, completes what is missing. Returns
//   waited_ms: how long the giver's run in progress was waited for, and
//   gap_ms: for how long it ran nowhere, at most, on the clock of the host that this runs on
// where the handover happened in this call. Refused or retry with the unit back on the giver where the taker cannot
// start it; retry with it nowhere where the giver's word is not to be had: never on both.
Result<Json> hand_over(const UnitHandover& handover);

}  // namespace midstream
