// Every state of every plan up to a small size: from each of them, before finish, the operator can go back, and what was
// done is undone; after it the move can be ended. Breadth first over the engine and a modelled world: calls that end
// well, badly, half-way or unknown, agents and controllers that die, words that are given, guards that judge, a way back
// that closes, an operator who turns.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <deque>
#include <unordered_set>

#include "engine/engine.h"
#include "tests/sim/checker.h"
#include "tests/sim/simulation.h"
#include "tests/support/engine_text.h"

namespace midstream {

// What of an engine is not in its journal.
struct EngineInsight {
  static Engine restarted(const Engine& engine) {
    Engine again;
    again.state_ = engine.state_;
    return again;
  }
  static bool needs_facts(const Engine& engine) { return !engine.facts_; }
  static bool needs_way_back(const Engine& engine) { return !engine.going_back_ && engine.asks_for_way_back(); }
  static std::string key(const Engine& engine, std::int64_t now) {
    std::string key;
    for (const auto& host : engine.adopted_) key += host + ",";
    key += fmt::format("{}{}{}{}{}{}{}{}", engine.in_flight_, engine.observing_, engine.resolve_, engine.looked_,
                       engine.asked_in_vain_, engine.not_before_ > now, engine.facts_.has_value(),
                       engine.look_before_going_back_);
    key += engine.going_back_ ? (engine.going_back_->possible ? "+" : "-") : "?";
    for (const auto& [service, said] : engine.judgements_) key += to_string(said.verdict);
    return key + (get_bool_or(engine.seen_, "held", false) ? "h" : "");
  }
};

namespace test {

bool all_small_plans = false;

namespace {

struct Node {
  Engine engine;
  std::vector<Truth> truths;
  std::map<std::string, std::uint64_t> adopted;  // by the agents
  std::optional<Call> out;
  std::optional<std::int64_t> wake_at;
  std::int64_t now = 1000;
  int faults = 0;  // left
  int turns = 0;   // of the operator, left
};

const State& state_of(const Node& node) { return node.engine.state(); }

Step step_of(char kind, int number, std::string_view phase) {
  Step step;
  step.id = fmt::format("{}{}", kind, number);
  step.phase = phase;
  step.attempts = 2;
  step.deadline_ms = 300;
  step.poll_ms = 200;
  if (kind == 'C') {
    step.kind = StepKind::confirm;
    return step;
  }
  if (kind == 'H' || kind == 'G') {
    step.kind = StepKind::hold;
    step.back_ms = 100;
    if (kind == 'G') step.guard = "web";
    return step;
  }
  step.kind = kind == 'W' ? StepKind::wait : StepKind::effect;
  step.mover = "m";
  step.host = number % 2 == 0 ? "old" : "new";
  step.hosts = {step.host};
  if (kind == 'F') {  // felt, and both hosts have a part in it
    step.hosts = {"old", "new"};
    step.in_window = true;
  }
  step.irreversible = kind == 'X';
  return step;
}

Plan plan_of(const std::string& kinds) {
  Plan plan;
  plan.move = "small";
  plan.hosts = {"old", "new"};
  for (const char kind : kinds)
    plan.steps.push_back(step_of(kind, static_cast<int>(plan.steps.size()), kind == 'X' ? "finish" : "switch"));
  const auto watched = kinds.rfind('G');
  if (watched != std::string::npos)
    plan.guards.push_back({"web", "old", "m", Json::object(), {}, plan.steps[0].id, plan.steps[watched].id});
  return plan;
}

class Explorer {
 public:
  explicit Explorer(std::string kinds) : kinds_(std::move(kinds)) {}

  // The first promise that does not hold, with the way there; "" if all hold.
  std::string explore(int faults, int turns) {
    Node first;
    const auto plan = plan_of(kinds_);
    EXPECT_TRUE(validate(plan));
    EXPECT_TRUE(first.engine.fold(Engine::plan_record(0, plan)));
    first.truths.assign(plan.steps.size(), Truth::none);
    first.adopted = {{"old", 0}, {"new", 0}};
    first.faults = faults;
    first.turns = turns;
    give(first, Started{});
    give(first, Asked{Goal::run, ""});
    visit(first, -1, "run");
    for (std::size_t at = 0; at < nodes_.size() && broken_.empty(); ++at) expand(static_cast<int>(at));
    return broken_;
  }
  std::size_t states() const { return seen_.size(); }

