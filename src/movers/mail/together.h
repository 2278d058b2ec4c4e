// Work that does not depend on each other, side by side: both hosts, or several users. What one of them throws is thrown
// to the caller once all have ended.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <future>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace midstream::mail {

// Both at once; the first error of the two. `one` runs on a thread of its own.
template <typename One, typename Other>
Result<std::pair<Json, Json>> both(const One& one, const Other& other) {
  auto apart = std::async(std::launch::async, [&]() -> Result<Json> { return one(); });
  Result<Json> second = other();
  auto first = TRY(apart.get());
  if (!second) return std::unexpected(second.error());
  return std::pair(std::move(first), std::move(*second));
}

// Calls `work` for each name, up to `at_once` of them at a time, in their order.
inline void for_each_name(const std::vector<std::string>& names, std::size_t at_once,
                          const std::function<void(const std::string&)>& work) {
  std::atomic<std::size_t> next = 0;
  std::vector<std::future<void>> workers;
  for (std::size_t i = 0; i < std::min(at_once, names.size()); ++i) {
    workers.push_back(std::async(std::launch::async, [&] {
      for (auto mine = next++; mine < names.size(); mine = next++) work(names[mine]);
    }));
  }
  for (auto& worker : workers) worker.wait();
  for (auto& worker : workers) worker.get();
}

}  // namespace midstream::mail
