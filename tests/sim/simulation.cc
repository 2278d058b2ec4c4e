#include "tests/sim/simulation.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>

#include "control/rebuild.h"

namespace midstream::test {

namespace {

constexpr std::int64_t kTrouble = 30'000;    // ms of it
constexpr std::int64_t kPatience = 600'000;  // ms afterwards until the move must have ended

Step random_step(Random& random, const Plan& plan, int number, std::string_view phase) {
  Step step;
  step.phase = phase;
  step.id = fmt::format("{}-{}", phase, number);
  step.service = random.chance(50) ? "db" : "";
  const auto dice = random.between(1, 100);
  step.kind = dice <= 64   ? StepKind::effect
              : dice <= 80 ? StepKind::wait
              : dice <= 93 ? StepKind::hold
                           : StepKind::confirm;
  step.deadline_ms = step.kind == StepKind::hold ? random.between(1, 800) : random.between(500, 1500);
  step.poll_ms = random.between(50, 300);
  step.attempts = static_cast<int>(random.between(1, 4));
  step.expected_ms = random.between(0, 500);
  if (step.kind != StepKind::effect && random.chance(30)) step.back_ms = random.between(1, 800);
  if (!has_agent(step.kind)) return step;
  step.host = plan.hosts[random.between(0, static_cast<std::int64_t>(plan.hosts.size()) - 1)];
  step.mover = "m";
  step.hosts = {step.host};
  for (const auto& host : plan.hosts) {
    if (host != step.host && random.chance(40)) step.hosts.push_back(host);
  }
  if (random.chance(30)) step.expected_blackout_ms = random.between(1, 300);
  step.in_window = random.chance(20);
  return step;
}

// From one step to another before `finish`: holds in between wait for it, effects count as shares of the traffic.
void add_guard(Random& random, Plan& plan) {
  int last = -1;
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    if (plan.steps[i].phase != "finish") last = static_cast<int>(i);
  }
  const int from = static_cast<int>(random.between(0, last));
  const int until = static_cast<int>(random.between(from, last));
  plan.guards.push_back({"web", plan.hosts[0], "m", Json::object(), {}, plan.steps[from].id, plan.steps[until].id});
  for (int i = from; i <= until; ++i) {
    if (plan.steps[i].kind == StepKind::hold || random.chance(40)) plan.steps[i].guard = "web";
  }
}

// Holds keep what was done before them, some of it.
void add_keeping(Random& random, Plan& plan) {
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    if (plan.steps[i].kind != StepKind::hold || !plan.steps[i].guard.empty()) continue;
    for (std::size_t earlier = 0; earlier < i; ++earlier) {
      if (has_agent(plan.steps[earlier].kind) && random.chance(20))
        plan.steps[i].keeps.push_back(plan.steps[earlier].id);
    }
  }
}

Plan random_plan(Random& random) {
  Plan plan;
  plan.move = "simulated";
  plan.budgets = {{"db", 3000}};
  for (const auto* host : {"old", "new", "edge"}) {
    if (plan.hosts.size() < 2 || random.chance(50)) plan.hosts.emplace_back(host);
  }
  std::vector<int> phases;
  for (auto n = random.between(2, 9); n > 0; --n) phases.push_back(static_cast<int>(random.between(0, 8)));
  std::ranges::sort(phases);
  for (auto n = random.between(0, 3); n > 0; --n) phases.push_back(phase_index("finish"));
  for (const int phase : phases) {
    auto step = random_step(random, plan, static_cast<int>(plan.steps.size()), kPhases[phase]);
    step.irreversible = step.phase == "finish" && step.kind == StepKind::effect && random.chance(60);
    plan.steps.push_back(std::move(step));
  }
  if (random.chance(50)) add_guard(random, plan);
  add_keeping(random, plan);
  const bool ends = random.chance(25);
  for (const auto& host : plan.hosts) {
    if (ends && random.chance(70)) plan.leave.push_back({host, random.chance(50)});
  }
  return plan;
}

}  // namespace

Plan demo_plan() {
  std::ifstream file(MIDSTREAM_DEMO_PLAN);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  auto value = parse_json(text);
  if (!value) return {};
  auto plan = plan_from_json(*value);
  if (!plan) return {};
  for (auto& step : plan->steps) {
    if (step.kind == StepKind::hold) step.deadline_ms = std::min<std::int64_t>(step.deadline_ms, 500);
  }
  return *plan;
}