 private:
  // What the engine answers is done at once: commands leave, and facts that it lacks are there.
  void give(Node& node, const Event& event) {
    auto effects = node.engine.handle(node.now, event);
    take(node, effects);
    if (EngineInsight::needs_facts(node.engine)) {
      effects = node.engine.handle(node.now, Facts{});
      take(node, effects);
    }
  }
  void take(Node& node, const Effects& effects) {
    node.wake_at = effects.wake_at;
    for (const auto& command : effects.commands) {
      if (const auto* call = std::get_if<Call>(&command)) {
        if (call->verb != Call::Verb::observe) check_order(node, *call);
        node.out = *call;
      }
    }
  }

  void check_order(const Node& node, const Call& call) {
    const int index = state_of(node).plan.find(call.step);
    const bool forward = call.verb == Call::Verb::apply;
    for (int i = 0; i < static_cast<int>(node.truths.size()); ++i) {
      if (state_of(node).plan.steps[i].kind != StepKind::effect || i == index) continue;
      if ((forward ? i < index : i > index) && node.truths[i] != (forward ? Truth::done : Truth::none))
        broken_ = fmt::format("{} while '{}' is {}", command_line(call), state_of(node).plan.steps[i].id,
                              truth_name(node.truths[i]));
    }
    if (!forward && state_of(node).plan.steps[index].irreversible) broken_ = command_line(call) + " is irreversible";
  }

  static std::string_view truth_name(Truth truth) {
    return truth == Truth::none ? "none" : truth == Truth::partly ? "partly" : "done";
  }

  std::string key(const Node& node) const {
    const auto& state = state_of(node);
    auto key = fmt::format("{}{}{}{}{}{}|{}|", static_cast<int>(state.goal), state.until, state.paused,
                           state.stopped.has_value(), state.back_begun, state.back_to,
                           EngineInsight::key(node.engine, node.now));
    for (std::size_t i = 0; i < state.steps.size(); ++i) {
      const auto& step = state.steps[i];
      const bool timed = state.plan.steps[i].kind != StepKind::effect && step.progress != Progress::done;
      key += fmt::format("{}{}{}{}.", static_cast<int>(step.progress), step.attempt, static_cast<int>(node.truths[i]),
                         timed && step.first_ms > 0 ? std::min<std::int64_t>((node.now - step.first_ms) / 100, 4) : 0);
    }
    for (const auto& [host, epoch] : node.adopted) key += epoch == state.epoch ? 'a' : '-';
    if (node.out)
      key += fmt::format("{}{}{}", static_cast<int>(node.out->verb), node.out->step, node.out->epoch == state.epoch);
    return key + (node.wake_at ? "w" : "");
  }

  void visit(const Node& node, int parent, std::string how) {
    if (!broken_.empty()) broken_ += path(parent) + how;
    if (!broken_.empty()) return;
    const auto plain = key(node);
    if (!seen_.insert(fmt::format("{} {} {}", plain, node.faults, node.turns)).second) return;
    nodes_.push_back({node, parent, std::move(how)});
    if (!promised_.insert(plain).second) return;
    if (const auto why = promise(node); !why.empty()) broken_ = why + path(static_cast<int>(nodes_.size()) - 1);
  }
  std::string path(int at) const {
    std::string text = "\n";
    for (; at >= 0; at = nodes_[at].parent) text.insert(1, nodes_[at].how + "\n");
    return "\nplan " + kinds_ + text;
  }

  // From here on all goes well: the operator's word is followed to its end.
  std::string promise(Node node) {
    const bool back = !state_of(node).past_return();
    if (state_of(node).paused) give(node, Paused{false});
    const auto goal = back ? Goal::back : Goal::finish;
    if (const auto no = node.engine.objection(goal)) return "objection: " + no->text();
    give(node, Asked{goal, ""});
    for (int i = 0; i < 300 && !state_of(node).complete() && !state_of(node).stopped; ++i) {
      if (!broken_.empty()) return std::exchange(broken_, "");
      if (!step_well(node))
        return fmt::format("stuck on the way {}: {}", back ? "back" : "to the end", node.engine.waiting());
    }
    if (!state_of(node).complete())
      return fmt::format("no end of the way {}: {}", back ? "back" : "to the end", node.engine.waiting());
    for (std::size_t i = 0; i < node.truths.size(); ++i) {
      const bool effect = state_of(node).plan.steps[i].kind == StepKind::effect;
      if (effect && node.truths[i] != (back ? Truth::none : Truth::done))
        return fmt::format("at the end of the way {} '{}' is {}", back ? "back" : "on", state_of(node).plan.steps[i].id,
                           truth_name(node.truths[i]));
    }
    return "";
  }

