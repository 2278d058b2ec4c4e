#include "tests/support/engine_text.h"

#include <fmt/format.h>

namespace midstream::test {

namespace {

std::string_view direction_name(Direction direction) { return direction == Direction::forward ? "forward" : "back"; }

std::string outcome_record(const Json& record) {
  auto line =
      fmt::format("outcome {} {} ", get_string_or(record, "step", "?"), get_string_or(record, "direction", "?"));
  if (get_bool_or(record, "ok", false))
    return line + (get_bool_or(record, "observed", false) ? "ok, by observation" : "ok");
  return line + error_line(error_from_json(record.value("error", Json::object())));
}

std::string answer_text(const Result<Json>& result) { return result ? result->dump() : error_line(result.error()); }

struct EventLine {
  std::string operator()(const Started&) const { return "started"; }
  std::string operator()(const Adopted& e) const { return fmt::format("adopted by {}", e.host); }
  std::string operator()(const NotAdopted& e) const {
    return fmt::format("not adopted by {}: {}", e.host, error_line(e.why));
  }
  std::string operator()(const LinkLost& e) const { return fmt::format("link to {} lost", e.host); }
  std::string operator()(const Asked& e) const { return fmt::format("asked {} {}", to_string(e.goal), e.until); }
  std::string operator()(const Paused& e) const { return e.paused ? "pause" : "continue"; }
  std::string operator()(const Outcome& e) const {
    return fmt::format("outcome {} {} of epoch {}: {}", e.step, direction_name(e.direction), e.epoch,
                       answer_text(e.result));
  }
  std::string operator()(const Observed& e) const {
    return fmt::format("observed {} of epoch {}: {}", e.step, e.epoch, answer_text(e.result));
  }
  std::string operator()(const Facts& e) const {
    return fmt::format("facts, window {}", e.window_open ? "open" : "closed");
  }
  std::string operator()(const NoFacts&) const { return "no facts"; }
  std::string operator()(const Accepted& e) const { return fmt::format("accepted {} sources", e.sources.size()); }
  std::string operator()(const Left& e) const {
    return fmt::format("left {} in epoch {}: {}", e.host, e.epoch, e.result ? "ok" : error_line(e.result.error()));
  }
  std::string operator()(const GoingBack& e) const {
    return e.possible ? "going back is possible" : fmt::format("going back is not possible: {}: {}", e.step, e.why);
  }
  std::string operator()(const Tuned& e) const { return fmt::format("{} tunes {}", e.by, e.what); }
  std::string operator()(const Kept& e) const {
    return fmt::format("kept by {}: {}", e.step, e.why.empty() ? "all" : e.why);
  }
  std::string operator()(const Measured& e) const { return fmt::format("measured {}: {} ms", e.step, e.upper_ms); }
  std::string operator()(const Confirmed& e) const { return fmt::format("{} confirms {}", e.by, e.phase); }
  std::string operator()(const Judged& e) const {
    return fmt::format("the guard of {}: {}", e.service, to_string(e.judgement.verdict));
  }
  std::string operator()(const Tick&) const { return "tick"; }
};

}  // namespace

std::string_view verb_name(Call::Verb verb) {
  switch (verb) {
    case Call::Verb::apply: return "apply";
    case Call::Verb::undo: return "undo";
    case Call::Verb::observe: return "observe";
  }
  return "?";
}

std::string_view progress_name(Progress progress) {
  switch (progress) {
    case Progress::pending: return "pending";
    case Progress::running: return "running";
    case Progress::done: return "done";
    case Progress::undoing: return "undoing";
    case Progress::undone: return "undone";
  }
  return "?";
}

std::string error_line(const Error& error) { return fmt::format("{} \"{}\"", to_string(error.kind), error.text()); }

std::string record_line(const Json& record) {
  const auto type = get_string_or(record, "type", "?");
  const auto step = get_string_or(record, "step", "?");
  if (type == "epoch") return fmt::format("epoch {}", get_int_or(record, "epoch", 0));
  if (type == "asked") {
    const auto until = get_string_or(record, "until", "");
    return fmt::format("asked {}{}{}", get_string_or(record, "goal", "?"), until.empty() ? "" : " until ", until);
  }
  if (type == "paused") {
    const auto why = get_string_or(record, "why", "");
    return get_bool_or(record, "paused", false) ? "paused" + (why.empty() ? "" : ": " + why) : "continued";
  }
  if (type == "tuned")
    return fmt::format("tuned by {}: {}", get_string_or(record, "by", "?"), get_string_or(record, "what", "?"));
  if (type == "kept")
    return fmt::format("kept by {}: {}", step,
                       get_string_or(record, "why", "").empty() ? "all" : get_string_or(record, "why", ""));
  if (type == "measured") {
    const auto cost = record.value("blackout_ms", Json::object());
    return fmt::format("measured {}: {} to {} ms", step, get_int_or(cost, "lower", -1), get_int_or(cost, "upper", -1));
  }
  if (type == "verdict") {
    const auto back_to = get_string_or(record, "back_to", "");
    return fmt::format(
        "verdict of the guard of {} at {}: {} \"{}\"{}", get_string_or(record, "service", "?"), step,
        get_string_or(record, "verdict", "?"), get_string_or(record, "words", ""),
        back_to.empty() ? "" : fmt::format(", back to {}, {} ms a share", back_to, get_int_or(record, "ramp_ms", -1)));
  }
  if (type == "going_back") {
    return get_bool_or(record, "possible", false) ? "going back is possible"
                                                  : fmt::format("going back is not possible: {}", step);
  }
  if (type == "intent") {
    return fmt::format("intent {} {}, attempt {}", step, get_string_or(record, "direction", "?"),
                       get_int_or(record, "attempt", 0));
  }
  if (type == "outcome") return outcome_record(record);
  if (type == "stopped") {
    return fmt::format("stopped at {}: {}", step, error_line(error_from_json(record.value("error", Json::object()))));
  }
  if (type == "accepted") return fmt::format("accepted {}", record.value("sources", Json::array()).dump());
  if (type == "leaving" || type == "left") return fmt::format("{} {}", type, get_string_or(record, "host", "?"));
  return type;
}

std::string command_line(const Command& command) {
  if (const auto* adopt = std::get_if<Adopt>(&command))
    return fmt::format("adopt on {}, epoch {}", adopt->host, adopt->epoch);
  if (const auto* depart = std::get_if<Depart>(&command))
    return fmt::format("depart from {}{}, epoch {}", depart->host, depart->power_off ? " and shut it down" : "",
                       depart->epoch);
  const auto& call = std::get<Call>(command);
  return fmt::format("{} {} on {}, epoch {}", verb_name(call.verb), call.step, call.host, call.epoch);
}

std::string event_line(const Event& event) { return std::visit(EventLine{}, event); }

std::string state_text(const State& state) {
  auto text =
      fmt::format("epoch {} goal {} until '{}' paused {} stopped {} at '{}'\n", state.epoch, to_string(state.goal),
                  state.until, state.paused, state.stopped ? error_line(*state.stopped) : "no", state.stopped_step);
  text += fmt::format("back to '{}', {} ms a share\n", state.back_to, state.ramp_ms);
  for (const auto& [service, verdict] : state.verdicts) text += fmt::format("{} {}\n", service, to_string(verdict));
  if (const auto& way = state.way_back) {
    text += fmt::format("  way back {} {} '{}' since {}, closed {} times, {} ms; begun {}\n", way->possible, way->step,
                        way->why, way->since_ms, way->closed, way->closed_ms, state.back_begun);
  }
  for (std::size_t i = 0; i < state.steps.size(); ++i) {
    const auto& step = state.steps[i];
    text += fmt::format("  {} {} attempt {} began {} first {} ended {} result {} error {}\n", state.plan.steps[i].id,
                        progress_name(step.progress), step.attempt, step.began_ms, step.first_ms, step.ended_ms,
                        step.result.dump(), step.error ? error_line(*step.error) : "none");
  }
  return text;
}

}  // namespace midstream::test
