#include "engine/engine.h"

#include <fmt/format.h>

#include <algorithm>

#include "engine/fit.h"
#include "engine/flight.h"

namespace midstream {

namespace {

constexpr int kResolveAttempts = 30;

std::int64_t backoff_ms(int attempt) { return 500ll << std::clamp(attempt - 1, 0, 5); }

std::string_view name_of(Direction direction) { return direction == Direction::forward ? "forward" : "back"; }

bool transient(ErrorKind kind) {
  return kind == ErrorKind::retry || kind == ErrorKind::unknown || kind == ErrorKind::cancelled;
}

}  // namespace

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
        if constexpr (std::is_same_v<T, Started>) {
          renew_epoch(flight);
        } else if constexpr (std::is_same_v<T, LinkLost>) {
          link_lost(flight, e.host);
        } else if constexpr (std::is_same_v<T, Adopted>) {
          adopted(e);
        } else if constexpr (std::is_same_v<T, NotAdopted>) {
          if (!adopted_.contains(e.host)) not_adopted_.insert_or_assign(e.host, e.why);
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
        } else if constexpr (std::is_same_v<T, NoFacts>) {
          facts_.reset();
        } else if constexpr (std::is_same_v<T, Accepted>) {
          if (!e.sources.empty()) record(flight, {{"type", "accepted"}, {"sources", e.sources}});
        } else if constexpr (std::is_same_v<T, Left>) {
          left(flight, e);
        } else if constexpr (std::is_same_v<T, Measured>) {
          if (state_.plan.find(e.step) >= 0)
            record(flight, {{"type", "measured"},
                            {"step", e.step},
                            {"blackout_ms", {{"lower", e.lower_ms}, {"upper", e.upper_ms}}}});
        } else if constexpr (std::is_same_v<T, Kept>) {
          kept(flight, e);
        } else if constexpr (std::is_same_v<T, Tuned>) {
          Json entry{{"type", "tuned"}, {"what", e.what}, {"by", e.by}, {"set", e.set}};
          if (!e.manifest.is_null()) entry["manifest"] = e.manifest;
          record(flight, std::move(entry));
        } else if constexpr (std::is_same_v<T, Confirmed>) {
          if (!objection_to_confirm(e.phase)) succeed(flight, running_index(), Json{{"by", e.by}}, false);
        } else if constexpr (std::is_same_v<T, Judged>) {
          judged(flight, e);
        } else if constexpr (std::is_same_v<T, GoingBack>) {
          told(flight, e);
        }
      },
      event);
  proceed(flight);
  return std::move(flight.effects);
}

// Each answer counts; what is recorded is how it changes.
void Engine::told(Flight& flight, const GoingBack& answer) {
  going_back_ = answer;
  const auto& last = state_.way_back;
  if (last && last->possible == answer.possible && last->step == answer.step) return;
  record(flight, {{"type", "going_back"}, {"possible", answer.possible}, {"step", answer.step}, {"why", answer.why}});
}

bool Engine::asks_for_way_back() const {
  return !state_.past_return() && (state_.goal == Goal::run || look_before_going_back_);
}

// Whatever is under way becomes unknown; the agents end it before they answer for the new epoch.
void Engine::renew_epoch(Flight& flight) {
  record(flight, {{"type", "epoch"}, {"epoch", state_.epoch + 1}});
  adopted_.clear();
  in_flight_ = false;
  resolve_ = true;
  looked_ = false;
  asked_in_vain_ = 0;
  not_before_ = 0;
  seen_ = Json::object();
  departing_.clear();
  for (const auto& host : state_.plan.hosts) {
    if (!state_.leaving.contains(host)) flight.effects.commands.push_back(Adopt{host, state_.epoch});
  }
}

// An answer to an earlier epoch may come late; it says nothing about what this one has ended.
void Engine::adopted(const Adopted& adoption) {
  const bool ours = std::ranges::find(state_.plan.hosts, adoption.host) != state_.plan.hosts.end();
  if (!ours || adoption.epoch != state_.epoch) return;
  adopted_.insert(adoption.host);
  not_adopted_.erase(adoption.host);
}

// Only the link that a call's answer comes by can lose it: what goes on elsewhere is left alone. The agent behind a
// link that is made anew may be another one, with nothing adopted, so it is asked again.
void Engine::link_lost(Flight& flight, const std::string& host) {
  const int index = running_index();
  if (in_flight_ && index >= 0 && state_.plan.steps[index].host == host) return renew_epoch(flight);
  if (state_.leaving.contains(host)) return;
  if (adopted_.erase(host) > 0) flight.effects.commands.push_back(Adopt{host, state_.epoch});
}