  bool step_well(Node& node) {
    for (const auto& [host, epoch] : node.adopted) {
      if (epoch != state_of(node).epoch) return adopt(node, host), true;
    }
    if (EngineInsight::needs_way_back(node.engine)) return give(node, GoingBack{}), true;
    if (reachable(node)) return answer(node, Truth::done, std::nullopt), true;
    if (!node.wake_at) return false;
    node.now = std::max(node.now, *node.wake_at);
    give(node, Tick{});
    return true;
  }

  // What was under way there under an earlier epoch is over.
  void adopt(Node& node, const std::string& host) {
    node.adopted[host] = state_of(node).epoch;
    if (node.out && node.out->host == host && node.out->epoch != state_of(node).epoch) node.out.reset();
    give(node, Adopted{host, state_of(node).epoch});
  }
  static bool reachable(const Node& node) {
    return node.out && node.out->epoch == state_of(node).epoch && node.adopted.at(node.out->host) == node.out->epoch;
  }

  // The call ends: its effect stands at `truth` (where that is done: at what was wanted), the answer is `error` or ok.
  void answer(Node& node, Truth truth, std::optional<ErrorKind> error) {
    const auto call = *std::exchange(node.out, {});
    const int index = state_of(node).plan.find(call.step);
    const Result<Json> bad = failure(error.value_or(ErrorKind::retry), "planted");
    if (call.verb == Call::Verb::observe) {
      const bool wait = state_of(node).plan.steps[index].kind == StepKind::wait;
      const bool reached = wait ? truth == Truth::done : node.truths[index] == Truth::done;
      Result<Json> seen =
          Json{{"reached", reached}, {"why", reached ? "" : "not yet"}, {"held", node.truths[index] == Truth::partly}};
      return give(node, Observed{call.step, call.epoch, call.number, error ? bad : seen});
    }
    const bool forward = call.verb == Call::Verb::apply;
    if (truth == Truth::done) node.truths[index] = forward ? Truth::done : Truth::none;
    if (truth == Truth::partly) node.truths[index] = Truth::partly;
    Result<Json> good = Json::object();
    give(node, Outcome{call.step, forward ? Direction::forward : Direction::back, call.epoch, call.number,
                       error ? bad : good});
  }

  template <class Change>
  void follow(int from, const std::string& how, Change change) {
    if (!broken_.empty()) return;
    Node node = nodes_[from].node;
    change(node);
    visit(node, from, how);
  }

  void expand(int from) {
    const auto& node = nodes_[from].node;
    for (const char* host : {"old", "new"}) {
      if (node.adopted.at(host) != state_of(node).epoch)
        follow(from, fmt::format("{} adopts", host), [&](Node& n) { adopt(n, host); });
    }
    if (EngineInsight::needs_way_back(node.engine))
      follow(from, "the way back is open", [&](Node& n) { give(n, GoingBack{}); });
    if (node.wake_at) {
      follow(from, "time passes", [&](Node& n) {
        n.now = std::max(n.now, *n.wake_at);
        give(n, Tick{});
      });
    }
    if (const auto phase = node.engine.awaited_word(); !phase.empty())
      follow(from, "the word is given", [&](Node& n) { give(n, Confirmed{phase, "root"}); });
    if (node.engine.guarding("web"))
      follow(from, "the guard passes", [&](Node& n) { give(n, Judged{"web", {midstream::Verdict::pass, ""}}); });
    if (reachable(node)) follow(from, "done", [&](Node& n) { answer(n, Truth::done, std::nullopt); });
    if (nodes_[from].node.faults > 0) expand_faults(from);
    if (nodes_[from].node.turns > 0) expand_turns(from);
  }

