// The fold: records in, state out.
#include <fmt/format.h>

#include <algorithm>

#include "engine/engine.h"

namespace midstream {

std::string_view to_string(Goal goal) {
  switch (goal) {
    case Goal::idle: return "idle";
    case Goal::run: return "run";
    case Goal::back: return "back";
    case Goal::finish: return "finish";
    case Goal::end: return "end";
  }
  return "idle";
}

namespace {

Goal goal_from(std::string_view name) {
  for (const auto goal : {Goal::run, Goal::back, Goal::finish, Goal::end}) {
    if (to_string(goal) == name) return goal;
  }
  return Goal::idle;
}

Result<> fold_intent(StepState& step, const Json& record) {
  const bool back = TRY(get_string(record, "direction")) == "back";
  const auto at = TRY(get_int(record, "at"));
  const auto wanted = back ? Progress::undoing : Progress::running;
  if (step.progress != wanted) {
    step.first_ms = at;
    step.result = Json::object();
  }
  step.progress = wanted;
  step.attempt = static_cast<int>(TRY(get_int(record, "attempt")));
  step.began_ms = at;
  step.error.reset();
  return {};
}

Result<> fold_outcome(StepState& step, const Json& record) {
  step.ended_ms = TRY(get_int(record, "at"));
  if (!TRY(get_bool(record, "ok"))) {
    step.error = error_from_json(record.value("error", Json::object()));
    return {};
  }
  const bool back = TRY(get_string(record, "direction")) == "back";
  step.progress = back ? Progress::undone : Progress::done;
  step.result = record.value("result", Json::object());
  step.error.reset();
  return {};
}

Result<> fold_way_back(std::optional<WayBack>& way_back, const Json& record) {
  WayBack now;
  now.possible = TRY(get_bool(record, "possible"));
  now.step = get_string_or(record, "step", "");
  now.why = get_string_or(record, "why", "");
  now.since_ms = TRY(get_int(record, "at"));
  if (way_back) {
    now.closed_ms = way_back->closed_ms + (way_back->possible ? 0 : now.since_ms - way_back->since_ms);
    now.closed = way_back->closed;
  }
  const bool closes = !now.possible && (!way_back || way_back->possible);
  now.closed += closes ? 1 : 0;
  way_back = now;
  return {};
}

}  // namespace

bool State::felt() const {
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (plan.steps[i].felt() && steps[i].progress == Progress::done) return true;
  }
  return false;
}

bool State::past_return() const {
  for (std::size_t i = 0; i < steps.size(); ++i) {
    if (plan.steps[i].irreversible && steps[i].progress != Progress::pending) return true;
  }
  return false;
}

Json State::desired(int index) const {
  Json desired = plan.steps[index].desired;
  if (!desired.contains("accept")) return desired;
  for (const auto& source : accepted) desired["accept"].push_back(source);
  return desired;
}

bool State::taken_back() const {
  return (goal == Goal::back || goal == Goal::end) && std::ranges::all_of(steps, [](const auto& s) {
           return s.progress == Progress::pending || s.progress == Progress::undone;
         });
}

bool State::steps_done() const {
  return std::ranges::all_of(steps, [](const auto& s) { return s.progress == Progress::done; });
}

bool State::over() const {
  return (goal == Goal::end || (goal == Goal::finish && steps_done())) &&
         std::ranges::all_of(plan.leave, [&](const auto& leave) { return left.contains(leave.host); });
}

bool State::complete() const {
  if (goal == Goal::end) return over();
  for (std::size_t i = 0; i < steps.size(); ++i) {
    const auto progress = steps[i].progress;
    if (goal == Goal::back) {
      if (progress != Progress::pending && progress != Progress::undone) return false;
      continue;
    }
    if (progress == Progress::running) return false;  // also beyond `until`: nothing is left half-way
    const int phase = phase_index(plan.steps[i].phase);
    if (goal == Goal::run && phase == phase_index("finish")) continue;
    if (goal == Goal::run && !until.empty() && phase > phase_index(until)) continue;
    if (progress != Progress::done) return false;
  }
  return goal != Goal::idle && (goal != Goal::finish || over());
}

Result<> Engine::fold(const Json& record) {
  const auto type = TRY(get_string(record, "type"));
  if (type == "plan") {
    if (!state_.plan.steps.empty()) return corrupt("journal: a second plan");
    state_.plan = TRY(plan_from_json(TRY(get_object(record, "plan"))));
    state_.steps.resize(state_.plan.steps.size());
    return {};
  }
  if (state_.plan.move.empty()) return corrupt(fmt::format("journal: '{}' before the plan", type));
  if (type == "epoch") {
    const auto epoch = static_cast<std::uint64_t>(TRY(get_int(record, "epoch")));
    if (epoch <= state_.epoch) return corrupt("journal: the epoch went back");
    state_.epoch = epoch;
    return {};
  }
  if (type == "asked") {
    state_.goal = goal_from(TRY(get_string(record, "goal")));
    state_.until = TRY(get_string(record, "until"));
    state_.paused = false;
    state_.back_begun = state_.goal == Goal::back;
    // A wait that was given up waits its whole time again.
    if (const int given_up = state_.plan.find(state_.stopped_step); given_up >= 0 && state_.stopped) {
      if (state_.plan.steps[given_up].kind == StepKind::wait)
        state_.steps[given_up].first_ms = TRY(get_int(record, "at"));
    }
    state_.stopped.reset();
    state_.stopped_step.clear();
    for (auto& step : state_.steps) step.attempt = 0;
    return {};
  }
  if (type == "paused") {
    state_.paused = TRY(get_bool(record, "paused"));
    return {};
  }
  if (type == "going_back") return fold_way_back(state_.way_back, record);
  if (type == "stopped") {
    state_.stopped = error_from_json(TRY(get_object(record, "error")));
    state_.stopped_step = TRY(get_string(record, "step"));
    if (get_bool_or(record, "not_begun", false)) state_.back_begun = false;
    return {};
  }
  if (type == "accepted") {
    for (auto& source : TRY(get_strings(record, "sources"))) state_.accepted.insert(std::move(source));
    return {};
  }
  if (type == "leaving" || type == "left") {
    (type == "left" ? state_.left : state_.leaving).insert(TRY(get_string(record, "host")));
    return {};
  }
  const int index = state_.plan.find(TRY(get_string(record, "step")));
  if (index < 0) return corrupt("journal: a record of a step that is not in the plan");
  if (type == "intent") return fold_intent(state_.steps[index], record);
  if (type == "outcome") return fold_outcome(state_.steps[index], record);
  return corrupt(fmt::format("journal: unknown record '{}'", type));
}

}  // namespace midstream