Plan twelve_steps() {
  Plan plan;
  plan.move = "swept";
  plan.hosts = {"old", "new"};
  const std::vector<std::string> phases = {"prepare", "copy",   "copy",      "follow", "shift",  "shift",
                                           "switch",  "switch", "addresses", "home",   "finish", "finish"};
  for (const auto& phase : phases) {
    Step step;
    step.phase = phase;
    step.id = fmt::format("{}-{}", phase, plan.steps.size());
    step.kind = phase == "follow" ? StepKind::wait : phase == "home" ? StepKind::hold : StepKind::effect;
    step.deadline_ms = step.kind == StepKind::hold ? 300 : 5000;
    if (step.kind != StepKind::hold) {
      step.host = plan.hosts[plan.steps.size() % 2];
      step.hosts = plan.hosts;
      step.mover = "m";
    }
    step.in_window = phase == "switch";
    plan.steps.push_back(std::move(step));
  }
  plan.steps.back().irreversible = true;
  return plan;
}

namespace {

class Simulation {
 public:
  Simulation(std::uint64_t seed, Plan plan, Bug bug, bool traced)
      : loop_(seed, traced),
        plan_(std::move(plan)),
        world_(loop_, plan_),
        checker_(loop_, world_.truths()),
        journal_(seed),
        shells_{Shell(loop_, world_, checker_, plan_, journal_, bug),
                Shell(loop_, world_, checker_, plan_, journal_, bug)} {
    world_.watch_with(&checker_);
    two_ = loop_.random.chance(20);
    if (loop_.random.chance(20)) lie();
    trouble_pace_ = loop_.random.between(300, 3000);
  }

  void trouble() {
    for (auto& shell : shells_) shell.death = [this, &shell] { return random_death(shell); };
    shells_[0].start();
    loop_.after(0, [this] { disturb(); });
    loop_.run(kTrouble, [] { return false; });
    calm();
    for (auto& shell : shells_) shell.death = [] { return Death::no; };
  }

  void die_at(std::int64_t at, Death how) {
    shells_[0].death = [this, at, how] {
      if (shells_[0].handled() != at) return Death::no;
      ++deaths_;
      return how;
    };
  }

  // Where the controller dies its journal goes with it.
  void lose_journal() { loses_journal_ = true; }

  void die_with_effect(int at, Truth truth) {
    world_.crash_at(at, truth, [this](const std::string& host) { cut(host); });
  }

  void lie() {
    world_.lie();
    checker_.believe_nothing();
  }

  // Without trouble until `goal` is reached; starts the controller again when it is dead.
  void settle(Goal goal) {
    calm();
    goal_ = goal;
    ended_ = false;
    attend();
    if (loop_.run(loop_.now() + kPatience, [this] { return ended_; })) return check_end();
    if (loop_.violation().empty()) {
      loop_.violate(fmt::format("it does not end: {}", shell().alive() ? shell().engine().waiting() : "dead"));
    }
  }
  // Until the engine has handled so many events.
  void settle_until(std::int64_t handled) {
    calm();
    goal_ = Goal::run;
    attend();
    loop_.run(kPatience, [this, handled] { return ended_ || shell().handled() >= handled; });
    ++attendance_;
  }

  Random& random() { return loop_.random; }
  const State& durable() const { return checker_.durable(); }
  Verdict verdict() const {
    return {loop_.violation(),
            journal_.fingerprint,
            shells_[0].handled() + shells_[1].handled(),
            deaths_,
            world_.begun(),
            shells_[0].stores(),
            shells_[0].sends(),
            loop_.trace()};
  }

 private:
  // The controller that was started last: it alone may go on.
  Shell& shell() { return shells_[latest_]; }
  void start(int which) {
    latest_ = which;
    shell().start();
  }
  void calm() {
    calm_ = true;
    world_.heal();
    for (auto& shell : shells_) shell.quiet();
  }

  Death random_death(Shell& dying) {
    if (!loop_.random.chance(4)) return Death::no;
    ++deaths_;
    const int which = &dying == shells_ ? 0 : 1;
    loop_.after(loop_.random.between(10, 1500), [this, which] {
      if (two_ || which == latest_) start(which);
    });
    return static_cast<Death>(loop_.random.between(1, 6));
  }

  // What the world and the operator do comes to a controller that lives, whichever.
  void deliver(const Event& event) {
    const int first = two_ ? static_cast<int>(loop_.random.between(0, 1)) : latest_;
    auto& one = shells_[first].alive() ? shells_[first] : shells_[1 - first];
    one.deliver(event);
  }
  void cut(const std::string& host) {
    for (auto& shell : shells_) shell.cut(host);
  }

