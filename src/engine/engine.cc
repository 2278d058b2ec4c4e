#include "engine/engine.h"

#include <fmt/format.h>

#include <algorithm>

namespace midstream {

namespace {

constexpr int kResolveAttempts = 30;

std::int64_t backoff_ms(int attempt) { return 500ll << std::clamp(attempt - 1, 0, 5); }

std::string_view name_of(Direction direction) { return direction == Direction::forward ? "forward" : "back"; }

bool transient(ErrorKind kind) {
  return kind == ErrorKind::retry || kind == ErrorKind::unknown || kind == ErrorKind::cancelled;
}

}  // namespace

struct Engine::Flight {
  std::int64_t now;
  Effects effects;

  void wake(std::int64_t at) {
    if (!effects.wake_at || *effects.wake_at > at) effects.wake_at = at;
  }
};

Json Engine::plan_record(std::int64_t now, const Plan& plan) {
  return {{"type", "plan"}, {"at", now}, {"hash", plan_hash(plan)}, {"plan", to_json(plan)}};
}

// A record takes effect here at once; the shell makes it durable before any command of this flight leaves.
void Engine::record(Flight& flight, Json record) {
  record["at"] = flight.now;
  // Folding what we just made cannot fail: the fold's errors are about foreign journals.
  if (auto folded = fold(record); !folded) {
    state_.stopped = folded.error();
    return;
  }
  flight.effects.records.push_back(std::move(record));
}

Effects Engine::handle(std::int64_t now, const Event& event) {
  Flight flight{now, {}};
  std::visit(
      [&](const auto& e) {
        using T = std::decay_t<decltype(e)>;
        if constexpr (std::is_same_v<T, Started> || std::is_same_v<T, LinkLost>) {
          renew_epoch(flight);
        } else if constexpr (std::is_same_v<T, Adopted>) {
          adopted(e);
        } else if constexpr (std::is_same_v<T, Asked>) {
          asked(flight, e);
        } else if constexpr (std::is_same_v<T, Paused>) {
          record(flight, {{"type", "paused"}, {"paused", e.paused}});
        } else if constexpr (std::is_same_v<T, Outcome>) {
          ended(flight, e);
        } else if constexpr (std::is_same_v<T, Observed>) {
          observed(flight, e);
        } else if constexpr (std::is_same_v<T, Facts>) {
          facts_ = e;
        }
      },
      event);
  proceed(flight);
  return std::move(flight.effects);
}

// Whatever is under way becomes unknown; every agent ends it before it answers for the new epoch.
void Engine::renew_epoch(Flight& flight) {
  record(flight, {{"type", "epoch"}, {"epoch", state_.epoch + 1}});
  adopted_.clear();
  in_flight_ = false;
  resolve_ = true;
  asked_in_vain_ = 0;
  not_before_ = 0;
  seen_ = Json::object();
  for (const auto& host : state_.plan.hosts) flight.effects.commands.push_back(Adopt{host, state_.epoch});
}

// An answer to an earlier epoch may come late; it says nothing about what this one has ended.
void Engine::adopted(const Adopted& adoption) {
  const bool ours = std::ranges::find(state_.plan.hosts, adoption.host) != state_.plan.hosts.end();
  if (ours && adoption.epoch == state_.epoch) adopted_.insert(adoption.host);
}

std::optional<Error> Engine::objection(Goal goal) const {
  const auto no = [](std::string what, std::string todo) {
    return Error{ErrorKind::refused, std::move(what), std::move(todo)};
  };
  if (goal == Goal::back && state_.past_return()) {
    return no("the move is past the point of no return: finish was begun", "let `finish` end");
  }
  if (goal == Goal::run && state_.past_return()) return no("finish was begun", "use `finish` to let it end");
  if (goal != Goal::back && state_.goal == Goal::back && !state_.complete()) {
    return no("a rollback is under way", "use `rollback` to let it end, then run again");
  }
  if (goal == Goal::finish && !state_.past_return()) {
    for (std::size_t i = 0; i < state_.steps.size(); ++i) {
      const auto& step = state_.plan.steps[i];
      if (step.phase != "finish" && state_.steps[i].progress != Progress::done) {
        return no(fmt::format("step '{}' is not done", step.id), "finish comes after a whole `run`");
      }
    }
  }
  return std::nullopt;
}

void Engine::asked(Flight& flight, const Asked& ask) {
  if (objection(ask.goal)) return;
  const bool turning = ask.goal == Goal::back && state_.goal != Goal::back;
  record(flight, {{"type", "asked"}, {"goal", to_string(ask.goal)}, {"until", ask.until}});
  asked_in_vain_ = 0;
  // An effect under way must be over before it is undone: the new epoch ends it.
  if (turning && in_flight_) {
    renew_epoch(flight);
  } else if (!in_flight_) {
    resolve_ = true;
    not_before_ = 0;
  }
}

int Engine::running_index() const {
  for (std::size_t i = 0; i < state_.steps.size(); ++i) {
    const auto progress = state_.steps[i].progress;
    if (progress == Progress::running || progress == Progress::undoing) return static_cast<int>(i);
  }
  return -1;
}

void Engine::proceed(Flight& flight) {
  if (state_.plan.steps.empty() || in_flight_ || state_.stopped) return;
  if (adopted_.size() < state_.plan.hosts.size()) return;
  if (state_.goal == Goal::run || state_.goal == Goal::finish) forward(flight);
  if (state_.goal == Goal::back) backward(flight);
}

void Engine::forward(Flight& flight) {
  while (!in_flight_ && !state_.stopped && !state_.complete()) {
    const auto next =
        std::ranges::find_if(state_.steps, [](const StepState& s) { return s.progress != Progress::done; });
    const int index = static_cast<int>(next - state_.steps.begin());
    if (next->progress == Progress::running) {
      drive(flight, index);
      if (state_.steps[index].progress == Progress::running) return;
      continue;
    }
    if (state_.paused) return;
    const auto& step = state_.plan.steps[index];
    if (bounded(step) && !facts_) return;
    if (auto why = refusal(step)) return stop(flight, step.id, *why);
    begin(flight, index, Direction::forward);
  }
}

void Engine::backward(Flight& flight) {
  for (int index = static_cast<int>(state_.steps.size()) - 1; index >= 0; --index) {
    const auto progress = state_.steps[index].progress;
    if (progress == Progress::pending || progress == Progress::undone) continue;
    const auto& step = state_.plan.steps[index];
    if (step.kind != StepKind::effect) {
      record(flight,
             {{"type", "outcome"}, {"step", step.id}, {"direction", "back"}, {"ok", true}, {"result", Json::object()}});
      continue;
    }
    if (flight.now < not_before_) return flight.wake(not_before_);
    return begin(flight, index, Direction::back);
  }
}

// Whether the window or a budget has a say in when this step begins.
bool Engine::bounded(const Step& step) const {
  return step.in_window || (step.expected_blackout_ms > 0 && state_.plan.budgets.contains(step.service));
}

std::optional<Error> Engine::refusal(const Step& step) const {
  for (const auto& need : step.needs) {
    const int index = state_.plan.find(need);
    if (index < 0 || state_.steps[index].progress != Progress::done) {
      return Error{ErrorKind::refused, fmt::format("step '{}' needs '{}', which is not done", step.id, need), ""};
    }
  }
  if (step.in_window && !facts_->window_open) {
    return Error{ErrorKind::refused, fmt::format("step '{}' can be felt by users and the window is closed", step.id),
                 "run again when the window is open; nothing is held meanwhile"};
  }
  if (step.expected_blackout_ms > 0 && state_.plan.budgets.contains(step.service)) {
    const auto used = facts_->downtime_ms.contains(step.service) ? facts_->downtime_ms.at(step.service) : 0;
    const auto budget = get_int_or(state_.plan.budgets, step.service, 0);
    if (used + step.expected_blackout_ms > budget) {
      return Error{
          ErrorKind::refused,
          fmt::format("stop-loss: service '{}' has used {} ms of its {} ms, and step '{}' is expected to cost {} ms "
                      "({} + {} > {})",
                      step.service, used, budget, step.id, step.expected_blackout_ms, used, step.expected_blackout_ms,
                      budget),
          "raise the budget or roll back"};
    }
  }
  return std::nullopt;
}

void Engine::begin(Flight& flight, int index, Direction direction) {
  const auto& step = state_.plan.steps[index];
  const int attempt = state_.steps[index].attempt + 1;
  const bool fresh =
      state_.steps[index].progress != (direction == Direction::forward ? Progress::running : Progress::undoing);
  record(flight, {{"type", "intent"},
                  {"step", step.id},
                  {"direction", name_of(direction)},
                  {"attempt", fresh ? 1 : attempt},
                  {"epoch", state_.epoch}});
  resolve_ = false;
  asked_in_vain_ = 0;
  not_before_ = 0;
  seen_ = Json::object();
  if (step.kind == StepKind::effect) {
    send(flight, index, direction == Direction::forward ? Call::Verb::apply : Call::Verb::undo);
  } else {
    drive(flight, index);
  }
}

void Engine::send(Flight& flight, int index, Call::Verb verb) {
  const auto& step = state_.plan.steps[index];
  const auto deadline =
      verb == Call::Verb::observe ? std::min<std::int64_t>(step.deadline_ms, 15'000) : step.deadline_ms;
  flight.effects.commands.push_back(Call{verb, step.id, step.host, step.mover, step.desired, state_.epoch, deadline});
  in_flight_ = true;
}

// A forward step that is under way with no command out.
void Engine::drive(Flight& flight, int index) {
  const auto& step = state_.plan.steps[index];
  const auto& at = state_.steps[index];
  if (step.kind == StepKind::hold) {
    const auto end = at.first_ms + step.deadline_ms;
    if (flight.now >= end) return succeed(flight, index, Json::object(), false);
    return flight.wake(end);
  }
  if (flight.now < not_before_) return flight.wake(not_before_);
  if (step.kind == StepKind::wait || resolve_) return send(flight, index, Call::Verb::observe);
  begin(flight, index, Direction::forward);
}

void Engine::ended(Flight& flight, const Outcome& outcome) {
  const int index = running_index();
  if (index < 0 || !in_flight_ || outcome.epoch != state_.epoch || state_.plan.steps[index].id != outcome.step) return;
  in_flight_ = false;
  if (outcome.result) return succeed(flight, index, *outcome.result, false);
  fail(flight, index, outcome.result.error());
}

void Engine::observed(Flight& flight, const Observed& observation) {
  const int index = running_index();
  if (index < 0 || !in_flight_ || observation.epoch != state_.epoch || state_.plan.steps[index].id != observation.step)
    return;
  in_flight_ = false;
  const auto& step = state_.plan.steps[index];
  if (!observation.result && !transient(observation.result.error().kind))
    return fail(flight, index, observation.result.error());
  if (observation.result) seen_ = *observation.result;
  const bool reached = observation.result && get_bool_or(*observation.result, "reached", false);
  if (reached) return succeed(flight, index, *observation.result, step.kind == StepKind::effect);
  if (step.kind == StepKind::wait) {
    if (flight.now - state_.steps[index].first_ms < step.deadline_ms) {
      not_before_ = flight.now + step.poll_ms;
      return;
    }
    const auto why =
        observation.result ? get_string_or(seen_, "why", "no reason given") : observation.result.error().what;
    return fail(
        flight, index,
        Error{ErrorKind::refused, fmt::format("'{}' was not reached within {} ms: {}", step.id, step.deadline_ms, why),
              "run again to wait on, or roll back"});
  }
  if (observation.result) {  // the effect did not happen, or only in part: apply is idempotent and completes it
    resolve_ = false;
    return;
  }
  if (++asked_in_vain_ >= kResolveAttempts) return stop(flight, step.id, observation.result.error());
  not_before_ = flight.now + backoff_ms(std::min(asked_in_vain_, 2));
}

void Engine::succeed(Flight& flight, int index, const Json& result, bool by_observation) {
  const bool back = state_.steps[index].progress == Progress::undoing;
  Json entry{{"type", "outcome"},
             {"step", state_.plan.steps[index].id},
             {"direction", back ? "back" : "forward"},
             {"ok", true},
             {"result", result}};
  if (by_observation) entry["observed"] = true;
  record(flight, std::move(entry));
  resolve_ = false;
  not_before_ = 0;
}

void Engine::fail(Flight& flight, int index, const Error& error) {
  const auto& step = state_.plan.steps[index];
  const bool back = state_.steps[index].progress == Progress::undoing;
  record(flight, {{"type", "outcome"},
                  {"step", step.id},
                  {"direction", back ? "back" : "forward"},
                  {"ok", false},
                  {"error", to_json(error)}});
  const int attempt = state_.steps[index].attempt;
  // Unknown: work may still be going on, perhaps at a peer of that agent. The new epoch ends it everywhere.
  if (error.kind == ErrorKind::unknown) renew_epoch(flight);
  if (!transient(error.kind) || attempt >= step.attempts) return stop(flight, step.id, error);
  resolve_ = error.kind != ErrorKind::retry;
  not_before_ = flight.now + backoff_ms(attempt);
}

void Engine::stop(Flight& flight, const std::string& step, const Error& error) {
  record(flight, {{"type", "stopped"}, {"step", step}, {"error", to_json(error)}});
}

std::string Engine::waiting() const {
  if (state_.stopped) return fmt::format("stopped at '{}': {}", state_.stopped_step, state_.stopped->text());
  if (state_.complete()) return "";
  if (adopted_.size() < state_.plan.hosts.size()) {
    std::string missing;
    for (const auto& host : state_.plan.hosts) {
      if (!adopted_.contains(host)) missing += (missing.empty() ? "" : ", ") + host;
    }
    return fmt::format("waits for the agent on {}", missing);
  }
  const int index = running_index();
  if (index < 0 && state_.paused) return "paused; `continue` goes on";
  if (index < 0) return facts_ || state_.goal == Goal::idle ? "" : "waits for the measured downtime and the window";
  const auto& at = state_.steps[index];
  const auto why = get_string_or(seen_, "why", "");
  if (!why.empty()) return fmt::format("'{}' waits: {}", state_.plan.steps[index].id, why);
  if (at.error) return fmt::format("'{}' is tried again: {}", state_.plan.steps[index].id, at.error->what);
  return fmt::format("'{}' is under way", state_.plan.steps[index].id);
}

}  // namespace midstream
