// From "percent to new" to HAProxy weights. Pure.
#pragma once

#include <vector>

#include "base/result.h"

namespace midstream::haproxy {

inline constexpr int kMaxWeight = 256;  // HAProxy's own limit

struct Weights {
  std::vector<int> old_side;
  std::vector<int> new_side;
  bool operator==(const Weights&) const = default;
};

// The weights that each side has when it takes everything, from those found before the move: a side that
// carried traffic keeps its own proportions, a side that was all zero gets the other side's greatest weight
// for every server. A single server at zero beside others that are not stays at zero: somebody wanted that.
Weights full_weights(const Weights& found);

// The weights that send `percent` of the requests to the new side, each side shared out in the proportions of
// `full`.
//
// 0 and 100 give one side `full` and the other zeros, exactly. In between, with o and n the sums of the
// sides' full weights, server i of old is due (100 - percent) * full_i * n parts, server j of new percent *
// full_j * o. Those are scaled so that the greatest becomes m and rounded, at least 1 each, for every m from
// 1 to 256; taken is the m whose split is nearest to `percent`, then the one nearest in the shares of single
// servers, then the greatest. So 5 % between one server each is 247:13, exactly 19:1. A small 19:1 would do
// worse: HAProxy 2.6 keeps servers that were queued under greater weights in their old places for a while,
// and of the first 400 requests after a change from 100:0 it gave 12 instead of 20 to new; with 247:13 it
// gave 20.
//
// Refused where percent is not in 0..100 or a side has no server with a weight.
Result<Weights> split_weights(int percent, const Weights& full);

// Share of the new side, in percent; -1 where all weights are zero.
double percent_of(const Weights& weights);

}  // namespace midstream::haproxy
