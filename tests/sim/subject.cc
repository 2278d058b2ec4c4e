#include "tests/sim/subject.h"

#include <algorithm>

namespace midstream::test {

namespace {

class SendsFirst final : public Subject {
 public:
  bool stores_first() const override { return false; }
};

// Takes every answer for one to what it asked last.
class IgnoresEpochs final : public Subject {
 public:
  Effects handle(std::int64_t now, const Event& event) override {
    auto altered = event;
    const auto take = [&](auto* answer) {
      if (answer == nullptr) return;
      answer->epoch = engine_.state().epoch;
      answer->number = latest_;
    };
    take(std::get_if<Outcome>(&altered));
    take(std::get_if<Observed>(&altered));
    auto effects = engine_.handle(now, altered);
    for (const auto& command : effects.commands) {
      if (const auto* call = std::get_if<Call>(&command)) latest_ = call->number;
    }
    return effects;
  }

 private:
  std::uint64_t latest_ = 0;
};

// Where the engine would look first, applies again, and takes the outcome for what was seen.
class RepeatsBlindly final : public Subject {
 public:
  Effects handle(std::int64_t now, const Event& event) override {
    auto altered = event;
    if (const auto* outcome = std::get_if<Outcome>(&event); outcome && outcome->step == repeated_) {
      auto seen = outcome->result;
      if (seen) seen = Json{{"reached", true}};
      altered = Observed{outcome->step, outcome->epoch, outcome->number, std::move(seen)};
      repeated_.clear();
    }
    auto effects = engine_.handle(now, altered);
    for (auto& command : effects.commands) {
      auto* call = std::get_if<Call>(&command);
      if (call == nullptr) repeated_.clear();
      if (call == nullptr || call->verb != Call::Verb::observe) continue;
      const auto& plan = engine_.state().plan;
      if (plan.steps[plan.find(call->step)].kind != StepKind::effect) continue;
      call->verb = Call::Verb::apply;
      repeated_ = call->step;
    }
    return effects;
  }

 private:
  std::string repeated_;
};

// Tries again after an unknown outcome as if the command were over.
class TakesUnknownForOver final : public Subject {
 public:
  Effects handle(std::int64_t now, const Event& event) override {
    auto altered = event;
    auto* outcome = std::get_if<Outcome>(&altered);
    if (outcome != nullptr && !outcome->result && outcome->result.error().kind == ErrorKind::unknown) {
      outcome->result = retry(outcome->result.error().what);
    }
    return engine_.handle(now, altered);
  }
};

// Counts an agent as ours whichever epoch it adopted.
class TakesAnyAdoption final : public Subject {
 public:
  Effects handle(std::int64_t now, const Event& event) override {
    auto altered = event;
    if (auto* adopted = std::get_if<Adopted>(&altered)) adopted->epoch = engine_.state().epoch;
    return engine_.handle(now, altered);
  }
};

// Takes the host that it calls for the only one which a step involves.
class ForgetsPeers final : public Subject {
 public:
  Result<> fold(const Json& record) override {
    auto altered = record;
    if (altered.contains("plan")) {
      for (auto& step : altered["plan"]["steps"]) {
        if (!step["hosts"].empty()) step["hosts"] = Json::array({step["host"]});
      }
    }
    return engine_.fold(altered);
  }
};

void append(Effects& effects, Effects more) {
  for (auto& record : more.records) effects.records.push_back(std::move(record));
  for (auto& command : more.commands) effects.commands.push_back(std::move(command));
  effects.wake_at = more.wake_at;
}

bool under_way(const Engine& engine) {
  return std::ranges::any_of(engine.state().steps, [](const auto& step) { return step.progress == Progress::running; });
}

// While a step is under way, is told beside each event what makes its next attempt look permitted.
class ForgetsRules final : public Subject {
 public:
  Effects handle(std::int64_t now, const Event& event) override {
    auto effects = engine_.handle(now, event);
    if (under_way(engine_)) append(effects, engine_.handle(now, Facts{}));
    return effects;
  }
};

// Whatever is told of the way back, takes it for open.
class ForgetsWayBack final : public Subject {
 public:
  Effects handle(std::int64_t now, const Event& event) override {
    auto effects = engine_.handle(now, event);
    if (engine_.asks_for_way_back()) append(effects, engine_.handle(now, GoingBack{}));
    return effects;
  }
};

// Handles events as if not paused while a step is under way.
class ForgetsPause final : public Subject {
 public:
  Effects handle(std::int64_t now, const Event& event) override {
    if (!engine_.state().paused || !under_way(engine_)) return engine_.handle(now, event);
    auto effects = engine_.handle(now, Paused{false});
    append(effects, engine_.handle(now, event));
    const bool asked = std::ranges::any_of(
        effects.records, [](const Json& record) { return get_string_or(record, "type", "") == "asked"; });
    if (!engine_.state().paused && !std::holds_alternative<Paused>(event) && !asked) {
      append(effects, engine_.handle(now, Paused{true}));
    }
    std::erase_if(effects.records, [&](const Json& record) {
      const bool by_guard = !get_string_or(record, "why", "").empty();
      return !std::holds_alternative<Paused>(event) && get_string_or(record, "type", "") == "paused" && !by_guard;
    });
    return effects;
  }
};

// Takes one verdict of a guard for another.
class Mishears final : public Subject {
 public:
  Mishears(midstream::Verdict said, midstream::Verdict heard) : said_(said), heard_(heard) {}
  Effects handle(std::int64_t now, const Event& event) override {
    auto altered = event;
    if (auto* judged = std::get_if<Judged>(&altered); judged && judged->judgement.verdict == said_)
      judged->judgement.verdict = heard_;
    return engine_.handle(now, altered);
  }

