// The modelled controller around the engine: links to the agents, timers, and its own death at any point. Its journal is
// the shipping one on a simulated disk. Several may share one, as when its lock did not keep the second one out: who
// appends behind what it has not read ends instead.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "control/journal.h"
#include "tests/sim/checker.h"
#include "tests/sim/disk.h"
#include "tests/sim/loop.h"
#include "tests/sim/subject.h"
#include "tests/sim/world.h"

namespace midstream::test {

// Where in one handle() the controller dies. Amid the store the disk has done some of its operations, or the power went
// with them; full, it refuses the store, and the controller ends.
enum class Death { no, before_store, amid_store, disk_full, after_store, amid_sending, after_sending };

// What the controllers of a move share, and what must be in it.
struct Store {
  explicit Store(std::uint64_t seed) : disk(seed) {}
  Disk disk;
  std::vector<Json> records;    // stored, and said to be
  std::vector<Json> in_flight;  // being stored when the controller died: all of them are there afterwards, or none
  std::set<int> alive;          // processes
  std::uint64_t fingerprint = 0xcbf29ce484222325;
};

class Shell {
 public:
  Shell(Loop& loop, World& world, Checker& checker, const Plan& plan, Store& journal, Bug bug);
  ~Shell();
  Shell(const Shell&) = delete;
  Shell& operator=(const Shell&) = delete;

  // Asked once for every event that is handled.
  std::function<Death()> death = [] { return Death::no; };

  void start();                                            // folds the journal; nothing if alive and up to date with it
  void replace_journal(const std::vector<Json>& records);  // while dead
  void deliver(const Event& event);
  void cut(const std::string& host);                          // the link breaks; noticed a little later, then mended
  void lose(const std::string& host) { lost_.insert(host); }  // from here on it cannot be reached
  void quiet() { noisy_ = false; }                            // from here on links are quick

  bool alive() const { return subject_ != nullptr; }
  const Engine& engine() const { return subject_->engine(); }
  std::int64_t handled() const { return handled_; }
  const std::vector<std::int64_t>& stores() const { return stores_; }  // numbers of the events that stored something
  const std::vector<std::int64_t>& sends() const { return sends_; }

 private:
  struct Link {
    bool up = true;
    int generation = 0;
    std::uint64_t wanted = 0;  // epoch to adopt
    std::uint64_t adopted = 0;
  };
  struct Pending {
    Call call;
    int number;
  };

  void die();
  bool open_journal();
  bool recover();
  bool store(const std::vector<Json>& records, Death how);
  void stored(const std::vector<Json>& records);
  void send(const std::vector<Command>& commands, bool dies_amid);
  void leave(const Depart& depart);
  void send_adopt(const std::string& host);
  void send_call(const Call& call);
  void transmit(const std::string& host, const Command& command);
  void arrived(const std::string& host, const Event& event);
  void link_lost(const std::string& host);
  void wake(std::int64_t at);
  std::int64_t delay();

  Loop& loop_;
  World& world_;
  Checker& checker_;
  const Plan& plan_;
  Bug bug_;
  Store& journal_;
  std::unique_ptr<Journal> log_;
  int process_ = 0;
  std::size_t known_ = 0;  // so many of its records are in the engine
  std::set<std::string> lost_;
  std::unique_ptr<Subject> subject_;
  int life_ = 0;
  std::map<std::string, Link> links_;
  std::optional<Pending> pending_;
  int calls_ = 0;
  int timer_ = 0;
  bool noisy_ = true;
  std::int64_t handled_ = 0;
  std::vector<std::int64_t> stores_;
  std::vector<std::int64_t> sends_;
};

}  // namespace midstream::test
