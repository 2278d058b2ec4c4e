// The order of a handover: which side does what when, and what is done where a side fails. Runs on one of the
// two hosts and speaks to both through the verbs of LocalSide, so that both directions are the same code.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"
#include "movers/addresses/address_set.h"
#include "sys/clock.h"

namespace midstream {

// One verb asked of one party; the link's own errors are retry (not begun) and unknown (may have happened).
using Ask = std::function<Result<Json>(std::string_view verb, const Json& args)>;

struct Handover {
  const AddressSet& set;
  std::string giver_host;
  std::string taker_host;
  Ask giver;
  Ask taker;
  Ask witness;  // answers `who`: a third host, or the giver where there is none
  std::function<void(std::string_view)> checkpoint;
  Deadline deadline;
  std::stop_token stop;
};

// Makes the taker the owner. Where the taker owns already, completes what is missing. Returns
//   addresses: [{"address", "blackout_ms"}]  an upper bound: from asking for the deletion to the
//   announcement, on the
//                                            clock of the host that this runs on; only where it happened in
//                                            this call
//   flows_cut                                established connections that ended at the addresses
// Refused with the addresses back at the giver where somebody else answers for one. Retry, with nothing
// changed or with the addresses held by nobody, where the giver cannot be asked: never both.
Result<Json> hand_over(const Handover& handover);

}  // namespace midstream
