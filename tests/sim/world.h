// The modelled world: agents on hosts, and what their commands really do. An effect goes from none over partly to
// done, and back when undone, while its job runs; a job may fail before, in the middle of or after its effect, answer
// that it does not know, go on at a peer of its agent after such an answer, or hang until a newer epoch ends it. An
// observation may fail, and in some worlds lies.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "engine/engine.h"
#include "tests/sim/checker.h"
#include "tests/sim/loop.h"

namespace midstream::test {

class World {
 public:
  using Reply = std::function<void(Event)>;

  World(Loop& loop, const Plan& plan);

  // A command arrives at its agent. `reply` is called at most once, perhaps much later.
  void receive(const Command& command, const Reply& reply);
  // kill -9 of the agent and its restart: what it had under way is over, wherever it stands.
  void kill_agent(const std::string& host);

  // The agent that begins the `at`th effect (from 1) dies with it, the effect standing at `truth`; then `then(host)`.
  void crash_at(int at, Truth truth, std::function<void(const std::string&)> then) {
    crash_ = {at, truth, std::move(then)};
  }
  int begun() const { return begun_; }  // effects

  // Nothing of ours is on that host any more, whatever was.
  void leave(const std::string& host) { kill_agent(host); }

  // From here on nothing fails. What already hangs still does.
  void heal() { faulty_ = false; }
  // From here on an observation may say that what is not so is, or the other way round.
  void lie() { lying_ = true; }
  // Whether an effect was ever said to be there when it was not.
  bool lied_of(int index) const { return lied_of_.contains(index); }
  void watch_with(const Checker* checker) { checker_ = checker; }

  // What each agent would say that it has done (CallLog::recall), and every agent at once in a new epoch, which is
  // returned: what `run --adopt` asks for.
  std::map<std::string, Json> recall() const;
  std::uint64_t adopt_all();

  const std::vector<Truth>& truths() const { return truths_; }
  // Whether users wait on this step, stopped half-way.
  bool held(int index) const;
  bool busy() const { return !jobs_.empty(); }
  std::int64_t downtime_ms() const { return downtime_ms_; }

 private:
  struct Job {
    Call call;
    int index;
    std::string place;  // the host whose next adoption ends it
    Reply reply;
    bool answered = false;
  };
  struct Agent {
    std::map<std::pair<std::uint64_t, std::uint64_t>, Json> calls;  // durable
    std::uint64_t epoch = 0;
    bool adopting = false;
    int life = 0;
  };

  void adopt(const Adopt& adopt, const Reply& reply);
  void begin(const Call& call, const Reply& reply);
  void check_begin(const Call& call, int index);
  void act(int id);
  void fail_or_hang(int id);
  void observe(int id);
  // The job's effect moves to `truth` in `delay` ms if the job still lives; then `next`.
  void move(int id, Truth truth, std::int64_t delay, std::function<void()> next);
  void answer(int id, Result<Json> result);
  void end(int id, Result<Json> result);
  void end_all_at(const std::string& host, bool answering);

  Loop& loop_;
  const Plan& plan_;
  const Checker* checker_ = nullptr;
  struct Crash {
    int at = 0;
    Truth truth = Truth::none;
    std::function<void(const std::string&)> then;
  };
  Crash crash_;
  int begun_ = 0;
  bool faulty_ = true;
  bool lying_ = false;
  std::set<int> lied_of_;
  std::vector<Truth> truths_;
  std::map<std::string, Agent> agents_;
  std::map<int, Job> jobs_;
  int last_job_ = 0;
  std::map<int, std::int64_t> reached_at_;  // of waits
  std::int64_t downtime_ms_ = 0;
};

std::string_view truth_name(Truth truth);

}  // namespace midstream::test