std::optional<Error> Engine::objection(Goal goal) const {
  const auto no = [](std::string what, std::string todo) {
    return Error{ErrorKind::refused, std::move(what), std::move(todo)};
  };
  if (auto why = objection_at_the_end(goal)) return why;
  if (goal == Goal::back && state_.past_return()) {
    return no("the move is past the point of no return: finish was begun", "let `finish` end");
  }
  if (goal == Goal::run && state_.past_return()) return no("finish was begun", "use `finish` to let it end");
  if (goal != Goal::back && state_.back_begun && !state_.complete()) {
    return no("a rollback is under way", "use `rollback` to let it end, then run again");
  }
  if (goal == Goal::finish && !state_.past_return() && !state_.taken_back()) {
    for (std::size_t i = 0; i < state_.steps.size(); ++i) {
      const auto& step = state_.plan.steps[i];
      if (step.phase != "finish" && state_.steps[i].progress != Progress::done) {
        return no(fmt::format("step '{}' is not done", step.id), "finish comes after a whole `run`");
      }
    }
  }
  return std::nullopt;
}

std::optional<Error> Engine::objection_to_abort() const {
  const int first = phase_index("switch");
  for (std::size_t i = 0; i < state_.steps.size(); ++i) {
    const auto& step = state_.plan.steps[i];
    const auto progress = state_.steps[i].progress;
    if (step.kind != StepKind::effect || phase_index(step.phase) < first) continue;
    if (progress == Progress::pending || progress == Progress::undone) continue;
    return Error{ErrorKind::refused, fmt::format("'{}' was begun: abort is for before the first switch", step.id),
                 "use `rollback`"};
  }
  return objection(Goal::back);
}

void Engine::asked(Flight& flight, const Asked& ask) {
  if (objection(ask.goal)) return;
  const bool turning = ask.goal == Goal::back && state_.goal != Goal::back;
  // What a guard is taking back already does not stay on new for want of a look.
  const bool look = ask.goal == Goal::back && !ask.anyway && state_.back_to.empty();
  const Goal goal = ask.goal == Goal::finish && state_.taken_back() ? Goal::end : ask.goal;
  record(flight, {{"type", "asked"}, {"goal", to_string(goal)}, {"until", ask.until}});
  asked_in_vain_ = 0;
  look_before_going_back_ = look && state_.felt();
  if (ask.goal == Goal::back) going_back_.reset();
  // An effect under way must be over before it is undone: the new epoch ends it.
  if (turning && in_flight_) {
    renew_epoch(flight);
  } else if (!in_flight_) {
    resolve_ = true;
    not_before_ = 0;
  }
}

bool Engine::guarding(const std::string& service) const {
  const auto guard = std::ranges::find(state_.plan.guards, service, &GuardSpec::service);
  if (guard == state_.plan.guards.end() || state_.going_back() || state_.goal != Goal::run) return false;
  const auto& first = state_.steps[state_.plan.find(guard->from)];
  const auto& last = state_.steps[state_.plan.find(guard->until)];
  return (first.progress == Progress::running || first.progress == Progress::done) && last.progress != Progress::done;
}

// A verdict is recorded where it differs from the one before, or is the first of its step. Failing takes back, of itself
// and paused or not, everything since the first share of the traffic went to new; then the move stops.
void Engine::judged(Flight& flight, const Judged& word) {
  if (!guarding(word.service)) return;
  const auto [verdict, words, dead] = word.judgement;
  judgements_[word.service] = word.judgement;
  const auto step = state_.share(word.service);
  const auto last = std::ranges::find(state_.verdict_records.rbegin(), state_.verdict_records.rend(),
                                      Json(word.service), [](const Json& record) { return record["service"]; });
  const bool known =
      last != state_.verdict_records.rend() && (*last)["step"] == step && (*last)["verdict"] == to_string(verdict);
  if (known && verdict != Verdict::fail && word.baseline.is_null()) return;
  const bool changed = !state_.verdicts.contains(word.service) || state_.verdicts.at(word.service) != verdict;
  Json entry{{"type", "verdict"},
             {"service", word.service},
             {"verdict", to_string(verdict)},
             {"words", words},
             {"step", step}};
  if (!word.baseline.is_null()) entry["baseline"] = word.baseline;
  if (verdict == Verdict::fail) {
    entry["back_to"] = std::ranges::find(state_.plan.guards, word.service, &GuardSpec::service)->from;
    entry["ramp_ms"] = dead ? 0 : kRampMs;
  }
  record(flight, std::move(entry));
  if (verdict == Verdict::both && changed && !state_.paused) {
    record(flight, {{"type", "paused"},
                    {"paused", true},
                    {"why", fmt::format("the guard of {} blames both sides: {}", word.service, words)}});
  }
  if (verdict != Verdict::fail) return;
  judgements_.clear();
  // As when the operator turns back: an effect under way must be over before it is undone.
  if (in_flight_) renew_epoch(flight);
}

