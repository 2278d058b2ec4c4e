// The modelled controller around the engine: journal, links to the agents, timers, and its own death at any point.
// Several may share one journal, as when its lock did not keep the second one out: who appends behind what it has not
// read ends instead.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tests/sim/checker.h"
#include "tests/sim/loop.h"
#include "tests/sim/subject.h"
#include "tests/sim/world.h"

namespace midstream::test {

// Where in one handle() the controller dies. Before the store is also what a full disk looks like; torn is a store of
// which only the first records are there afterwards.
enum class Death { no, before_store, torn_store, after_store, amid_sending, after_sending };

// What is durable on the controller's side.
struct Store {
  std::vector<Json> records;
  std::uint64_t fingerprint = 0xcbf29ce484222325;
};

class Shell {
 public:
  Shell(Loop& loop, World& world, Checker& checker, const Plan& plan, Store& journal, Bug bug);

  // Asked once for every event that is handled.
  std::function<Death()> death = [] { return Death::no; };

  void start();  // folds the journal; nothing if alive and up to date with it
  void deliver(const Event& event);
  void cut(const std::string& host);                          // the link breaks; noticed a little later, then mended
  void lose(const std::string& host) { lost_.insert(host); }  // from here on it cannot be reached
  void quiet() { noisy_ = false; }                            // from here on links are quick

  bool alive() const { return subject_ != nullptr; }
  const Engine& engine() const { return subject_->engine(); }
  std::int64_t handled() const { return handled_; }

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
  void store(const std::vector<Json>& records, std::size_t count);
  void send(const std::vector<Command>& commands, bool dies_amid);
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
};

}  // namespace midstream::test
