// What is desired, read: docs/formats/desired.md, "mail".
#pragma once

#include <string>

#include "base/json.h"
#include "base/result.h"

namespace midstream::mail {

struct End {
  std::string host;     // its name in the manifest
  std::string address;  // numeric, does not move: where the other side proxies to
};

struct Plan {
  std::string kind;
  End old_side;
  End new_side;
  Json raw;

  bool knows(const std::string& host) const { return host == old_side.host || host == new_side.host; }
  const End& other(const std::string& host) const { return host == old_side.host ? new_side : old_side; }
};

// Refused where a field is missing or the two hosts are one.
Result<Plan> parse_plan(const Json& desired);

// How many of `count` users belong on new at `percent`.
std::size_t share_of(std::size_t count, std::int64_t percent);
// The order in which users go: one that spreads domains and names, the same on both hosts and in every run.
bool goes_before(const std::string& one, const std::string& other);

}  // namespace midstream::mail