const Step* Engine::keeping() const {
  const int index = running_index();
  if (index < 0 || state_.going_back() || state_.plan.steps[index].keeps.empty()) return nullptr;
  return &state_.plan.steps[index];
}

// Recorded as it changes: the time in which something did not hold is added to the hold.
void Engine::kept(Flight& flight, const Kept& look) {
  const auto* step = keeping();
  if (step == nullptr || step->id != look.step) return;
  green_ = look.why.empty();
  const auto& at = state_.steps[running_index()];
  if (at.red == look.why) return;
  record(flight, {{"type", "kept"}, {"step", step->id}, {"why", look.why}});
}

// A guard that hears nothing: nothing begins, or is tried again, until it does.
const Judgement* Engine::doubt() const {
  for (const auto& [service, judgement] : judgements_) {
    if (judgement.verdict == Verdict::unknown && guarding(service)) return &judgement;
  }
  return nullptr;
}

std::string Engine::awaited_word() const {
  const int index = running_index();
  if (index < 0 || state_.plan.steps[index].kind != StepKind::confirm || state_.going_back() || state_.stopped)
    return "";
  return state_.plan.steps[index].phase;
}

std::optional<Error> Engine::objection_to_confirm(const std::string& phase) const {
  const auto awaited = awaited_word();
  if (!phase.empty() && awaited == phase) return std::nullopt;
  return Error{ErrorKind::refused, fmt::format("no gate before '{}' waits for a word", phase),
               awaited.empty() ? "`midstream status` says what is waited for"
                               : fmt::format("`midstream confirm {}` is what is waited for", awaited)};
}

int Engine::running_index() const {
  for (std::size_t i = 0; i < state_.steps.size(); ++i) {
    const auto progress = state_.steps[i].progress;
    if (progress == Progress::running || progress == Progress::undoing) return static_cast<int>(i);
  }
  return -1;
}

// The step that is under way, or comes next on the way to the goal.
int Engine::next_index() const {
  if (const int running = running_index(); running >= 0) return running;
  if (state_.goal == Goal::idle || state_.complete()) return -1;
  const int count = static_cast<int>(state_.steps.size());
  if (state_.going_back()) {
    for (int index = count - 1; index >= state_.floor(); --index) {
      if (state_.steps[index].progress == Progress::done) return index;
    }
    return -1;
  }
  for (int index = 0; index < count; ++index) {
    if (state_.steps[index].progress != Progress::done) return index;
  }
  return -1;
}

bool Engine::all_adopted(const Step& step) const {
  return std::ranges::all_of(step.hosts, [&](const auto& host) { return adopted_.contains(host); });
}

void Engine::proceed(Flight& flight) {
  if (state_.plan.steps.empty() || in_flight_ || state_.stopped) return;
  if (state_.going_back()) return backward(flight);
  if (state_.goal == Goal::run || state_.goal == Goal::finish) forward(flight);
  if (departs()) depart(flight);
}

void Engine::forward(Flight& flight) {
  while (!in_flight_ && !state_.stopped && !state_.complete() && !state_.steps_done()) {
    const auto next =
        std::ranges::find_if(state_.steps, [](const StepState& s) { return s.progress != Progress::done; });
    const int index = static_cast<int>(next - state_.steps.begin());
    if (next->progress == Progress::running) {
      drive(flight, index);
      if (state_.steps[index].progress == Progress::running) return;
      continue;
    }
    if (state_.paused || doubt() != nullptr) return;
    const auto& step = state_.plan.steps[index];
    if (!all_adopted(step) || (bounded(step) && !facts_) || !way_back_open(step)) return;
    if (auto why = refusal(step, flight.now)) return stop(flight, step.id, *why);
    begin(flight, index, Direction::forward);
  }
}

