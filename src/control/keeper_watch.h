// One look at everything that a hold keeps: what was asked of which step, and what came back. Pure; the controller asks.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace midstream {

class KeptLook {
 public:
  KeptLook(std::string hold, std::vector<std::string> steps);

  const std::string& hold() const { return hold_; }
  void answered(const std::string& step, const Result<Json>& observation);
  // What was found otherwise: the guards, the probes.
  void found(std::string why);
  bool complete() const { return answers_.size() == steps_.size(); }
  // What does not hold, in words; "" where all does. Nobody answering for a step is not holding.
  std::string why() const;

 private:
  std::string hold_;
  std::vector<std::string> steps_;
  std::map<std::string, std::string> answers_;  // step -> why it does not hold, "" where it does
  std::vector<std::string> found_;
};

// Services of `now` (the meter's figures) that are down, or have lost time since `before`.
std::vector<std::string> lost_since(const Json& before, const Json& now);

}  // namespace midstream
