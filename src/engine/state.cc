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
    step.red.clear();
    step.red_since_ms = step.red_ms = 0;
  }
  step.progress = wanted;
  step.attempt = static_cast<int>(TRY(get_int(record, "attempt")));
  step.began_ms = at;
  step.error.reset();
  return {};
}

Result<> fold_verdict(State& state, const Json& record) {
  const auto service = TRY(get_string(record, "service"));
  const auto verdict = verdict_from(TRY(get_string(record, "verdict")));
  const auto words = TRY(get_string(record, "words"));
  state.verdicts[service] = verdict;
  if (record.contains("baseline")) state.baselines[service] = record["baseline"];
  auto& kept = state.verdict_records.emplace_back(record);
  kept.erase("baseline");
  if (!record.contains("back_to")) return {};
  state.back_to = TRY(get_string(record, "back_to"));
  if (state.plan.find(state.back_to) < 0)
    return corrupt("journal: a guard takes back to a step that is not in the plan");
  state.ramp_ms = TRY(get_int(record, "ramp_ms"));
  state.back_why = {ErrorKind::refused,
                    fmt::format("the guard of {} takes its traffic back to old: {}", service, words),
                    "mend new, then `midstream run` tries again; `midstream rollback` goes back altogether"};
  state.paused = false;
  state.paused_why.clear();
  return {};
}

// What is still ahead, in `plan` as in `steps`: `removes` make room for `steps` at the first one's place.
Result<> replace_steps(State& state, const Json& setting) {
  std::size_t at = state.steps.size();
  for (const auto& id : TRY(get_strings(setting, "removes"))) {
    const int index = state.plan.find(id);
    if (index < 0) return corrupt("journal: a step is removed that is not in the plan");
    const auto progress = state.steps[index].progress;
    if (progress == Progress::done || progress == Progress::running || progress == Progress::undoing)
      return corrupt("journal: a step is removed that was begun");
    at = std::min<std::size_t>(at, index);
    state.plan.steps.erase(state.plan.steps.begin() + index);
    state.steps.erase(state.steps.begin() + index);
  }
  for (const auto& value : setting.value("steps", Json::array())) {
    state.plan.steps.insert(state.plan.steps.begin() + at, TRY(step_from_json(value, state.plan)));
    state.steps.insert(state.steps.begin() + at, StepState());
    ++at;
  }
  return validate(state.plan);
}

Result<> fold_setting(State& state, const Json& setting) {
  const auto what = TRY(get_string(setting, "what"));
  const auto service = get_string_or(setting, "service", "");
  if (what == "steps") return replace_steps(state, setting);
  if (what == "limits") {
    const auto guard = std::ranges::find(state.plan.guards, service, &GuardSpec::service);
    if (guard == state.plan.guards.end()) return corrupt("journal: limits of a guard that is not there");
    guard->limits = TRY(limits_from_json(TRY(get_object(setting, "value"))));
    return {};
  }
  const auto value = TRY(get_int(setting, "value"));
  if (what == "budget") state.plan.budgets[service] = value;
  if (what == "window_to") state.window_to_minute = static_cast<int>(value);
  for (std::size_t i = 0; i < state.steps.size(); ++i) {
    auto& step = state.plan.steps[i];
    if (step.kind != StepKind::hold || state.steps[i].progress == Progress::done) continue;
    const bool meant =
        what == "hold" ? step.id.starts_with(service + ".weights-") : what == "soak" && step.phase == "soak";
    if (meant) step.deadline_ms = step.expected_ms = std::max<std::int64_t>(value, 1);
  }
  return {};
}

Result<> fold_tuned(State& state, const Json& record) {
  for (const auto& setting : record.value("set", Json::array())) CHECK_OK(fold_setting(state, setting));
  return {};
}

Result<> fold_kept(StepState& step, const Json& record) {
  const auto at = TRY(get_int(record, "at"));
  step.red = TRY(get_string(record, "why"));
  if (!step.red.empty() && step.red_since_ms == 0) step.red_since_ms = at;
  if (!step.red.empty()) return {};
  step.red_ms += std::max<std::int64_t>(0, at - step.red_since_ms);
  step.red_since_ms = 0;
  return {};
}

// What was measured is what is expected of every step of its kind that is still ahead: the worst of this move.
Result<> fold_measured(State& state, int index, const Json& record) {
  const auto upper = TRY(get_int(TRY(get_object(record, "blackout_ms")), "upper"));
  const auto of = [](const Step& step) { return step.mover + "/" + get_string_or(step.desired, "kind", ""); };
  const auto kind = of(state.plan.steps[index]);
  auto& [times, worst] = state.measured[kind];
  worst = std::max(worst, upper);
  ++times;
  for (std::size_t i = 0; i < state.steps.size(); ++i) {
    auto& step = state.plan.steps[i];
    if (of(step) != kind || step.service.empty() || state.steps[i].progress == Progress::done) continue;
    step.expected_blackout_ms = worst;
    step.expected_from = fmt::format("measured {} times in this move", times);
  }
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

int State::floor() const { return goal == Goal::back || back_to.empty() ? 0 : plan.find(back_to); }

std::string State::share(const std::string& service) const {
  for (std::size_t i = steps.size(); i-- > 0;) {
    const bool begun = steps[i].progress != Progress::pending && steps[i].progress != Progress::undone;
    if (begun && plan.steps[i].guard == service) return plan.steps[i].id;
  }
  return "";
}

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
  if (goal != Goal::back && !back_to.empty()) return false;
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
    state_.hash = get_string_or(record, "hash", "");
    if (state_.hash.empty()) state_.hash = plan_hash(state_.plan);
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
    state_.paused_why.clear();
    state_.back_begun = state_.goal == Goal::back;
    // What a guard takes back goes back to its end, unless all does.
    if (state_.goal == Goal::back) {
      state_.back_to.clear();
      state_.ramp_ms = kRampMs;
    }
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
    state_.paused_why = get_string_or(record, "why", "");
    return {};
  }
  if (type == "going_back") return fold_way_back(state_.way_back, record);
  if (type == "stopped") {
    state_.stopped = error_from_json(TRY(get_object(record, "error")));
    state_.stopped_step = TRY(get_string(record, "step"));
    if (get_bool_or(record, "taken_back", false)) state_.back_to.clear();
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
  if (type == "verdict") return fold_verdict(state_, record);
  if (type == "tuned") return fold_tuned(state_, record);
  const int index = state_.plan.find(TRY(get_string(record, "step")));
  if (index < 0) return corrupt("journal: a record of a step that is not in the plan");
  if (type == "kept") return fold_kept(state_.steps[index], record);
  if (type == "measured") return fold_measured(state_, index, record);
  if (type == "intent") return fold_intent(state_.steps[index], record);
  if (type == "outcome") return fold_outcome(state_.steps[index], record);
  return corrupt(fmt::format("journal: unknown record '{}'", type));
}

}  // namespace midstream