void Engine::backward(Flight& flight) {
  for (int index = static_cast<int>(state_.steps.size()) - 1; index >= state_.floor(); --index) {
    const auto progress = state_.steps[index].progress;
    if (progress == Progress::pending || progress == Progress::undone) continue;
    const auto& step = state_.plan.steps[index];
    // Between two steps nothing is held. One that was left half-way is first undone, paused or not.
    if (state_.paused && progress == Progress::done) return;
    if (progress == Progress::done && !ready_to_go_back(flight, step)) return;
    if (step.kind != StepKind::effect && !ease_back(flight, index)) return;
    // A wait that was under way may still be looking.
    if ((step.kind == StepKind::effect || progress == Progress::running) && !all_adopted(step)) return;
    if (step.kind != StepKind::effect) {
      record(flight,
             {{"type", "outcome"}, {"step", step.id}, {"direction", "back"}, {"ok", true}, {"result", Json::object()}});
      continue;
    }
    if (flight.now < not_before_) return flight.wake(not_before_);
    if (const auto at = ramp_end(index, flight.now); progress == Progress::done && flight.now < at)
      return flight.wake(at);
    return begin(flight, index, Direction::back);
  }
  if (state_.back_to.empty()) return;
  record(flight,
         {{"type", "stopped"}, {"step", state_.back_to}, {"taken_back", true}, {"error", to_json(state_.back_why)}});
}

// Old takes up again what it has not carried for a while, a share after the other.
std::int64_t Engine::ramp_end(int index, std::int64_t now) const {
  const auto& guard = state_.plan.steps[index].guard;
  if (guard.empty()) return 0;
  for (std::size_t i = index + 1; i < state_.steps.size(); ++i) {
    const auto& later = state_.plan.steps[i];
    const auto& at = state_.steps[i];
    if (later.guard != guard || later.kind != StepKind::effect || at.progress != Progress::undone) continue;
    return at.ended_ms <= now ? at.ended_ms + state_.ramp_ms : 0;
  }
  return 0;
}

// Before the first done step is undone old is looked at: what would not be served there, or not all be there, stays
// where it is. What was left half-way is undone before that.
bool Engine::ready_to_go_back(Flight& flight, const Step& step) {
  if (!look_before_going_back_) return true;
  if (!going_back_) return false;
  look_before_going_back_ = false;
  if (going_back_->possible) return true;
  const Error why{ErrorKind::refused,
                  fmt::format("going back is not possible now: '{}': {}; nothing that was done was undone",
                              going_back_->step, going_back_->why),
                  "mend that and `rollback` again, or `run` on; `rollback --anyway` goes back as far as it can"};
  record(flight, {{"type", "stopped"}, {"step", step.id}, {"error", to_json(why)}, {"not_begun", true}});
  return false;
}

// Traffic comes back to old in the steps that it left by, each with a while to warm up; not where new serves nobody.
// True where this step is passed.
bool Engine::ease_back(Flight& flight, int index) {
  const auto& step = state_.plan.steps[index];
  const auto& at = state_.steps[index];
  if (state_.goal != Goal::back) return true;  // what a guard takes back has its own pace
  if (step.back_ms <= 0 || !going_back_ || going_back_->dead.contains(step.service)) return true;
  if (at.progress == Progress::running) return true;
  if (at.progress == Progress::done) {
    record(flight,
           {{"type", "intent"}, {"step", step.id}, {"direction", "back"}, {"attempt", 1}, {"epoch", state_.epoch}});
  }
  if (flight.now >= at.first_ms + step.back_ms) return true;
  flight.wake(at.first_ms + step.back_ms);
  return false;
}

// Every effect is one more to undo. None begins on the way forward while those before it could not be undone, and once
// users could feel one, none before that is known.
bool Engine::way_back_open(const Step& step) const {
  if (step.kind != StepKind::effect || state_.goal != Goal::run) return true;
  return going_back_ ? going_back_->possible : !state_.felt();
}

// Whether the window or a budget has a say in when this step begins.
bool Engine::bounded(const Step& step) const {
  return step.in_window || (step.expected_blackout_ms > 0 && state_.plan.budgets.contains(step.service));
}

