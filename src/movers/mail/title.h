// Who is a mail user's home, as each of the two hosts has it on disk. Pure; what comes out is stored before it is
// acted on.
//
// A title has a state and a turn. The turn grows with each flip and never falls. A host becomes owner at a turn only
// after the other has durably written `yielded` at that very turn, and one that has yielded can become owner again
// only at a higher turn, which needs the other's word in the same way: never two homes, whatever is delayed or repeated.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/json.h"
#include "base/result.h"

namespace midstream::mail {

enum class Holding {
  standby,   // was never home, or not since the last turn
  owner,     // the one side that may change the user's mailboxes
  yielding,  // still that one side; its deliveries and logins wait
  yielded,   // no longer; the other side may take the title at this turn
};

std::string_view to_string(Holding holding);

struct Title {
  Holding holding = Holding::standby;
  std::uint64_t turn = 0;
  bool home() const { return holding == Holding::owner || holding == Holding::yielding; }
  bool operator==(const Title&) const = default;
};

Json to_json(const Title& title);
Result<Title> title_from_json(const Json& value);

// Each returns the title to be stored, equal to `now` where the act is done already. Fenced: the turn is past.
// Refused: not possible in this state.
Result<Title> begin_yield(const Title& now, std::uint64_t turn);   // owner -> yielding
Result<Title> finish_yield(const Title& now, std::uint64_t turn);  // yielding -> yielded
Result<Title> keep(const Title& now, std::uint64_t turn);          // yielding -> owner
Result<Title> take(const Title& now, std::uint64_t turn);  // standby, yielded -> owner; the other has yielded at `turn`

}  // namespace midstream::mail
