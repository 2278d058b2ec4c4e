// Who owns a thing that is handed from host to host (a set of addresses, a unit that runs on one side, a mail user), as each of the
// two hosts has it on disk. Pure; the mover stores what comes out before it acts on it.
//
// A title has a state and a turn. The turn grows by one with each handover and never falls. A host may become
// owner at a turn only after the other host has durably written that turn, not being owner; from then on that
// one can become owner only at a higher turn, which needs our word in the same way. So there are never two
// owners, whatever is delayed, repeated or lost, and the rule needs no clock.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/json.h"
#include "base/result.h"

namespace midstream {

enum class Holding {
  standby,   // never owned, or the title was renounced
  owner,     // the one host that may have it: answer for the addresses, run the unit
  yielding,  // still the only one that may; about to let go
  yielded,   // let go here, the other side may take the title at this turn
};

std::string_view to_string(Holding holding);

struct Title {
  Holding holding = Holding::standby;
  std::uint64_t turn = 0;
  std::uint64_t epoch = 0;  // the highest epoch that acted on it

  bool home() const { return holding == Holding::owner || holding == Holding::yielding; }
  bool operator==(const Title&) const = default;
};

Json to_json(const Title& title);
Result<Title> title_from_json(const Json& value);

// Each returns the title to be stored, equal to `now` where the act is done already (a repeated request).
// Fenced: the epoch is older than one that acted before, or the turn is past. Refused: not possible in this
// state.
Result<Title> begin_yield(const Title& now, std::uint64_t turn, std::uint64_t epoch);   // owner -> yielding
Result<Title> finish_yield(const Title& now, std::uint64_t turn, std::uint64_t epoch);  // yielding -> yielded
Result<Title> keep(const Title& now, std::uint64_t turn, std::uint64_t epoch);          // yielding -> owner
Result<Title> take(const Title& now, std::uint64_t turn, std::uint64_t epoch);  // standby, yielded -> owner
// Not owner, and no longer able to become it at `turn` or below.
Result<Title> renounce(const Title& now, std::uint64_t turn, std::uint64_t epoch);

}  // namespace midstream
