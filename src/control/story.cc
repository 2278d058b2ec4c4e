#include "control/story.h"

#include <fmt/format.h>
#include <time.h>

#include "control/way_back.h"

namespace midstream {

namespace {

std::string clock_text(std::int64_t wall_ms) {
  const time_t seconds = wall_ms / 1000;
  tm parts{};
  ::localtime_r(&seconds, &parts);
  return fmt::format("{:02}:{:02}:{:02}", parts.tm_hour, parts.tm_min, parts.tm_sec);
}

std::string outcome_line(const Step& step, const StepState& at, const Json& record) {
  const bool back = get_string_or(record, "direction", "") == "back";
  if (!get_bool_or(record, "ok", false)) {
    const auto error = error_from_json(record.value("error", Json::object()));
    return fmt::format("{}{}: attempt {} failed: {}", back ? "undo: " : "", step.text, at.attempt, error.text());
  }
  if (back && step.kind != StepKind::effect) return "";
  if (step.kind == StepKind::hold) return step.text;
  const auto took = at.first_ms > 0 ? at.ended_ms - at.first_ms : 0;
  const auto details = figures(record.value("result", Json::object()));
  return fmt::format("{}{}{} ({:.1f} s{}{})", back ? "undone: " : "", step.kind == StepKind::wait ? "reached: " : "", step.text,
                     static_cast<double>(took) / 1000.0, details.empty() ? "" : "; ", details);
}

}  // namespace

std::string figures(const Json& result) {
  std::string out;
  int count = 0;
  if (!result.is_object()) return out;
  for (const auto& [key, value] : result.items()) {
    if (!value.is_number() || count == 6) continue;
    out += fmt::format("{}{} {}", out.empty() ? "" : ", ", key, value.dump());
    ++count;
  }
  return out;
}

std::string story_line(const State& state, const Json& record) {
  const auto type = get_string_or(record, "type", "");
  const auto at = clock_text(get_int_or(record, "at", 0));
  const auto line = [&](std::string_view service, std::string_view text) {
    return text.empty() ? std::string() : fmt::format("{}  {:<8} {}", at, service.empty() ? "move" : service, text);
  };
  if (type == "asked") return line("", fmt::format("asked: {}", get_string_or(record, "goal", "")));
  if (type == "paused") return line("", get_bool_or(record, "paused", false) ? "paused; `continue` goes on" : "goes on");
  if (type == "epoch" && get_int_or(record, "epoch", 1) > 1) return line("", fmt::format("epoch {}: all agents adopt it, what was under way is observed", get_int_or(record, "epoch", 0)));
  if (type == "going_back") return line("", fmt::format("going back: {}", way_back_text(record)));
  if (type == "stopped") return line("", fmt::format("STOPPED: {}", error_from_json(record.value("error", Json::object())).text()));
  if (type == "left") return line("", fmt::format("midstream has left {}: nothing of it is there any more", get_string_or(record, "host", "?")));
  const int index = state.plan.find(get_string_or(record, "step", ""));
  if (index < 0) return "";
  const auto& step = state.plan.steps[index];
  if (type == "outcome") return line(step.service, outcome_line(step, state.steps[index], record));
  return "";
}

}  // namespace midstream