  // Something happens, again and again.
  void disturb() {
    if (calm_) return;
    const auto& host = plan_.hosts[loop_.random.between(0, static_cast<std::int64_t>(plan_.hosts.size()) - 1)];
    const auto dice = loop_.random.between(1, 100);
    if (dice <= 25) {
      deliver(loop_.random.chance(10) ? Event(NoFacts{}) : Event(facts()));
      deliver(going_back());
    } else if (dice <= 50) {
      deliver(Asked{Goal::run, loop_.random.chance(15) ? std::string(kPhases[loop_.random.between(0, 8)]) : ""});
    } else if (dice <= 58) {
      deliver(Asked{Goal::back, "", loop_.random.chance(30)});
    } else if (dice <= 66) {
      deliver(Asked{Goal::finish, ""});
    } else if (dice <= 74) {
      deliver(Paused{loop_.random.chance(40)});
    } else if (dice <= 80) {
      cut(host);
    } else if (dice <= 84) {
      world_.kill_agent(host);
      cut(host);
    } else if (dice <= 87) {
      deliver(NotAdopted{host, retry("cannot be reached").error()});
    } else if (dice <= 90 && two_) {
      start(1 - latest_);  // the other one takes over, and this one does not know it yet
    } else if (dice <= 92) {
      deliver(Confirmed{std::string(kPhases[loop_.random.between(0, 9)]), "root"});
    } else if (dice <= 99) {
      judge(static_cast<midstream::Verdict>(loop_.random.between(0, 4)));
    }
    if (loop_.random.chance(30)) go_on();
    if (loop_.random.chance(2)) deliver(tuned());
    if (loop_.random.chance(2)) deliver(Measured{plan_.steps[0].id, 0, loop_.random.between(0, 400)});
    loop_.after(loop_.random.between(1, trouble_pace_), [this] { disturb(); });
  }

  // What a move waits for of itself: words, verdicts, looks.
  void go_on() {
    if (!shell().alive()) return;
    const auto phase = shell().engine().awaited_word();
    const auto* hold = shell().engine().keeping();
    if (!phase.empty()) return deliver(Confirmed{phase, "root"});
    if (hold != nullptr) return deliver(Kept{hold->id, loop_.random.chance(30) ? "it does not" : ""});
    judge(loop_.random.chance(80) ? midstream::Verdict::pass : midstream::Verdict::inconclusive);
  }

  void judge(midstream::Verdict verdict) {
    for (const auto& guard : plan_.guards)
      deliver(Judged{guard.service, {verdict, "so many of so many", loop_.random.chance(30)}});
  }

