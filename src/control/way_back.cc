#include "control/way_back.h"

#include <fmt/format.h>

#include "sys/clock.h"

namespace midstream {

std::map<std::string, Json> undo_questions(const State& state) {
  std::map<std::string, Json> questions;
  for (std::size_t i = state.steps.size(); i-- > 0;) {
    const auto& step = state.plan.steps[i];
    if (step.kind != StepKind::effect || state.steps[i].progress != Progress::done || step.mover == "probe") continue;
    questions[step.host].push_back({{"step", step.id}, {"mover", step.mover}, {"desired", step.desired}});
  }
  return questions;
}

namespace {

// Where a step would be undone, the latest first; -1 for one that the plan has not.
int obstacle_in(const State& state, const Json& answers, std::string& why, std::set<std::string>& dead) {
  int worst = -1;
  for (const auto& [id, answer] : answers.items()) {
    const int index = state.plan.find(id);
    if (index < 0) continue;
    if (get_bool_or(answer, "new_dead", false)) dead.insert(state.plan.steps[index].service);
    if (get_bool_or(answer, "possible", false) || index < worst) continue;
    worst = index;
    why = get_string_or(answer, "why", "no reason given");
  }
  return worst;
}

}  // namespace

GoingBack going_back(const State& state, const std::map<std::string, Result<Json>>& answers) {
  GoingBack out;
  int worst = -1;
  const auto questions = undo_questions(state);
  for (const auto& [host, answer] : answers) {
    std::string why;
    int index = -1;
    if (answer) {
      index = obstacle_in(state, answer->value("steps", Json::object()), why, out.dead);
    } else if (const auto asked = questions.find(host); asked != questions.end()) {
      index = state.plan.find(get_string_or(asked->second[0], "step", ""));
      why = fmt::format("the agent on {} cannot be asked: {}", host, answer.error().text());
    }
    if (index <= worst) continue;
    worst = index;
    out.possible = false;
    out.step = state.plan.steps[index].id;
    out.why = why;
  }
  return out;
}

Json way_back_json(const State& state) {
  if (!state.way_back) return {};
  const auto& way = *state.way_back;
  return {{"possible", way.possible},           {"step", way.step},     {"why", way.why},
          {"since", format_wall(way.since_ms)}, {"closed", way.closed}, {"closed_ms", way.closed_ms}};
}

std::string way_back_text(const Json& way_back) {
  if (!way_back.is_object()) return "not observed yet";
  if (get_bool_or(way_back, "possible", false)) return "yes, with `midstream rollback`";
  return fmt::format("no, because '{}': {}", get_string_or(way_back, "step", ""), get_string_or(way_back, "why", ""));
}

}  // namespace midstream