  void expand_faults(int from) {
    const auto fault = [&](const std::string& how, auto change) {
      follow(from, how, [&](Node& n) {
        --n.faults;
        change(n);
      });
    };
    if (reachable(nodes_[from].node)) {
      for (const auto kind : {ErrorKind::retry, ErrorKind::unknown, ErrorKind::refused}) {
        for (const auto truth : {Truth::none, Truth::partly, Truth::done})
          fault(fmt::format("{}, the effect is {}", to_string(kind), truth_name(truth)),
                [&](Node& n) { answer(n, truth, kind); });
      }
      if (nodes_[from].node.out->verb == Call::Verb::observe)
        fault("not reached yet", [&](Node& n) { answer(n, Truth::none, std::nullopt); });
    }
    for (const auto truth : {Truth::none, Truth::partly, Truth::done}) {
      if (!nodes_[from].node.out && truth != Truth::none) continue;
      fault(fmt::format("the controller dies, a call's effect becomes {}", truth_name(truth)), [&](Node& n) {
        if (n.out) stand(n, truth);
        n.engine = EngineInsight::restarted(n.engine);
        give(n, Started{});
      });
    }
    for (const char* host : {"old", "new"}) {
      fault(fmt::format("the link to {} is lost", host), [&](Node& n) {
        if (n.out && n.out->host == host && n.out->verb != Call::Verb::observe) stand(n, Truth::partly);
        n.adopted[host] = 0;
        give(n, LinkLost{host});
      });
    }
    if (nodes_[from].node.engine.guarding("web")) {
      for (const auto verdict : {midstream::Verdict::fail, midstream::Verdict::both, midstream::Verdict::unknown})
        fault(fmt::format("the guard says {}", to_string(verdict)), [&](Node& n) {
          give(n, Judged{"web", {verdict, "planted"}});
        });
    }
    fault("the way back closes", [&](Node& n) {
      give(n, GoingBack{false, state_of(n).plan.steps[0].id, "planted", {}});
    });
  }
  void stand(Node& node, Truth truth) {
    if (node.out->verb == Call::Verb::observe || truth == Truth::none) return;
    const int index = state_of(node).plan.find(node.out->step);
    const bool forward = node.out->verb == Call::Verb::apply;
    node.truths[index] = truth == Truth::partly ? Truth::partly : forward ? Truth::done : Truth::none;
  }

  void expand_turns(int from) {
    const auto turn = [&](const std::string& how, const Event& event) {
      follow(from, how, [&](Node& n) {
        --n.turns;
        give(n, event);
      });
    };
    for (const auto goal : {Goal::run, Goal::back, Goal::finish}) {
      if (!nodes_[from].node.engine.objection(goal)) turn(fmt::format("asked {}", to_string(goal)), Asked{goal, ""});
    }
    turn("asked back, anyway", Asked{Goal::back, "", true});
    turn("pause", Paused{true});
  }

  struct Reached {
    Node node;
    int parent;
    std::string how;
  };
  std::string kinds_;
  std::deque<Reached> nodes_;
  std::unordered_set<std::string> seen_;
  std::unordered_set<std::string> promised_;
  std::string broken_;
};

std::vector<std::string> all_plans(int length) {
  std::vector<std::string> plans{""};
  for (int i = 0; i < length; ++i) {
    std::vector<std::string> longer;
    for (const auto& plan : plans) {
      for (const char kind : {'E', 'F', 'W', 'H', 'C', 'G'}) longer.push_back(plan + kind);
    }
    plans = std::move(longer);
  }
  return plans;
}

// Of plans of one step everything that two faults and one turn of the operator can do, of two one fault and one turn;
// where all are wanted, of two and of three. Each ends in a step that cannot be undone.
TEST(Exhaustive, FromEveryStateTheOperatorCanGoBackUntilFinishAndThenToItsEnd) {
  std::size_t states = 0;
  int plans = 0;
  for (int length = 1; length <= (all_small_plans ? 3 : 2); ++length) {
    for (const auto& plan : all_plans(length)) {
      Explorer explorer(plan + "X");
      ASSERT_EQ(explorer.explore(length < (all_small_plans ? 3 : 2) ? 2 : 1, 1), "");
      states += explorer.states();
      ++plans;
    }
  }
  std::printf("%d plans, %zu states\n", plans, states);
}

}  // namespace
}  // namespace test
}  // namespace midstream
