// Who is a mail user's home, or has the queue, as each of the two hosts has it on disk: the title of movers/title.h. Who may act
// is not decided here (the agent admits an epoch before it asks), so the title's own epoch stays as it is.
//
// A host becomes owner at a turn only after the other has durably written `yielded` at that very turn, and one that has yielded
// can become owner again only at a higher turn, which needs the other's word in the same way: never two homes, whatever is
// delayed or repeated.
#pragma once

#include <cstdint>

#include "movers/title.h"

namespace midstream::mail {

using midstream::Holding;
using midstream::Title;
using midstream::title_from_json;

// owner -> yielding
inline Result<Title> begin_yield(const Title& now, std::uint64_t turn) {
  return midstream::begin_yield(now, turn, now.epoch);
}
// yielding -> yielded
inline Result<Title> finish_yield(const Title& now, std::uint64_t turn) {
  return midstream::finish_yield(now, turn, now.epoch);
}
// yielding -> owner
inline Result<Title> keep(const Title& now, std::uint64_t turn) { return midstream::keep(now, turn, now.epoch); }
// standby, yielded -> owner; the other has yielded at `turn`
inline Result<Title> take(const Title& now, std::uint64_t turn) { return midstream::take(now, turn, now.epoch); }

}  // namespace midstream::mail
