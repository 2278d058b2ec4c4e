#include "engine/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <set>

namespace midstream {

int phase_index(std::string_view phase) {
  const auto* found = std::ranges::find(kPhases, phase);
  return found == std::end(kPhases) ? -1 : static_cast<int>(found - std::begin(kPhases));
}

int Plan::find(std::string_view id) const {
  const auto found = std::ranges::find(steps, id, &Step::id);
  return found == steps.end() ? -1 : static_cast<int>(found - steps.begin());
}

namespace {

Result<> validate_step(const Plan& plan, const Step& step, const std::set<std::string>& earlier, int last_phase) {
  const auto bad = [&](std::string_view what) { return corrupt(fmt::format("plan: step '{}' {}", step.id, what)); };
  if (step.id.empty() || earlier.contains(step.id)) return bad("has no id of its own");
  const int phase = phase_index(step.phase);
  if (phase < 0) return bad("has no known phase");
  if (phase < last_phase) return bad("comes after a later phase");
  if (step.irreversible && step.phase != "finish") return bad("is irreversible outside of finish");
  if (step.deadline_ms <= 0 || step.poll_ms <= 0 || step.attempts <= 0) return bad("has no deadline");
  if (step.kind != StepKind::hold) {
    if (step.mover.empty()) return bad("names no mover");
    if (std::ranges::find(plan.hosts, step.host) == plan.hosts.end()) return bad("names no known host");
    for (const auto& host : step.hosts) {
      if (std::ranges::find(plan.hosts, host) == plan.hosts.end()) return bad("involves an unknown host");
    }
    if (std::ranges::find(step.hosts, step.host) == step.hosts.end()) return bad("does not list its own host");
  }
  for (const auto& need : step.needs) {
    if (!earlier.contains(need)) return bad(fmt::format("needs '{}', which is not an earlier step", need));
  }
  return {};
}

std::string_view kind_name(StepKind kind) {
  switch (kind) {
    case StepKind::effect: return "effect";
    case StepKind::wait: return "wait";
    case StepKind::hold: return "hold";
  }
  return "effect";
}

Json step_json(const Step& step) {
  return {{"id", step.id},
          {"phase", step.phase},
          {"service", step.service},
          {"kind", kind_name(step.kind)},
          {"host", step.host},
          {"hosts", step.hosts},
          {"mover", step.mover},
          {"desired", step.desired},
          {"text", step.text},
          {"expected_blackout_ms", step.expected_blackout_ms},
          {"deadline_ms", step.deadline_ms},
          {"poll_ms", step.poll_ms},
          {"attempts", step.attempts},
          {"back_ms", step.back_ms},
          {"irreversible", step.irreversible},
          {"in_window", step.in_window},
          {"needs", step.needs}};
}

Result<Step> step_from_json(const Json& value, const Plan& plan) {
  Step step;
  step.id = TRY(get_string(value, "id"));
  step.phase = TRY(get_string(value, "phase"));
  step.service = TRY(get_string(value, "service"));
  const auto kind = TRY(get_string(value, "kind"));
  step.kind = kind == "wait" ? StepKind::wait : kind == "hold" ? StepKind::hold : StepKind::effect;
  step.host = TRY(get_string(value, "host"));
  // A journal from before steps listed them: any host may be involved.
  if (value.contains("hosts")) {
    step.hosts = TRY(get_strings(value, "hosts"));
  } else if (step.kind != StepKind::hold) {
    step.hosts = plan.hosts;
  }
  step.mover = TRY(get_string(value, "mover"));
  step.desired = TRY(get_object(value, "desired"));
  step.text = TRY(get_string(value, "text"));
  step.expected_blackout_ms = TRY(get_int(value, "expected_blackout_ms"));
  step.deadline_ms = TRY(get_int(value, "deadline_ms"));
  step.poll_ms = TRY(get_int(value, "poll_ms"));
  step.attempts = static_cast<int>(TRY(get_int(value, "attempts")));
  step.back_ms = get_int_or(value, "back_ms", 0);
  step.irreversible = TRY(get_bool(value, "irreversible"));
  step.in_window = TRY(get_bool(value, "in_window"));
  step.needs = TRY(get_strings(value, "needs"));
  return step;
}

}  // namespace

Result<> validate(const Plan& plan) {
  std::set<std::string> earlier;
  int last_phase = 0;
  for (const auto& step : plan.steps) {
    CHECK_OK(validate_step(plan, step, earlier, last_phase));
    earlier.insert(step.id);
    last_phase = phase_index(step.phase);
  }
  std::set<std::string> left;
  for (const auto& leave : plan.leave) {
    if (std::ranges::find(plan.hosts, leave.host) == plan.hosts.end() || !left.insert(leave.host).second)
      return corrupt(fmt::format("plan: '{}' is no host that could be left, or is left twice", leave.host));
  }
  return {};
}

Json to_json(const Plan& plan) {
  Json steps = Json::array();
  for (const auto& step : plan.steps) steps.push_back(step_json(step));
  Json leave = Json::array();
  for (const auto& one : plan.leave) leave.push_back({{"host", one.host}, {"power_off", one.power_off}});
  return {{"schema", "midstream.plan/1"}, {"move", plan.move},         {"hosts", plan.hosts},
          {"budgets", plan.budgets},      {"steps", std::move(steps)}, {"leave", std::move(leave)}};
}

Result<Plan> plan_from_json(const Json& value) {
  Plan plan;
  if (TRY(get_string(value, "schema")) != "midstream.plan/1") return refused("the plan is of another version");
  plan.move = TRY(get_string(value, "move"));
  plan.hosts = TRY(get_strings(value, "hosts"));
  plan.budgets = TRY(get_object(value, "budgets"));
  if (!value.contains("steps") || !value["steps"].is_array()) return corrupt("the plan has no list of steps");
  for (const auto& step : value["steps"]) plan.steps.push_back(TRY(step_from_json(step, plan)));
  // A journal from before hosts were left has none.
  for (const auto& leave : value.value("leave", Json::array()))
    plan.leave.push_back({TRY(get_string(leave, "host")), TRY(get_bool(leave, "power_off"))});
  CHECK_OK(validate(plan));
  return plan;
}

std::string plan_hash(const Plan& plan) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const unsigned char c : to_json(plan).dump()) hash = (hash ^ c) * 0x100000001b3;
  return fmt::format("{:016x}", hash);
}

}  // namespace midstream
