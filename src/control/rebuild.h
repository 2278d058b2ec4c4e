// A journal that was lost, made again from what the agents have done (call_log.h). Pure.
//
// Steps run one after another, so that the last call of all says where the move stands: what comes before its step is
// done, what comes after is undone or was never begun. Calls of all agents are in one order: by epoch, and within one by
// the number that the engine gave them. Waits and holds after the last effect are waited for again.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace midstream {

// What agents keep of a journal beside their deeds: the plan's record, with the records that have tuned it since as "tuned" and
// a "hash" that tells how many those are. True where `record` changed a plan that was there.
bool add_to_kept_plan(Json& kept, const Json& record);

// `recalled`: what each host's CallLog::recall answered. Records that fold to where the move stands, the plan's first;
// the epoch is `epoch`. Refused where no agent knows the plan, or where one that must have done something knows nothing.
Result<std::vector<Json>> rebuild_journal(const std::map<std::string, Json>& recalled, std::uint64_t epoch,
                                          const std::string& journal, std::int64_t now);

}  // namespace midstream