  // A limit, or how long what is still ahead lasts.
  Tuned tuned() {
    const auto value = loop_.random.between(1, 900);
    if (loop_.random.chance(50))
      return {"downtime of db", "root", {{{"what", "budget"}, {"service", "db"}, {"value", 2'500 + value}}}};
    return {"the observation", "root", {{{"what", "soak"}, {"service", ""}, {"value", value}}}};
  }

  GoingBack going_back() {
    GoingBack told;
    told.possible = loop_.random.chance(85);
    if (!told.possible) told.step = plan_.steps[0].id, told.why = "old is ill";
    if (loop_.random.chance(20)) told.dead.insert("db");
    return told;
  }

  Facts facts() {
    Facts facts;
    facts.window_open = calm_ || loop_.random.chance(80);
    if (!calm_ && loop_.random.chance(20)) facts.window_left_ms = loop_.random.between(0, 2'000);
    facts.downtime_ms["db"] = calm_ ? 0 : world_.downtime_ms();
    return facts;
  }

  // The operator, in the end: looks again and again, and asks until there is nothing left to ask.
  void attend() { attend(++attendance_); }
  void attend(int attendance) {
    if (attendance != attendance_) return;
    loop_.after(500, [this, attendance] { attend(attendance); });
    if (loses_journal_ && !shell().alive() && deaths_ > 0) adopt();
    shell().start();
    if (!shell().alive()) return;
    const auto& state = shell().engine().state();
    if (!state.leaving.empty()) goal_ = Goal::finish;  // nothing else is asked for any more
    const bool asked =
        state.goal == goal_ || (goal_ == Goal::finish && state.goal == Goal::end && !state.leaving.empty());
    if (state.complete() && asked && state.until.empty()) {
      ended_ = true;
      return;
    }
    if (state.paused) shell().deliver(Paused{false});
    if (!shell().alive()) return;
    shell().deliver(facts());
    for (const auto& guard : plan_.guards)
      shell().deliver(Judged{guard.service, {midstream::Verdict::pass, "all is well"}});
    if (!shell().alive()) return;
    shell().deliver(GoingBack{});
    if (!shell().alive()) return;
    const bool stuck = state.stopped || state.complete() || !asked || !state.until.empty();
    if (const auto phase = shell().engine().awaited_word(); !phase.empty()) shell().deliver(Confirmed{phase, "root"});
    if (!shell().alive()) return;
    if (const auto* hold = shell().engine().keeping()) shell().deliver(Kept{hold->id, ""});
    if (!shell().alive()) return;
    if (stuck) ask();
  }

  // `run --adopt`. Where no agent has been asked for anything the move begins anew.
  void adopt() {
    loses_journal_ = false;
    const auto epoch = world_.adopt_all();
    auto records = rebuild_journal(world_.recall(), epoch, "adopted", loop_.now());
    if (!records && world_.begun() > 0) return loop_.violate("not rebuilt: " + records.error().text());
    if (!records)
      records = std::vector<Json>{Engine::plan_record(loop_.now(), plan_),
                                  {{"type", "epoch"}, {"at", loop_.now()}, {"epoch", epoch}}};
    loop_.note([] { return "the journal is lost, and rebuilt"; });
    checker_.adopted(*records);
    shell().replace_journal(*records);
  }

  void ask() {
    const auto& engine = shell().engine();
    // To finish what was taken back would end it there.
    const bool end = goal_ == Goal::finish && engine.state().taken_back() && engine.state().leaving.empty();
    if (end && !engine.objection(Goal::run)) return shell().deliver(Asked{Goal::run, ""});
    if (!engine.objection(goal_)) return shell().deliver(Asked{goal_, ""});
    if (engine.state().past_return()) {
      goal_ = Goal::finish;
    } else if (goal_ == Goal::finish && !engine.objection(Goal::run)) {
      if (engine.state().goal != Goal::run || engine.state().stopped || !engine.state().until.empty()) {
        shell().deliver(Asked{Goal::run, ""});
      }
      return;
    } else if (engine.state().goal != Goal::back || engine.state().stopped) {
      shell().deliver(Asked{Goal::back, ""});
      return;
    }
    if (!engine.objection(goal_)) shell().deliver(Asked{goal_, ""});
  }

  void check_end() {
    check_truths();
    // And it stays so.
    loop_.run(loop_.now() + 5000, [] { return false; });
    check_truths();
    if (world_.busy()) loop_.violate("something is still under way after the end");
    checker_.compare(shell().engine().state());
  }

  void check_truths() {
    for (std::size_t i = 0; i < plan_.steps.size(); ++i) {
      const auto& step = plan_.steps[i];
      if (step.kind != StepKind::effect) continue;
      const bool finish = step.phase == "finish";
      const auto progress = durable().steps[i].progress;
      const bool begun = progress != Progress::pending && progress != Progress::undone;
      const bool wanted =
          goal_ != Goal::back && durable().goal != Goal::end && (!finish || goal_ == Goal::finish || begun);
      const auto truth = world_.truths()[i];
      if (world_.lied_of(static_cast<int>(i)) && wanted) continue;
      if (truth != (wanted ? Truth::done : Truth::none)) {
        loop_.violate(fmt::format("after '{}' has ended, '{}' is {}", to_string(goal_), step.id, truth_name(truth)));
      }
    }
  }

  Loop loop_;
  Plan plan_;
  World world_;
  Checker checker_;
  Store journal_;
  Shell shells_[2];
  int latest_ = 0;
  bool two_ = false;  // the journal's lock keeps nobody out
  Goal goal_ = Goal::run;
  std::int64_t trouble_pace_;  // at most so many ms from one to the next
  bool calm_ = false;
  bool ended_ = false;
  int attendance_ = 0;
  int deaths_ = 0;
  bool loses_journal_ = false;
};

}  // namespace

Verdict simulate(std::uint64_t seed, Bug bug, bool traced) {
  Random of_plan(~seed);
  Simulation simulation(seed, random_plan(of_plan), bug, traced);
  simulation.trouble();
  const Goal goals[] = {Goal::run, Goal::back, Goal::finish};
  simulation.settle(goals[simulation.random().between(0, 2)]);
  return simulation.verdict();
}

Verdict sweep(const Plan& plan, std::int64_t at, Death death, bool back, bool traced) {
  Simulation simulation(1, plan, Bug::none, traced);
  simulation.die_at(at, death);
  simulation.settle(Goal::run);
  simulation.settle(back ? Goal::back : Goal::finish);
  return simulation.verdict();
}

Verdict sweep_effects(const Plan& plan, int at, Truth truth, bool back, bool traced) {
  Simulation simulation(1, plan, Bug::none, traced);
  simulation.die_with_effect(at, truth);
  simulation.settle(Goal::run);
  simulation.settle(back ? Goal::back : Goal::finish);
  return simulation.verdict();
}

Verdict sweep_adopt(const Plan& plan, std::int64_t at, Death death, bool back, bool traced) {
  Simulation simulation(1, plan, Bug::none, traced);
  simulation.die_at(at, death);
  simulation.lose_journal();
  simulation.settle(Goal::run);
  simulation.settle(back ? Goal::back : Goal::finish);
  return simulation.verdict();
}

Verdict turn_back(std::int64_t at) {
  Simulation simulation(1, twelve_steps(), Bug::none, true);
  simulation.settle_until(at);
  simulation.settle(Goal::back);
  return simulation.verdict();
}

}  // namespace midstream::test
