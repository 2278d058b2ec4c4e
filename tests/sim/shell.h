// The modelled controller around the engine: journal, links to the agents, timers, and its own death at any point.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/checker.h"
#include "tests/sim/loop.h"
#include "tests/sim/subject.h"
#include "tests/sim/world.h"

namespace midstream::test {

// Where in one handle() the controller dies.
enum class Death { no, before_store, after_store, amid_sending, after_sending };

class Shell {
 public:
  Shell(Loop& loop, World& world, Checker& checker, const Plan& plan, Bug bug);

  // Asked once for every event that is handled.
  std::function<Death()> death = [] { return Death::no; };

  void start();  // folds the journal; nothing if alive
  void deliver(const Event& event);
  void cut(const std::string& host);  // the link breaks; noticed a little later, then mended
  void quiet() { noisy_ = false; }    // from here on links are quick

  bool alive() const { return subject_ != nullptr; }
  const Engine& engine() const { return subject_->engine(); }
  std::int64_t handled() const { return handled_; }
  std::uint64_t fingerprint() const { return fingerprint_; }

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
  void store(const std::vector<Json>& records);
  // False if the controller died on the way.
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
  std::vector<Json> journal_;
  std::unique_ptr<Subject> subject_;
  int life_ = 0;
  std::map<std::string, Link> links_;
  std::optional<Pending> pending_;
  int calls_ = 0;
  int timer_ = 0;
  bool noisy_ = true;
  std::int64_t handled_ = 0;
  std::uint64_t fingerprint_ = 0xcbf29ce484222325;
};

}  // namespace midstream::test
