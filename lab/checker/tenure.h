// Who held a thing when, judged by acts that only its holder may do. Pure.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace midstream::lab {

struct Act {
  std::int64_t at = 0;  // any unit; overlaps come in the same
  int who = 0;
};

struct Overlap {
  std::int64_t from = 0;
  std::int64_t to = 0;  // may equal `from`: one act out of turn
  int who = 0;          // who acted out of turn
  std::size_t acts = 0;
};

// A thing that may be handed over at most `handovers` times has at most one holder more than that, one after
// the other. Of all such successions the one that leaves the fewest acts unexplained is taken to be true;
// these acts are out of turn, and their author and the rightful holder were two at a time. The overlap
// reaches from the author's own neighbouring tenure, if there is one, to the act: so long they could act, and
// did.
//
// `acts` must be ordered by time. With `first` given, the first holder is that one, even if it never acted.
std::vector<Overlap> find_overlaps(const std::vector<Act>& acts, std::size_t handovers,
                                   std::optional<int> first = {});

}  // namespace midstream::lab
