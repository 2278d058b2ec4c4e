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
  if (step.kind == StepKind::confirm)
    return fmt::format("phase {} may begin: the word of {}", step.phase, get_string_or(record.value("result", Json::object()), "by", "?"));
  if (step.kind == StepKind::hold) {
    const auto result = record.value("result", Json::object());
    if (get_int_or(result, "extended_ms", 0) > 0)
      return fmt::format("{} (lasted {:.1f} s longer)", step.text, static_cast<double>(get_int_or(result, "extended_ms", 0)) / 1000);
    const auto guard = get_string_or(result, "guard", "");
    return guard.empty() ? step.text : fmt::format("{} (guard: {})", step.text, guard);
  }
  const auto took = at.first_ms > 0 ? at.ended_ms - at.first_ms : 0;
  const auto details = figures(record.value("result", Json::object()));
  return fmt::format("{}{}{} ({:.1f} s{}{})", back ? "undone: " : "", step.kind == StepKind::wait ? "reached: " : "", step.text,
                     static_cast<double>(took) / 1000.0, details.empty() ? "" : "; ", details);
}

std::string paused_line(const Json& record) {
  const auto why = get_string_or(record, "why", "");
  return fmt::format("paused{}; `continue` goes on", why.empty() ? "" : ": " + why);
}

std::string verdict_line(const Json& record) {
  const auto verdict = get_string_or(record, "verdict", "");
  const auto back = record.contains("back_to") ? "; its traffic goes back to old" : "";
  return fmt::format("guard: {}{}: {}", verdict, back, get_string_or(record, "words", ""));
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
  if (type == "paused") return line("", get_bool_or(record, "paused", false) ? paused_line(record) : "goes on");
  if (type == "tuned") return line("", fmt::format("tuned by {}: {}", get_string_or(record, "by", "?"), get_string_or(record, "what", "")));
  if (type == "verdict") return line(get_string_or(record, "service", ""), verdict_line(record));
  if (type == "epoch" && get_int_or(record, "epoch", 1) > 1) return line("", fmt::format("epoch {}: all agents adopt it, what was under way is observed", get_int_or(record, "epoch", 0)));
  if (type == "going_back") return line("", fmt::format("going back: {}", way_back_text(record)));
  if (type == "stopped") return line("", fmt::format("STOPPED: {}", error_from_json(record.value("error", Json::object())).text()));
  if (type == "left") return line("", fmt::format("midstream has left {}: nothing of it is there any more", get_string_or(record, "host", "?")));
  const int index = state.plan.find(get_string_or(record, "step", ""));
  if (index < 0) return "";
  const auto& step = state.plan.steps[index];
  if (type == "intent" && step.kind == StepKind::confirm) return line("", fmt::format("{}: `midstream confirm {}`", step.text, step.phase));
  if (type == "kept") {
    const auto why = get_string_or(record, "why", "");
    return line(step.service, why.empty() ? fmt::format("'{}': all is well again; it lasts {:.1f} s longer", step.id, static_cast<double>(state.steps[index].red_ms) / 1000)
                                          : fmt::format("'{}' stands still: {}", step.id, why));
  }
  if (type == "measured") {
    const auto cost = record.value("blackout_ms", Json::object());
    if (get_int_or(cost, "upper", 0) == 0) return "";
    return line(step.service, fmt::format("measured: '{}' cost {} to {} ms", step.id, get_int_or(cost, "lower", 0), get_int_or(cost, "upper", 0)));
  }
  if (type == "outcome") return line(step.service, outcome_line(step, state.steps[index], record));
  return "";
}

}  // namespace midstream
