#include "tests/sim/checker.h"

#include <fmt/format.h>

#include "tests/sim/world.h"
#include "tests/support/engine_text.h"

namespace midstream::test {

void Checker::heard(const void* who, const Event& event) {
  if (const auto* facts = std::get_if<Facts>(&event)) told_[who] = *facts;
  if (std::holds_alternative<NoFacts>(event)) told_[who].reset();
  if (unheeded_.contains(who))
    loop_.violate(fmt::format("the guard of {} has failed and nothing was recorded", unheeded_[who]));
  const auto* word = std::get_if<Confirmed>(&event);
  words_[who] = word == nullptr ? "" : word->phase;
  if (const auto* look = std::get_if<Kept>(&event)) {
    // Of another hold it says nothing; of this one, the newest counts.
    if (durable().plan.find(look->step) >= 0 &&
        durable().steps[durable().plan.find(look->step)].progress == Progress::running)
      kept_[who] = {look->step, look->why};
  }
  if (const auto* judged = std::get_if<Judged>(&event)) {
    verdicts_[who][judged->service] = judged->judgement.verdict;
    if (judged->judgement.verdict == midstream::Verdict::fail && who == newest_ && guarded_now(judged->service))
      unheeded_[who] = judged->service;
  }
  if (const auto* told = std::get_if<GoingBack>(&event)) way_back_[who] = *told;
  const auto* seen = std::get_if<Observed>(&event);
  if (seen == nullptr || !seen->result || seen->epoch != durable().epoch) return;
  if (seen->step == to_observe_) to_observe_.clear();
  held_ = get_bool_or(*seen->result, "held", false) ? seen->step : "";
}

void Checker::stored(const void* who, const Json& record) {
  newest_ = who;
  const auto type = get_string_or(record, "type", "");
  const int index = durable().plan.find(get_string_or(record, "step", ""));
  if (type == "intent") check_intent(who, record, durable().plan.steps[index], durable().steps[index]);
  if (type == "outcome" && get_bool_or(record, "ok", false)) check_outcome(record, index);
  if (type == "outcome" && get_string_or(record, "direction", "") == "forward")
    check_hold(who, durable().plan.steps[index]);
  if (type == "intent" && durable().plan.steps[index].kind == StepKind::hold)
    verdicts_[who].erase(durable().plan.steps[index].guard);
  if (type == "verdict") unheeded_.erase(who);
  if (get_bool_or(record, "taken_back", false)) check_taken_back();
  if (type == "outcome") {
    const auto& step = durable().plan.steps[index];
    const bool felt = step.expected_blackout_ms > 0;
    if (step.kind == StepKind::effect && (felt || (step.in_window && !get_bool_or(record, "ok", false))))
      told_[who].reset();
    const bool done = get_bool_or(record, "ok", false) && get_string_or(record, "direction", "") == "forward";
    if (done && step.felt()) way_back_[who].reset();
  }
  if (type == "asked" && get_string_or(record, "goal", "") == "back") way_back_[who].reset();
  if (type == "stopped") check_stop(record, index);
  if (auto folded = shadow_.fold(record); !folded)
    return loop_.violate("a record cannot be folded: " + folded.error().text());
  if (type == "plan") begun_ = durable().plan;
  if (type == "epoch") note_to_observe();
}

void Checker::adopted(const std::vector<Json>& records) {
  shadow_ = Engine();
  for (const auto& record : records) {
    if (auto folded = shadow_.fold(record); !folded)
      return loop_.violate("a rebuilt journal is refused: " + folded.error().text());
  }
  for (std::size_t i = 0; i < truths_.size(); ++i) {
    const auto progress = durable().steps[i].progress;
    const bool effect = durable().plan.steps[i].kind == StepKind::effect;
    const bool done = progress == Progress::done,
               undone = progress == Progress::pending || progress == Progress::undone;
    if (effect && ((done && truths_[i] != Truth::done) || (undone && truths_[i] != Truth::none)))
      loop_.violate(fmt::format("rebuilt as {}: '{}', and the world says otherwise", done ? "done" : "not done",
                                durable().plan.steps[i].id));
  }
  held_.clear();
  note_to_observe();
}

// Of effects that were under way when this epoch began, what became of them must be looked at first.
void Checker::note_to_observe() {
  to_observe_.clear();
  for (std::size_t i = 0; i < durable().steps.size(); ++i) {
    const auto& step = durable().plan.steps[i];
    if (durable().steps[i].progress == Progress::running && step.kind == StepKind::effect) to_observe_ = step.id;
  }
}

void Checker::check_intent(const void* who, const Json& record, const Step& step, const StepState& before) {
  const bool forward = get_string_or(record, "direction", "") == "forward";
  intents_[step.id] = {forward ? "forward" : "back", get_int_or(record, "epoch", 0)};
  if (!forward && step.id == to_observe_) to_observe_.clear();  // undone, whatever became of it
  if (!forward && step.irreversible)
    return loop_.violate(fmt::format("'{}' is irreversible and about to be undone", step.id));
  const bool under_way = before.progress == Progress::running || before.progress == Progress::undoing;
  if (durable().paused && (forward ? held_ != step.id : !under_way))
    return loop_.violate(fmt::format("'{}' begins though the move is paused", step.id));
  if (forward && !durable().back_to.empty())
    return loop_.violate(fmt::format("'{}' begins though the guard takes back", step.id));
  if (!forward || (under_way && held_ == step.id)) return;
  if (step.phase == "finish" && durable().goal != Goal::finish && !under_way) {
    return loop_.violate(fmt::format("'{}' of finish begins while the goal is {}", step.id, to_string(durable().goal)));
  }
  check_rules(step, told_[who]);
  if (step.kind != StepKind::effect || durable().goal != Goal::run) return;
  const auto& way_back = way_back_[who];
  if (way_back ? !way_back->possible : durable().felt())
    loop_.violate(fmt::format("'{}' begins though it is {} whether going back is possible", step.id,
                              way_back ? "known not to be so" : "not known"));
}

// A first attempt and every later one alike.
void Checker::check_rules(const Step& step, const std::optional<Facts>& told) {
  const auto budget = get_int_or(durable().plan.budgets, step.service, -1);
  const bool bounded = step.in_window || (step.expected_blackout_ms > 0 && budget >= 0);
  if (!bounded) return;
  if (!told) return loop_.violate(fmt::format("'{}' begins though this controller was told no facts", step.id));
  if (step.in_window && !told->window_open)
    return loop_.violate(fmt::format("'{}' begins outside the window", step.id));
  if (step.in_window) check_window(step, *told);
  const auto used = told->downtime_ms.contains(step.service) ? told->downtime_ms.at(step.service) : 0;
  if (step.expected_blackout_ms > 0 && budget >= 0 && used + step.expected_blackout_ms > budget) {
    loop_.violate(fmt::format("'{}' begins with {} of {} ms used", step.id, used, budget));
  }
}

// Said apart from the engine: which steps a guard watches over, and that it does so only on the way forward.
bool Checker::guarded_now(const std::string& service) const {
  const auto& state = durable();
  if (state.goal != Goal::run || !state.back_to.empty() || state.stopped) return false;
  for (const auto& guard : state.plan.guards) {
    if (guard.service != service) continue;
    const auto begun = state.steps[state.plan.find(guard.from)].progress;
    const auto ended = state.steps[state.plan.find(guard.until)].progress;
    return (begun == Progress::running || begun == Progress::done) && ended != Progress::done;
  }
  return false;
}

void Checker::check_hold(const void* who, const Step& step) {
  if (!step.keeps.empty() && kept_[who] != std::pair(step.id, std::string()))
    loop_.violate(fmt::format("'{}' ends though nobody has seen that what it keeps holds", step.id));
  if (step.kind == StepKind::confirm && words_[who] != step.phase)
    loop_.violate(fmt::format("'{}' ends though nobody has given the word", step.id));
  if (step.kind != StepKind::hold || step.guard.empty()) return;
  const auto said = verdicts_[who].find(step.guard);
  if (said == verdicts_[who].end() || said->second != midstream::Verdict::pass)
    loop_.violate(fmt::format("'{}' ends though its guard has not passed", step.id));
}

// The world says so, not the records.
void Checker::check_taken_back() {
  const auto& plan = durable().plan;
  for (std::size_t i = plan.find(durable().back_to); i < truths_.size(); ++i) {
    if (plan.steps[i].kind == StepKind::effect && truths_[i] != Truth::none && !lies_)
      loop_.violate(fmt::format("the guard has taken back, and '{}' is {}", plan.steps[i].id, truth_name(truths_[i])));
  }
}

// Said apart from the engine: all that is not done, up to the last step before the soak, or after it, that is bound by
// the window.
void Checker::check_window(const Step& step, const Facts& told) {
  if (!told.window_left_ms) return;
  const auto& steps = durable().plan.steps;
  std::int64_t sum = 0;
  std::int64_t needed = 0;
  for (std::size_t i = durable().plan.find(step.id); i < steps.size(); ++i) {
    if (steps[i].phase == "soak" && steps[i].id != step.id) break;
    if (durable().steps[i].progress == Progress::done) continue;
    const auto expected =
        steps[i].kind == StepKind::hold ? std::max(steps[i].expected_ms, steps[i].deadline_ms) : steps[i].expected_ms;
    const bool running = durable().steps[i].progress == Progress::running;
    sum += running ? std::max<std::int64_t>(0, expected - (loop_.now() - durable().steps[i].first_ms)) : expected;
    if (steps[i].in_window) needed = sum;
  }
  if (needed > *told.window_left_ms)
    loop_.violate(fmt::format("'{}' begins though {} ms do not fit the {} ms of the window", step.id, needed,
                              *told.window_left_ms));
}

void Checker::check_outcome(const Json& record, int index) {
  const auto& step = durable().plan.steps[index];
  if (step.kind != StepKind::effect) return;
  const bool forward = get_string_or(record, "direction", "") == "forward";
  if (truths_[index] == (forward ? Truth::done : Truth::none)) return;
  if (lies_ && get_bool_or(record, "observed", false)) return;
  loop_.violate(
      fmt::format("recorded as {}: '{}', and the world says otherwise", forward ? "done" : "undone", step.id));
}

// The rules of engagement end no step half-way.
void Checker::check_stop(const Json& record, int index) {
  const auto why = get_string_or(record.value("error", Json::object()), "what", "");
  const bool by_rule = why.starts_with("stop-loss") || why.find("the window is closed") != std::string::npos ||
                       why.find("will not fit") != std::string::npos;
  if (!by_rule) return;
  const auto& step = begun_.steps[index];
  if (step.expected_blackout_ms > 0 && truths_[index] == Truth::partly)
    loop_.violate(fmt::format("'{}' is left held, for a rule's sake", step.id));
}

void Checker::sent(const Call& call) {
  if (call.verb == Call::Verb::apply && call.step == to_observe_) {
    loop_.violate(fmt::format("'{}' is applied again without a look at what became of it", call.step));
  }
}

bool Checker::intended(const Call& call) const {
  const auto found = intents_.find(call.step);
  if (found == intents_.end()) return false;
  const auto direction = call.verb == Call::Verb::undo ? "back" : "forward";
  return found->second == std::pair<std::string, std::uint64_t>(direction, call.epoch);
}

void Checker::compare(const State& living) {
  if (state_text(living) == state_text(durable())) return;
  loop_.violate("the state is not the fold of the journal:\n" + state_text(living) + "instead of\n" +
                state_text(durable()));
}

}  // namespace midstream::test
