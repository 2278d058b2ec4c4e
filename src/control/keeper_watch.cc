#include "control/keeper_watch.h"

#include <fmt/format.h>

#include "base/text.h"

namespace midstream {

KeptLook::KeptLook(std::string hold, std::vector<std::string> steps) : hold_(std::move(hold)), steps_(std::move(steps)) {}

void KeptLook::answered(const std::string& step, const Result<Json>& observation) {
  if (!observation) {
    answers_[step] = fmt::format("'{}' cannot be looked at: {}", step, observation.error().what);
    return;
  }
  if (get_bool_or(*observation, "reached", false)) {
    answers_[step].clear();
    return;
  }
  const auto why = get_string_or(*observation, "why", "");
  answers_[step] = fmt::format("'{}' does not hold any more: {}", step, why.empty() ? "no reason given" : why);
}

void KeptLook::found(std::string why) { found_.push_back(std::move(why)); }

std::string KeptLook::why() const {
  auto all = found_;
  for (const auto& step : steps_) {
    const auto answer = answers_.find(step);
    if (answer == answers_.end()) {
      all.push_back(fmt::format("'{}' was not answered for", step));
    } else if (!answer->second.empty()) {
      all.push_back(answer->second);
    }
  }
  return join(all, "; ");
}

std::vector<std::string> lost_since(const Json& before, const Json& now) {
  const auto lost = [](const Json& meter, const std::string& name) {
    for (const auto& one : meter.value("services", Json::array())) {
      if (get_string_or(one, "name", "") == name) return get_int_or(one.value("downtime_ms", Json::object()), "upper", 0);
    }
    return std::int64_t{0};
  };
  std::vector<std::string> out;
  for (const auto& one : now.value("services", Json::array())) {
    const auto name = get_string_or(one, "name", "");
    const auto more = lost(now, name) - lost(before, name);
    if (get_bool_or(one, "down", false)) {
      out.push_back(fmt::format("the probe of {} is red", name));
    } else if (more > 0) {
      out.push_back(fmt::format("{} has lost up to {} ms since the last look", name, more));
    }
  }
  return out;
}

}  // namespace midstream
