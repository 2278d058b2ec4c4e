#include "tests/sim/shell.h"

#include <fmt/format.h>

#include <filesystem>

#include "tests/support/engine_text.h"

namespace midstream::test {

namespace {

// For the lock, which is the real file system's; everything else of the journal is on the simulated disk.
const std::filesystem::path& directory() {
  static const struct Temporary {
    std::filesystem::path path = [] {
      char name[] = "/tmp/midstream-sim-XXXXXX";
      return std::filesystem::path(::mkdtemp(name));
    }();
    ~Temporary() { std::filesystem::remove_all(path); }
  } temporary;
  return temporary.path;
}

}  // namespace

Shell::Shell(Loop& loop, World& world, Checker& checker, const Plan& plan, Store& journal, Bug bug)
    : loop_(loop), world_(world), checker_(checker), plan_(plan), bug_(bug), journal_(journal) {
  if (bug_ == Bug::unsynced_journal) journal_.disk.ignore_syncs();
  if (!journal_.records.empty() || !open_journal() || !store({Engine::plan_record(0, plan)}, Death::no)) return;
  die();
}

Shell::~Shell() {
  if (!log_) return;
  journal_.disk.kill(process_);
  log_.reset();
}

bool Shell::open_journal() {
  process_ = journal_.disk.begin_process();
  journal_.alive.insert(process_);
  std::filesystem::remove(directory() / "lock");  // which does not keep a second controller out here
  auto opened = Journal::open(directory());
  if (!opened) {
    loop_.violate("its own journal cannot be opened: " + opened.error().text());
    return false;
  }
  log_ = std::make_unique<Journal>(std::move(*opened));
  return true;
}

// Reads what is there: everything that was stored, and of what was being stored all or nothing.
bool Shell::recover() {
  auto records = log_->read();
  if (!records) return loop_.violate("its own journal cannot be read: " + records.error().text()), false;
  const bool as_known = *records == journal_.records;
  if (!as_known) {
    auto with_in_flight = journal_.records;
    with_in_flight.insert(with_in_flight.end(), journal_.in_flight.begin(), journal_.in_flight.end());
    if (*records != with_in_flight) {
      loop_.violate(fmt::format("the journal has {} records where {} or {} must be", records->size(),
                                journal_.records.size(), with_in_flight.size()));
      return false;
    }
    stored(std::exchange(journal_.in_flight, {}));
  }
  journal_.in_flight.clear();
  for (const auto& record : journal_.records) {
    auto folded = subject_->fold(record);
    if (!folded) return loop_.violate("its own journal is refused: " + folded.error().text()), false;
  }
  known_ = journal_.records.size();
  return true;
}

void Shell::start() {
  if (alive() && known_ == journal_.records.size()) return;
  if (alive()) die();
  ++life_;
  subject_ = make_subject(bug_);
  if (!open_journal() || !recover()) return;
  links_.clear();
  for (const auto& host : plan_.hosts) links_[host].up = !lost_.contains(host);
  pending_.reset();
  checker_.restarted(this);
  deliver(Started{});
}

// On a disk that is empty again: what was there is set aside.
void Shell::replace_journal(const std::vector<Json>& records) {
  journal_.disk.wipe();
  journal_.records.clear();
  journal_.in_flight.clear();
  if (!open_journal()) return;
  if (auto written = log_->append(records); !written)
    loop_.violate("the rebuilt journal cannot be written: " + written.error().text());
  journal_.records = records;
  journal_.disk.kill(process_);
  log_.reset();
  journal_.alive.erase(process_);
}

// As by kill -9; where nobody else lives on this disk, the power may have gone as well.
void Shell::die() {
  loop_.note([] { return "controller dies"; });
  subject_.reset();
  journal_.disk.kill(process_);
  log_.reset();
  journal_.alive.erase(process_);
  journal_.disk.mend();
  if (journal_.alive.empty() && journal_.disk.random().chance(50)) journal_.disk.power_cut();
  ++life_;
}

void Shell::deliver(const Event& event) {
  if (!alive() || !loop_.violation().empty()) return;
  ++handled_;
  loop_.note([&] { return event_line(event); });
  checker_.heard(this, event);
  auto effects = subject_->handle(loop_.now(), event);
  if (!effects.records.empty()) stores_.push_back(handled_);
  if (!effects.commands.empty()) sends_.push_back(handled_);
  const auto how = death();
  if (!subject_->stores_first()) send(effects.commands, false);
  if (how == Death::before_store || !store(effects.records, how)) return die();
  if (handled_ % 16 == 0 && known_ == journal_.records.size()) checker_.compare(engine().state());
  if (how == Death::amid_store || how == Death::disk_full || how == Death::after_store) return die();
  if (subject_->stores_first()) send(effects.commands, how == Death::amid_sending);
  if (how != Death::no) return die();
  ++timer_;  // an earlier time to wake counts no more
  if (effects.wake_at) wake(*effects.wake_at);
}

// False where the journal refuses, or this process is to die in the middle of it.
bool Shell::store(const std::vector<Json>& records, Death how) {
  if (records.empty()) return true;
  journal_.disk.enter();
  if (bug_ == Bug::unguarded_journal && !log_->read()) return false;
  if (how == Death::amid_store) journal_.disk.die_in(static_cast<int>(journal_.disk.random().between(0, 12)));
  journal_.disk.fill(how == Death::disk_full);
  const auto kept = log_->append(records);
  journal_.disk.fill(false);
  const bool cut_off = journal_.disk.mend();
  if (kept) return stored(records), true;
  loop_.note([&] { return "  the journal refuses: " + kept.error().what; });
  if (cut_off) journal_.in_flight = records;
  if (!cut_off && how != Death::disk_full && kept.error().kind != ErrorKind::fenced)
    loop_.violate("the journal refuses for no reason: " + kept.error().text());
  return false;
}

void Shell::stored(const std::vector<Json>& records) {
  for (const auto& record : records) {
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
      if (engine().state().leaving.contains(adoption->host))
        loop_.violate(fmt::format("{} is asked for again though it is being left", adoption->host));
      links_.at(adoption->host).wanted = adoption->epoch;
      send_adopt(adoption->host);
    } else if (const auto* depart = std::get_if<Depart>(&command)) {
      leave(*depart);
    } else {
      checker_.sent(std::get<Call>(command));
      send_call(std::get<Call>(command));
    }
  }
}

// Over ssh, without the agent: its link ends, and may have ended before.
void Shell::leave(const Depart& depart) {
  links_.at(depart.host).up = false;
  ++links_.at(depart.host).generation;
  loop_.after(delay(), [this, depart, life = life_] {
    if (life != life_) return;
    Result<> done;
    if (noisy_ && loop_.random.chance(25)) done = retry("ssh: the connection was closed");
    if (done || loop_.random.chance(50)) world_.leave(depart.host);
    loop_.after(delay(), [this, depart, life, done] {
      if (life == life_) deliver(Left{depart.host, depart.epoch, done});
    });
  });
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
      // An answer may come twice, the second time late: an adoption's perhaps when it is no longer worth anything.
      const int often = adoption != nullptr ? 40 : 10, late = adoption != nullptr ? 2500 : 10;
      for (int copies = noisy_ && loop_.random.chance(often) ? 2 : 1; copies > 0; --copies) {
        loop_.after(delay() + (copies > 1 ? loop_.random.between(0, late) : 0), [this, host, life, generation, event] {
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
