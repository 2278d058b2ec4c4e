#include "tests/sim/subject.h"

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
    if (auto* outcome = std::get_if<Outcome>(&altered)) outcome->epoch = engine_.state().epoch;
    if (auto* observed = std::get_if<Observed>(&altered)) observed->epoch = engine_.state().epoch;
    return engine_.handle(now, altered);
  }
};

// Where the engine would look first, applies again, and takes the outcome for what was seen.
class RepeatsBlindly final : public Subject {
 public:
  Effects handle(std::int64_t now, const Event& event) override {
    auto altered = event;
    if (const auto* outcome = std::get_if<Outcome>(&event); outcome && outcome->step == repeated_) {
      auto seen = outcome->result;
      if (seen) seen = Json{{"reached", true}};
      altered = Observed{outcome->step, outcome->epoch, std::move(seen)};
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

}  // namespace

std::unique_ptr<Subject> make_subject(Bug bug) {
  switch (bug) {
    case Bug::none: break;
    case Bug::sends_first: return std::make_unique<SendsFirst>();
    case Bug::ignores_epochs: return std::make_unique<IgnoresEpochs>();
    case Bug::repeats_blindly: return std::make_unique<RepeatsBlindly>();
    case Bug::takes_unknown_for_over: return std::make_unique<TakesUnknownForOver>();
    case Bug::takes_any_adoption: return std::make_unique<TakesAnyAdoption>();
  }
  return std::make_unique<Subject>();
}

}  // namespace midstream::test