std::optional<Error> Engine::refusal(const Step& step, std::int64_t now) const {
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
  if (step.in_window && facts_->window_left_ms) {
    const auto left = *facts_->window_left_ms;
    const auto needed = stretch_from(state_, state_.plan.find(step.id), now);
    if (needed.total_ms > left) {
      return Error{
          ErrorKind::refused,
          fmt::format("step '{}' will not fit: the window closes in {}, and what is to be done in it takes {}; the "
                      "last safe start was {} ago",
                      step.id, span_text(left), sum_text(needed), span_text(needed.total_ms - left)),
          "run again in the next window, or with a later rules.window.to in the manifest; nothing is held meanwhile"};
    }
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
  looked_ = false;
  asked_in_vain_ = 0;
  not_before_ = 0;
  seen_ = Json::object();
  green_ = false;
  if (step.kind == StepKind::hold) judgements_.erase(step.guard);  // what was said of another share does not count
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
  flight.effects.commands.push_back(
      Call{verb, step.id, step.host, step.mover, state_.desired(index), state_.epoch, ++calls_, deadline});
  in_flight_ = true;
  observing_ = verb == Call::Verb::observe;
}

// A forward step that is under way with no command out.
void Engine::drive(Flight& flight, int index) {
  const auto& step = state_.plan.steps[index];
  const auto& at = state_.steps[index];
  if (step.kind == StepKind::hold) {
    if (!step.keeps.empty() && (!green_ || at.red_since_ms > 0)) return;  // the next look comes by itself
    const auto end = at.first_ms + step.deadline_ms + at.red_ms;
    if (flight.now < end) return flight.wake(end);
    if (!step.keeps.empty()) return succeed(flight, index, Json{{"extended_ms", at.red_ms}}, false);
    if (step.guard.empty()) return succeed(flight, index, Json::object(), false);
    const auto said = judgements_.find(step.guard);  // the next verdict comes by itself
    if (said == judgements_.end() || said->second.verdict != Verdict::pass) return;
    return succeed(flight, index, Json{{"guard", said->second.words}}, false);
  }
  if (step.kind == StepKind::confirm) return;  // silence means hold
  if (flight.now < not_before_) return flight.wake(not_before_);
  if (!all_adopted(step)) return;
  if (step.kind == StepKind::wait || resolve_) return send(flight, index, Call::Verb::observe);
  try_again(flight, index);
}

// A forward effect whose last attempt is over without success. To try again is to begin again: pause, window and budget
// have their say anew. Where they object, what the attempt left is looked at first: if users wait on it ("held"), going
// on is what lets them go; else nothing is held and it stays as it is. docs/decisions/0007-tried-again.md.
void Engine::try_again(Flight& flight, int index) {
  const auto& step = state_.plan.steps[index];
  const bool blind = (bounded(step) && !facts_) || !way_back_open(step);
  const auto why = blind ? std::nullopt : refusal(step, flight.now);
  const bool halted = state_.paused || doubt() != nullptr;
  if (!halted && !blind && !why) return begin(flight, index, Direction::forward);
  if (!looked_) return send(flight, index, Call::Verb::observe);
  if (get_bool_or(seen_, "held", false)) return begin(flight, index, Direction::forward);
  if (!halted && !blind) stop(flight, step.id, *why);
}

bool Engine::awaited(bool observing, std::string_view step, std::uint64_t epoch, std::uint64_t number) const {
  const int index = running_index();
  return in_flight_ && observing == observing_ && epoch == state_.epoch && number == calls_ && index >= 0 &&
         state_.plan.steps[index].id == step;
}

void Engine::ended(Flight& flight, const Outcome& outcome) {
  if (!awaited(false, outcome.step, outcome.epoch, outcome.number)) return;
  const int index = running_index();
  in_flight_ = false;
  if (outcome.result) return succeed(flight, index, *outcome.result, false);
  fail(flight, index, outcome.result.error());
}

void Engine::observed(Flight& flight, const Observed& observation) {
  if (!awaited(true, observation.step, observation.epoch, observation.number)) return;
  const int index = running_index();
  in_flight_ = false;
  const auto& step = state_.plan.steps[index];
  if (!observation.result && !transient(observation.result.error().kind))
    return fail(flight, index, observation.result.error());
  // The look itself may still be going on: the new epoch ends it.
  if (!observation.result && observation.result.error().kind == ErrorKind::unknown) {
    const int in_vain = asked_in_vain_;
    renew_epoch(flight);
    asked_in_vain_ = in_vain;
  }
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
    looked_ = true;
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
  const auto& step = state_.plan.steps[index];
  if (step.kind == StepKind::effect && step.expected_blackout_ms > 0) facts_.reset();
  if (!back && step.felt()) going_back_.reset();
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
  if (step.kind == StepKind::effect && bounded(step)) facts_.reset();
  // Unknown: work may still be going on, perhaps at a peer of that agent. The new epoch ends it everywhere.
  if (error.kind == ErrorKind::unknown) renew_epoch(flight);
  if (!transient(error.kind) || attempt >= step.attempts) return stop(flight, step.id, error);
  resolve_ = error.kind != ErrorKind::retry;
  not_before_ = flight.now + backoff_ms(attempt);
}

void Engine::stop(Flight& flight, const std::string& step, const Error& error) {
  record(flight, {{"type", "stopped"}, {"step", step}, {"error", to_json(error)}});
}

std::string Engine::waiting_for_agents(const Step& step) const {
  std::string missing;
  for (const auto& host : step.hosts) {
    if (adopted_.contains(host)) continue;
    missing += (missing.empty() ? "" : ", ") + host;
    if (const auto why = not_adopted_.find(host); why != not_adopted_.end())
      missing += fmt::format(" ({})", why->second.text());
  }
  return fmt::format("'{}' waits for the agent on {}", step.id, missing);
}

std::string Engine::waiting_for_guard(const Step& step) const {
  const auto said = judgements_.find(step.guard);
  if (said == judgements_.end()) return fmt::format("'{}' waits for the first verdict of the guard", step.id);
  const auto& [verdict, words, dead] = said->second;
  if (verdict == Verdict::pass) return fmt::format("'{}' is under way; the guard: {}", step.id, words);
  return fmt::format("'{}' waits for the guard to pass: {}: {}", step.id, to_string(verdict), words);
}

std::string Engine::waiting_for_way_back(const Step& step) const {
  if (!going_back_) return fmt::format("'{}' waits until it is known whether going back is possible", step.id);
  return fmt::format(
      "'{}' waits: going back is not possible now: '{}': {}; `rollback --anyway` goes back as far as it can", step.id,
      going_back_->step, going_back_->why);
}

std::string Engine::waiting() const {
  if (state_.stopped) return fmt::format("stopped at '{}': {}", state_.stopped_step, state_.stopped->text());
  if (departs()) return waiting_to_leave();
  const int index = next_index();
  if (index < 0) return "";
  if (!state_.back_to.empty() && state_.goal != Goal::back)
    return fmt::format("{}; under way: '{}'", state_.back_why.what, state_.plan.steps[index].id);
  const auto& step = state_.plan.steps[index];
  const auto& at = state_.steps[index];
  const bool under_way = running_index() >= 0;
  const std::string_view pause = state_.paused ? "; then paused, `continue` goes on" : "";
  const auto why_paused = state_.paused_why.empty() ? "" : fmt::format(" ({})", state_.paused_why);
  if (!under_way && state_.paused) return fmt::format("paused{}; `continue` goes on", why_paused);
  if (!in_flight_ && !all_adopted(step)) return waiting_for_agents(step) + std::string(pause);
  const bool forward = !state_.going_back();
  if ((!under_way || looked_) && !in_flight_ && forward && doubt() != nullptr)
    return fmt::format("'{}' waits: the guard is blind: {}", step.id, doubt()->words);
  if (forward && !in_flight_ && (!under_way || looked_) && bounded(step) && !facts_)
    return fmt::format("'{}' waits for the measured downtime and the window", step.id);
  if (!under_way && !forward && look_before_going_back_) return "looks whether old is healthy and has everything";
  if (forward && !in_flight_ && (!under_way || looked_) && !way_back_open(step)) return waiting_for_way_back(step);
  if (!under_way) return "";
  if (!forward && at.progress == Progress::undoing && step.kind != StepKind::effect)
    return fmt::format("'{}': traffic eases back to old", step.id);
  if (looked_ && !in_flight_ && state_.paused)
    return fmt::format("paused, '{}' is not in effect; `continue` tries it again", step.id);
  if (const auto phase = awaited_word(); !phase.empty())
    return fmt::format("'{}' waits for your word: `midstream confirm {}`{}", step.id, phase, pause);
  if (forward && keeping() != nullptr && at.red_since_ms > 0)
    return fmt::format("'{}' waits, and lasts longer by as much: {}{}", step.id, at.red, pause);
  if (forward && step.kind == StepKind::hold && !step.guard.empty())
    return waiting_for_guard(step) + std::string(pause);
  const auto why = get_string_or(seen_, "why", "");
  if (!why.empty()) return fmt::format("'{}' waits: {}{}", step.id, why, pause);
  if (at.error) return fmt::format("'{}' is tried again: {}{}", step.id, at.error->what, pause);
  return fmt::format("'{}' is under way{}", step.id, pause);
}

}  // namespace midstream
