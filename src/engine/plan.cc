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
  if (has_agent(step.kind)) {
    if (step.mover.empty()) return bad("names no mover");
    if (std::ranges::find(plan.hosts, step.host) == plan.hosts.end()) return bad("names no known host");
    for (const auto& host : step.hosts) {
      if (std::ranges::find(plan.hosts, host) == plan.hosts.end()) return bad("involves an unknown host");
    }
    if (std::ranges::find(step.hosts, step.host) == step.hosts.end()) return bad("does not list its own host");
  }
  for (const auto& kept : step.keeps) {
    const int index = plan.find(kept);
    if (!earlier.contains(kept) || !has_agent(plan.steps[index].kind))
      return bad(fmt::format("keeps '{}', which nobody can look at", kept));
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
    case StepKind::confirm: return "confirm";
  }
  return "effect";
}

StepKind kind_from(std::string_view name) {
  for (const auto kind : {StepKind::wait, StepKind::hold, StepKind::confirm}) {
    if (kind_name(kind) == name) return kind;
  }
  return StepKind::effect;
}

Result<> validate_guard(const Plan& plan, const GuardSpec& guard) {
  const auto bad = [&](std::string_view what) {
    return corrupt(fmt::format("plan: the guard of '{}' {}", guard.service, what));
  };
  const int from = plan.find(guard.from);
  const int until = plan.find(guard.until);
  if (from < 0 || until < from) return bad("has no beginning, or no end after it");
  if (plan.steps[until].phase == "finish") return bad("ends in finish");
  if (guard.mover.empty() || std::ranges::find(plan.hosts, guard.host) == plan.hosts.end()) return bad("asks nobody");
  return {};
}

Json guard_json(const GuardSpec& guard) {
  return {{"service", guard.service},       {"host", guard.host}, {"mover", guard.mover},
          {"desired", guard.desired},       {"from", guard.from}, {"until", guard.until},
          {"limits", to_json(guard.limits)}};
}

Result<GuardSpec> guard_from_json(const Json& value) {
  GuardSpec guard;
  guard.service = TRY(get_string(value, "service"));
  guard.host = TRY(get_string(value, "host"));
  guard.mover = TRY(get_string(value, "mover"));
  guard.desired = TRY(get_object(value, "desired"));
  guard.from = TRY(get_string(value, "from"));
  guard.until = TRY(get_string(value, "until"));
  guard.limits = TRY(limits_from_json(TRY(get_object(value, "limits"))));
  return guard;
}

}  // namespace

Json to_json(const Step& step) {
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
          {"expected_ms", step.expected_ms},
          {"expected_from", step.expected_from},
          {"guard", step.guard},
          {"keeps", step.keeps},
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
  step.kind = kind_from(TRY(get_string(value, "kind")));
  step.host = TRY(get_string(value, "host"));
  // A journal from before steps listed them: any host may be involved.
  if (value.contains("hosts")) {
    step.hosts = TRY(get_strings(value, "hosts"));
  } else if (has_agent(step.kind)) {
    step.hosts = plan.hosts;
  }
  step.mover = TRY(get_string(value, "mover"));
  step.desired = TRY(get_object(value, "desired"));
  step.text = TRY(get_string(value, "text"));
  step.expected_blackout_ms = TRY(get_int(value, "expected_blackout_ms"));
  step.deadline_ms = TRY(get_int(value, "deadline_ms"));
  step.poll_ms = TRY(get_int(value, "poll_ms"));
  step.attempts = static_cast<int>(TRY(get_int(value, "attempts")));
  step.expected_ms = get_int_or(value, "expected_ms", 0);
  step.expected_from = get_string_or(value, "expected_from", "");
  step.guard = get_string_or(value, "guard", "");
  if (value.contains("keeps")) step.keeps = TRY(get_strings(value, "keeps"));
  step.back_ms = get_int_or(value, "back_ms", 0);
  step.irreversible = TRY(get_bool(value, "irreversible"));
  step.in_window = TRY(get_bool(value, "in_window"));
  step.needs = TRY(get_strings(value, "needs"));
  return step;
}

Result<> validate(const Plan& plan) {
  std::set<std::string> earlier;
  int last_phase = 0;
  for (const auto& step : plan.steps) {
    CHECK_OK(validate_step(plan, step, earlier, last_phase));
    earlier.insert(step.id);
    last_phase = phase_index(step.phase);
    if (!step.guard.empty() && std::ranges::find(plan.guards, step.guard, &GuardSpec::service) == plan.guards.end())
      return corrupt(fmt::format("plan: step '{}' is watched by a guard that is not there", step.id));
  }
  std::set<std::string> left;
  for (const auto& leave : plan.leave) {
    if (std::ranges::find(plan.hosts, leave.host) == plan.hosts.end() || !left.insert(leave.host).second)
      return corrupt(fmt::format("plan: '{}' is no host that could be left, or is left twice", leave.host));
  }
  for (const auto& guard : plan.guards) CHECK_OK(validate_guard(plan, guard));
  return {};
}

Json to_json(const Plan& plan) {
  Json steps = Json::array();
  for (const auto& step : plan.steps) steps.push_back(to_json(step));
  Json leave = Json::array();
  for (const auto& one : plan.leave) leave.push_back({{"host", one.host}, {"power_off", one.power_off}});
  Json guards = Json::array();
  for (const auto& guard : plan.guards) guards.push_back(guard_json(guard));
  return {{"schema", "midstream.plan/1"}, {"move", plan.move},         {"hosts", plan.hosts},
          {"budgets", plan.budgets},      {"steps", std::move(steps)}, {"leave", std::move(leave)},
          {"guards", std::move(guards)}};
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
  for (const auto& guard : value.value("guards", Json::array())) plan.guards.push_back(TRY(guard_from_json(guard)));
  CHECK_OK(validate(plan));
  return plan;
}

std::string plan_hash(const Plan& plan) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const unsigned char c : to_json(plan).dump()) hash = (hash ^ c) * 0x100000001b3;
  return fmt::format("{:016x}", hash);
}

}  // namespace midstream
