// What must never run twice, judged by its own logs. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace midstream::lab {

// One process of it, from its first line to its last.
struct Instance {
  std::string host;
  std::int64_t pid = 0;
  std::int64_t from_ns = 0, to_ns = 0;  // CLOCK_BOOTTIME
  std::int64_t runs = 0;
  std::vector<std::int64_t> acknowledged;  // numbers taken
};

// The lines of one side's log. A last line that was cut short by a power cut is left out.
Result<std::vector<Instance>> parse_instances(std::string_view text);

struct SingletonFigures {
  std::int64_t runs = 0;
  std::int64_t instances = 0;
  std::int64_t overlaps_ms = 0;   // rounded up: never 0 where there was any
  std::int64_t out_of_place = 0;  // it worked last on the side that does not own it in the end
  std::vector<std::int64_t> acknowledged;
  std::vector<std::string> complaints;
};
SingletonFigures judge_instances(const std::vector<Instance>& old_side, const std::vector<Instance>& new_side,
                                 bool final_on_new);
Json to_json(const SingletonFigures& figures);

}  // namespace midstream::lab
