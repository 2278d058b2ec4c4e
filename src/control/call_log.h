// What an agent has done, on its disk: each apply and undo when it begins and when it has ended, and the plan that they
// belong to. From the logs of all agents a journal that was lost is rebuilt (rebuild.h). docs/formats/link.md.
#pragma once

#include <filesystem>
#include <mutex>
#include <string>

#include "base/json.h"
#include "base/result.h"

namespace midstream {

class CallLog {
 public:
  explicit CallLog(std::filesystem::path directory) : directory_(std::move(directory)) {}

  // Durable when they return. An effect whose beginning cannot be kept must not be made. Thread-safe.
  Result<> begin(std::uint64_t epoch, std::uint64_t number, const std::string& step, const std::string& verb);
  Result<> end(std::uint64_t epoch, std::uint64_t number, const Result<Json>& result);

  // The journal's first record.
  Result<> keep_plan(const Json& record);
  // Its hash; "" where none is kept.
  std::string plan_hash() const;

  // {"plan": record or null, "calls": [{"epoch", "number", "step", "verb", "at", "ended_at", "ok", "result", "error"}]},
  // calls in the order in which they began; "ok" is missing where the end is not known.
  Result<Json> recall() const;

 private:
  Result<> append(Json line);

  std::filesystem::path directory_;
  mutable std::mutex mutex_;
};

}  // namespace midstream
