// Compares two trees, entry by entry, content included, without trusting any index.
#pragma once

#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "movers/files/path.h"
#include "movers/files/root.h"
#include "movers/files/wire.h"
#include "sys/stream.h"

namespace midstream::files {

// Calls `each` for every entry of the tree, the root first, directories before what they hold, names in byte
// order. What vanishes meanwhile is left out.
Result<> walk_tree(const Root& root, const Except& except, const std::stop_token& stop,
                   const std::function<Result<>(Listed)>& each);

// The order of walk_tree.
bool walks_before(std::string_view a, std::string_view b);

// Sends the whole walk as listings.
Result<> send_listing(const Root& root, const Except& except, Stream& stream, const std::stop_token& stop);

struct Comparison {
  std::uint64_t entries = 0;           // on this side
  std::vector<std::string> different;  // at most kMaxDifferent, plus those that are on one side only
};
inline constexpr std::size_t kMaxDifferent = 20'000;
Result<Comparison> compare_listing(const Root& root, const Except& except, Stream& stream, Deadline deadline,
                                   const std::stop_token& stop);

// The version of one path now; none where nothing is there.
Result<Version> version_at(const Root& root, const std::string& path, const std::stop_token& stop);

}  // namespace midstream::files
