// The desired states that concern one unit, docs/formats/desired.md.
#pragma once

#include <string>

#include "base/json.h"
#include "base/result.h"
#include "sys/clock.h"

namespace midstream {

struct UnitMove {
  std::string name;
  std::string from;  // hosts
  std::string to;
  Millis deadline{30'000};  // how long a run in progress is waited for
  Json raw;                 // as it came

  bool concerns(const std::string& host) const { return host == from || host == to; }
  const std::string& other(const std::string& host) const { return host == from ? to : from; }
};

Result<UnitMove> parse_unit_move(const Json& desired);

}  // namespace midstream
