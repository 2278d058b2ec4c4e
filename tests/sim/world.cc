#include "tests/sim/world.h"

#include <fmt/format.h>

#include <algorithm>

#include "tests/support/engine_text.h"

namespace midstream::test {

std::string_view truth_name(Truth truth) {
  return truth == Truth::none ? "none" : truth == Truth::partly ? "partly" : "done";
}

World::World(Loop& loop, const Plan& plan) : loop_(loop), plan_(plan), truths_(plan.steps.size(), Truth::none) {
  for (const auto& host : plan.hosts) agents_[host];
}

void World::receive(const Command& command, const Reply& reply) {
  if (const auto* adoption = std::get_if<Adopt>(&command)) return adopt(*adoption, reply);
  const auto& call = std::get<Call>(command);
  const auto& agent = agents_.at(call.host);
  const auto refuse = [&](ErrorKind kind) {
    Result<Json> no = failure(kind, "not the epoch in force");
    reply(call.verb == Call::Verb::observe
              ? Event(Observed{call.step, call.epoch, call.number, no})
              : Event(Outcome{call.step, call.verb == Call::Verb::undo ? Direction::back : Direction::forward,
                              call.epoch, call.number, no}));
  };
  if (call.epoch < agent.epoch) return refuse(ErrorKind::fenced);
  if (call.epoch > agent.epoch || agent.adopting) return refuse(ErrorKind::retry);
  begin(call, reply);
}

void World::adopt(const Adopt& adopt, const Reply& reply) {
  auto& agent = agents_.at(adopt.host);
  if (adopt.epoch < agent.epoch)
    return reply(NotAdopted{adopt.host, failure(ErrorKind::fenced, "a newer epoch is in force").error()});
  if (adopt.epoch == agent.epoch) return reply(Adopted{adopt.host, adopt.epoch});
  agent.adopting = true;
  const auto life = agent.life;
  // What is under way is told to stop, and may take its time.
  const bool works = std::ranges::any_of(jobs_, [&](const auto& one) { return one.second.place == adopt.host; });
  const auto delay =
      faulty_ && loop_.random.chance(works ? 60 : 20) ? loop_.random.between(80, 3000) : loop_.random.between(0, 80);
  loop_.after(delay, [this, adopt, reply, life] {
    auto& agent = agents_.at(adopt.host);
    if (agent.life != life || adopt.epoch <= agent.epoch) return;
    end_all_at(adopt.host, true);
    agent.epoch = adopt.epoch;
    agent.adopting = false;
    loop_.note([&] { return fmt::format("{} adopts epoch {}", adopt.host, adopt.epoch); });
    reply(Adopted{adopt.host, adopt.epoch});
  });
}

void World::kill_agent(const std::string& host) {
  auto& agent = agents_.at(host);
  ++agent.life;
  agent.adopting = false;
  end_all_at(host, false);
  loop_.note([&] { return fmt::format("agent on {} is killed", host); });
}

void World::end_all_at(const std::string& host, bool answering) {
  std::vector<int> over;
  for (const auto& [id, job] : jobs_) {
    if (job.place == host) over.push_back(id);
  }
  for (const int id : over) {
    if (answering) answer(id, failure(ErrorKind::cancelled, "a newer epoch took over"));
    jobs_.erase(id);
  }
}

void World::begin(const Call& call, const Reply& reply) {
  const int index = plan_.find(call.step);
  check_begin(call, index);
  const int id = ++last_job_;
  jobs_[id] = Job{call, index, call.host, reply};
  loop_.note([&] { return fmt::format("{} begins: {}", call.host, command_line(call)); });
  if (call.verb == Call::Verb::observe) return observe(id);
  const auto verb = call.verb == Call::Verb::apply ? "apply" : "undo";
  agents_.at(call.host).calls[{call.epoch, call.number}] = {
      {"epoch", call.epoch}, {"number", call.number}, {"step", call.step}, {"verb", verb}, {"at", loop_.now()}};
  downtime_ms_ += loop_.random.between(0, plan_.steps[index].expected_blackout_ms);
  act(id);
}

void World::check_begin(const Call& call, int index) {
  for (const auto& [id, job] : jobs_) {
    const bool undo_over_apply = call.verb == Call::Verb::undo && job.call.verb == Call::Verb::apply;
    loop_.violate(fmt::format("{}: '{}' begins while '{}' is under way",
                              undo_over_apply ? "an undo over an apply" : "two at once", command_line(call),
                              command_line(job.call)));
  }
  if (call.verb == Call::Verb::observe) return;
  if (checker_ != nullptr && !checker_->intended(call)) {
    loop_.violate(fmt::format("an effect without its intent stored: {}", command_line(call)));
  }
  const auto& step = plan_.steps[index];
  const bool forward = call.verb == Call::Verb::apply;
  if (step.irreversible && !forward) loop_.violate(fmt::format("'{}' is irreversible and is undone", step.id));
  for (int i = 0; i < static_cast<int>(truths_.size()); ++i) {
    if (plan_.steps[i].kind != StepKind::effect || i == index || lied_of_.contains(i)) continue;
    const auto wanted = i < index ? Truth::done : Truth::none;
    if ((forward ? i < index : i > index) && truths_[i] != wanted) {
      loop_.violate(fmt::format("out of order: {} while '{}' is {}", command_line(call), plan_.steps[i].id,
                                truth_name(truths_[i])));
    }
  }
}

void World::move(int id, Truth truth, std::int64_t delay, std::function<void()> next) {
  loop_.after(delay, [this, id, truth, next = std::move(next)] {
    const auto found = jobs_.find(id);
    if (found == jobs_.end()) return;
    truths_[found->second.index] = truth;
    loop_.note([&] { return fmt::format("'{}' is {}", found->second.call.step, truth_name(truth)); });
    next();
  });
}

void World::act(int id) {
  if (++begun_ == crash_.at) {
    const auto host = jobs_.at(id).place;
    return move(id, crash_.truth, 1, [this, host] {
      kill_agent(host);
      crash_.then(host);
    });
  }
  if (faulty_ && loop_.random.chance(40)) return fail_or_hang(id);
  const auto& job = jobs_.at(id);
  const bool forward = job.call.verb == Call::Verb::apply;
  const auto goal = forward ? Truth::done : Truth::none;
  const auto finish = [this, id] { end(id, Json::object()); };
  if (truths_[job.index] == goal) return move(id, goal, loop_.random.between(1, 20), finish);  // idempotent
  move(id, Truth::partly, loop_.random.between(1, 100),
       [this, id, goal, finish] { move(id, goal, loop_.random.between(1, 300), finish); });
}

void World::fail_or_hang(int id) {
  auto& job = jobs_.at(id);
  const auto before = truths_[job.index];
  const auto goal = job.call.verb == Call::Verb::apply ? Truth::done : Truth::none;
  // Where it stands when things go wrong: not begun, half-way, or complete.
  const auto stands = std::vector{before, before == goal ? before : Truth::partly, goal}[loop_.random.between(0, 2)];
  const auto delay = loop_.random.between(1, 200);
  const auto dice = loop_.random.between(1, 100);
  if (dice <= 30) return move(id, stands, delay, [this, id] { end(id, failure(ErrorKind::retry, "lock held")); });
  if (dice <= 40)
    return move(id, before, delay, [this, id] { end(id, failure(ErrorKind::cancelled, "not begun in time")); });
  if (dice <= 50)
    return move(id, stands, delay, [this, id] { end(id, failure(ErrorKind::refused, "needs a person")); });
  if (dice <= 65) return move(id, stands, delay, [this, id] { end(id, failure(ErrorKind::unknown, "answer lost")); });
  if (dice <= 80) {  // hangs
    return move(id, stands, delay, [] {});
  }
  // Goes on at a peer, for long, after its own agent has said that it does not know.
  const auto& hosts = plan_.steps[job.index].hosts;
  const auto& peer = hosts[loop_.random.between(0, static_cast<std::int64_t>(hosts.size()) - 1)];
  if (agents_.at(peer).epoch != job.call.epoch || agents_.at(peer).adopting) {  // which admits no old epoch's work
    return move(id, before, delay, [this, id] { end(id, failure(ErrorKind::fenced, "the peer has a newer epoch")); });
  }
  job.place = peer;
  const auto step_two = [this, id, goal] {
    move(id, goal, loop_.random.between(1, 2000), [this, id] { end(id, Json::object()); });
  };
  move(id, stands, delay, [this, id, goal, stands, step_two] {
    answer(id, failure(ErrorKind::unknown, "link to the peer cut"));
    move(id, stands == goal ? goal : Truth::partly, loop_.random.between(1, 1000), step_two);
  });
}

std::map<std::string, Json> World::recall() const {
  std::map<std::string, Json> recalled;
  for (const auto& [host, agent] : agents_) {
    Json calls = Json::array();
    for (const auto& [at, call] : agent.calls) calls.push_back(call);
    recalled[host] = {{"plan", agent.calls.empty() ? Json() : Engine::plan_record(0, plan_)},
                      {"calls", std::move(calls)}};
  }
  return recalled;
}

std::uint64_t World::adopt_all() {
  std::uint64_t epoch = 0;
  for (const auto& [host, agent] : agents_) epoch = std::max(epoch, agent.epoch);
  ++epoch;
  for (auto& [host, agent] : agents_) {
    end_all_at(host, true);
    agent.epoch = epoch;
    agent.adopting = false;
    ++agent.life;
  }
  return epoch;
}

bool World::held(int index) const {
  return truths_[index] == Truth::partly && plan_.steps[index].expected_blackout_ms > 0;
}

void World::observe(int id) {
  const auto dice = faulty_ ? loop_.random.between(1, 100) : 100;
  if (dice <= 4) return;  // hangs
  loop_.after(loop_.random.between(1, 50), [this, id, dice] {
    const auto found = jobs_.find(id);
    if (found == jobs_.end()) return;
    const int index = found->second.index;
    if (dice <= 15) return end(id, failure(ErrorKind::retry, "cannot look"));
    if (dice <= 18) return end(id, failure(ErrorKind::unknown, "answer lost"));
    if (dice <= 20) return end(id, failure(ErrorKind::refused, "may not look"));
    bool reached = truths_[index] == Truth::done;
    if (plan_.steps[index].kind == StepKind::wait) {
      if (!reached_at_.contains(index)) reached_at_[index] = loop_.now() + loop_.random.between(-1000, 2500);
      reached = !faulty_ || loop_.now() >= reached_at_[index];
    }
    if (lying_ && faulty_ && plan_.steps[index].kind == StepKind::effect && loop_.random.chance(20)) {
      reached = !reached;
      if (reached) lied_of_.insert(index);
    }
    end(id, Json{{"reached", reached}, {"why", reached ? "" : "not yet"}, {"held", held(index)}});
  });
}

void World::answer(int id, Result<Json> result) {
  auto& job = jobs_.at(id);
  if (std::exchange(job.answered, true)) return;
  const auto& call = job.call;
  if (call.verb == Call::Verb::observe)
    return job.reply(Observed{call.step, call.epoch, call.number, std::move(result)});
  auto& kept = agents_.at(call.host).calls.at({call.epoch, call.number});
  kept["ok"] = result.has_value();
  kept["ended_at"] = loop_.now();
  if (!result) kept["error"] = to_json(result.error());
  const auto direction = call.verb == Call::Verb::undo ? Direction::back : Direction::forward;
  job.reply(Outcome{call.step, direction, call.epoch, call.number, std::move(result)});
}

void World::end(int id, Result<Json> result) {
  answer(id, std::move(result));
  jobs_.erase(id);
}

}  // namespace midstream::test
