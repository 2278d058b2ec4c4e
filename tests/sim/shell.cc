#include "tests/sim/shell.h"

#include <fmt/format.h>

#include <span>

#include "tests/support/engine_text.h"

namespace midstream::test {

Shell::Shell(Loop& loop, World& world, Checker& checker, const Plan& plan, Store& journal, Bug bug)
    : loop_(loop), world_(world), checker_(checker), plan_(plan), bug_(bug), journal_(journal) {
  if (journal_.records.empty()) store({Engine::plan_record(0, plan)}, 1);
}

void Shell::start() {
  if (alive() && known_ == journal_.records.size()) return;
  ++life_;
  subject_ = make_subject(bug_);
  for (const auto& record : journal_.records) {
    if (auto folded = subject_->fold(record); !folded)
      return loop_.violate("its own journal is refused: " + folded.error().text());
  }
  known_ = journal_.records.size();
  links_.clear();
  for (const auto& host : plan_.hosts) links_[host].up = !lost_.contains(host);
  pending_.reset();
  checker_.restarted(this);
  deliver(Started{});
}

void Shell::die() {
  loop_.note([] { return "controller dies"; });
  subject_.reset();
  ++life_;
}

void Shell::deliver(const Event& event) {
  if (!alive() || !loop_.violation().empty()) return;
  ++handled_;
  loop_.note([&] { return event_line(event); });
  checker_.heard(this, event);
  auto effects = subject_->handle(loop_.now(), event);
  const auto how = death();
  if (!subject_->stores_first()) send(effects.commands, false);
  if (how == Death::before_store) return die();
  const auto count = effects.records.size();
  if (count > 0 && known_ != journal_.records.size() && bug_ != Bug::unguarded_journal) {
    loop_.note([] { return "another controller writes this journal"; });
    return die();
  }
  store(effects.records, how == Death::torn_store && count > 0 ? loop_.random.between(0, count - 1) : count);
  if (how == Death::torn_store) return die();
  if (handled_ % 16 == 0 && known_ == journal_.records.size()) checker_.compare(engine().state());
  if (how == Death::after_store) return die();
  if (subject_->stores_first()) send(effects.commands, how == Death::amid_sending);
  if (how != Death::no) return die();
  ++timer_;  // an earlier time to wake counts no more
  if (effects.wake_at) wake(*effects.wake_at);
}

void Shell::store(const std::vector<Json>& records, std::size_t count) {
  for (const auto& record : std::span(records).first(count)) {
    loop_.note([&] { return "  store " + record_line(record); });
    checker_.stored(this, record);
    journal_.records.push_back(record);
    ++known_;
    for (const unsigned char c : record.dump()) journal_.fingerprint = (journal_.fingerprint ^ c) * 0x100000001b3;
  }
}

void Shell::send(const std::vector<Command>& commands, bool dies_amid) {
  const auto count = static_cast<std::int64_t>(commands.size());
  auto left = dies_amid ? loop_.random.between(0, count) : count;
  for (const auto& command : commands) {
    if (left-- <= 0) return;
    loop_.note([&] { return "  send " + command_line(command); });
    if (const auto* adoption = std::get_if<Adopt>(&command)) {
      links_.at(adoption->host).wanted = adoption->epoch;
      send_adopt(adoption->host);
    } else {
      checker_.sent(std::get<Call>(command));
      send_call(std::get<Call>(command));
    }
  }
}

std::int64_t Shell::delay() {
  const bool slow = noisy_ && loop_.random.chance(10);
  return slow ? loop_.random.between(20, 2500) : loop_.random.between(0, 10);
}

// Asked again until it is answered: the agent may have been busy ending things, or dead.
void Shell::send_adopt(const std::string& host) {
  const auto& link = links_.at(host);
  if (link.adopted >= link.wanted) return;
  if (link.up) transmit(host, Adopt{host, link.wanted});
  loop_.after(500, [this, host, life = life_, wanted = link.wanted] {
    if (life == life_ && links_.at(host).wanted == wanted) send_adopt(host);
  });
}

void Shell::send_call(const Call& call) {
  if (pending_ && pending_->call.epoch == call.epoch) {
    loop_.violate(fmt::format("sent while '{}' is unanswered: {}", command_line(pending_->call), command_line(call)));
  }
  const int number = ++calls_;
  pending_ = Pending{call, number};
  if (links_.at(call.host).up) transmit(call.host, call);
  // An agent that does not answer in time is as good as gone.
  loop_.after(call.deadline_ms + 1000, [this, number, life = life_, host = call.host] {
    if (life == life_ && pending_ && pending_->number == number) cut(host);
  });
}

void Shell::transmit(const std::string& host, const Command& command) {
  loop_.after(delay(), [this, host, command, life = life_, generation = links_.at(host).generation] {
    const bool broken = life != life_ || links_.at(host).generation != generation;
    if (broken && loop_.random.chance(50)) return;  // else it had left in time
    world_.receive(command, [this, host, command, life, generation](const Event& event) {
      // Refused in favour of a later one of this controller's own: no sign of another controller.
      const auto* adoption = std::get_if<Adopt>(&command);
      const bool superseded = adoption != nullptr && life == life_ && adoption->epoch != links_.at(host).wanted;
      if (superseded && std::holds_alternative<NotAdopted>(event)) return;
      // An answer may come twice, the second time late.
      for (int copies = noisy_ && loop_.random.chance(10) ? 2 : 1; copies > 0; --copies) {
        loop_.after(delay(), [this, host, life, generation, event] {
          if (life == life_ && links_.at(host).generation == generation) arrived(host, event);
        });
      }
    });
  });
}

void Shell::arrived(const std::string& host, const Event& event) {
  if (const auto* not_adopted = std::get_if<NotAdopted>(&event)) {
    // Only another controller can be ahead of the epoch that this one has now.
    const bool taken_over =
        not_adopted->why.kind == ErrorKind::fenced && links_.at(host).adopted < links_.at(host).wanted;
    if (taken_over) loop_.note([] { return "another controller has taken over"; });
    return taken_over ? die() : deliver(event);
  }
  if (const auto* adopted = std::get_if<Adopted>(&event)) {
    links_.at(host).adopted = std::max(links_.at(host).adopted, adopted->epoch);
  }
  const auto answers = [&](std::uint64_t number, std::uint64_t epoch) {
    return pending_ && pending_->call.number == number && pending_->call.epoch == epoch;
  };
  const auto* outcome = std::get_if<Outcome>(&event);
  const auto* observed = std::get_if<Observed>(&event);
  if ((outcome && answers(outcome->number, outcome->epoch)) || (observed && answers(observed->number, observed->epoch)))
    pending_.reset();
  deliver(event);
}

void Shell::cut(const std::string& host) {
  if (!alive() || !links_.at(host).up) return;
  auto& link = links_.at(host);
  link.up = false;
  link.adopted = 0;
  ++link.generation;
  loop_.note([&] { return fmt::format("link to {} is cut", host); });
  loop_.after(loop_.random.between(0, 200), [this, host, life = life_] {
    if (life == life_) link_lost(host);
  });
}

// What was asked over this link ends as unknown, then the loss itself is told; some shells will do only the latter.
void Shell::link_lost(const std::string& host) {
  if (pending_ && pending_->call.host == host && loop_.random.chance(50)) {
    const auto call = std::exchange(pending_, {})->call;
    Result<Json> lost = failure(ErrorKind::unknown, "link cut");
    const auto direction = call.verb == Call::Verb::undo ? Direction::back : Direction::forward;
    deliver(call.verb == Call::Verb::observe ? Event(Observed{call.step, call.epoch, call.number, lost})
                                             : Event(Outcome{call.step, direction, call.epoch, call.number, lost}));
  }
  if (!alive()) return;
  const auto life = life_;
  const bool called = pending_ && pending_->call.host == host;
  deliver(LinkLost{host});
  if (life != life_) return;
  if (called) pending_.reset();
  loop_.after(loop_.random.between(0, noisy_ ? 1000 : 10), [this, host, life] {
    if (life != life_ || lost_.contains(host)) return;
    links_.at(host).up = true;
    send_adopt(host);
  });
}

void Shell::wake(std::int64_t at) {
  loop_.after(std::max<std::int64_t>(0, at - loop_.now()), [this, timer = timer_, life = life_] {
    if (life == life_ && timer == timer_) deliver(Tick{});
  });
}

}  // namespace midstream::test