 private:
  midstream::Verdict said_;
  midstream::Verdict heard_;
};

// Takes any event for the operator's word.
class NeedsNoWord final : public Subject {
 public:
  Effects handle(std::int64_t now, const Event& event) override {
    auto effects = engine_.handle(now, event);
    if (const auto phase = engine_.awaited_word(); !phase.empty())
      append(effects, engine_.handle(now, Confirmed{phase, "nobody"}));
    return effects;
  }
};

// Takes whatever a look at what a hold keeps has found for good.
class SeesNoRed final : public Subject {
 public:
  Effects handle(std::int64_t now, const Event& event) override {
    auto altered = event;
    if (auto* look = std::get_if<Kept>(&altered)) look->why.clear();
    return engine_.handle(now, altered);
  }
};

// Knows that the window is open, and not for how long.
class ForgetsTheClock final : public Subject {
 public:
  Effects handle(std::int64_t now, const Event& event) override {
    auto altered = event;
    if (auto* facts = std::get_if<Facts>(&altered)) facts->window_left_ms.reset();
    return engine_.handle(now, altered);
  }
};

// Is done with taking back when it has begun.
class TakesHalfBack final : public Subject {
 public:
  Effects handle(std::int64_t now, const Event& event) override {
    auto effects = engine_.handle(now, event);
    if (engine_.state().back_to.empty() || !std::holds_alternative<Judged>(event)) return effects;
    const auto& plan = engine_.state().plan;
    append(effects, {{{{"type", "stopped"},
                       {"step", plan.steps.back().id},
                       {"taken_back", true},
                       {"at", now},
                       {"error", to_json(refused("taken back").error())}}},
                     {},
                     {}});
    for (const auto& record : effects.records) {
      if (get_bool_or(record, "taken_back", false)) (void)engine_.fold(record);
    }
    return effects;
  }
};

}  // namespace

std::unique_ptr<Subject> make_subject(Bug bug) {
  switch (bug) {
    case Bug::none:
    case Bug::unguarded_journal:
    case Bug::unsynced_journal: break;
    case Bug::ignores_failing:
      return std::make_unique<Mishears>(midstream::Verdict::fail, midstream::Verdict::inconclusive);
    case Bug::takes_doubt_for_pass:
      return std::make_unique<Mishears>(midstream::Verdict::inconclusive, midstream::Verdict::pass);
    case Bug::sees_no_red: return std::make_unique<SeesNoRed>();
    case Bug::needs_no_word: return std::make_unique<NeedsNoWord>();
    case Bug::forgets_the_clock: return std::make_unique<ForgetsTheClock>();
    case Bug::takes_half_back: return std::make_unique<TakesHalfBack>();
    case Bug::forgets_peers: return std::make_unique<ForgetsPeers>();
    case Bug::forgets_rules: return std::make_unique<ForgetsRules>();
    case Bug::forgets_pause: return std::make_unique<ForgetsPause>();
    case Bug::forgets_way_back: return std::make_unique<ForgetsWayBack>();
    case Bug::sends_first: return std::make_unique<SendsFirst>();
    case Bug::ignores_epochs: return std::make_unique<IgnoresEpochs>();
    case Bug::repeats_blindly: return std::make_unique<RepeatsBlindly>();
    case Bug::takes_unknown_for_over: return std::make_unique<TakesUnknownForOver>();
    case Bug::takes_any_adoption: return std::make_unique<TakesAnyAdoption>();
  }
  return std::make_unique<Subject>();
}

}  // namespace midstream::test
