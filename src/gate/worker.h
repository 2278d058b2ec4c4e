// One thread of the gate: an epoll loop over the sessions that it has accepted, and its lookup connection.
#pragma once

#include <sys/epoll.h>

#include <atomic>
#include <deque>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <stop_token>
#include <thread>
#include <unordered_map>
#include <vector>

#include "gate/lookup.h"
#include "gate/session.h"
#include "gate/shared.h"
#include "gate/tally.h"

namespace midstream::gate {

class Worker {
 public:
  // Accepts from `listener`, which several workers may share. `next_id` numbers the sessions of all of them.
  static Result<std::unique_ptr<Worker>> start(Shared& shared, int listener, std::atomic<std::uint64_t>& next_id);
  ~Worker();  // tells every client that the gate ends

  // What each session of this worker's is and does; waits for its thread, as all of these.
  Json sessions();
  // Everything that its sessions have done so far, the ended ones too.
  Totals totals();
  // Holds every session, those that are still to come too, until then (CLOCK_BOOTTIME) and no longer, whoever else lives or
  // dies; a time that has passed releases them. Returns once it is in force.
  void hold(std::chrono::nanoseconds until);
  struct Held {
    std::chrono::nanoseconds until{0};  // 0: nothing is held
    std::size_t sessions = 0;
    std::vector<Json> in_the_way;  // those that are not at a safe point yet
  };
  Held held();

  // The switch of one database from one server to the other, in this order; see Coordinator. Each returns once it is in force.
  // Gets its sessions, those that are still to come too, ready to go to `to`; until then (CLOCK_BOOTTIME).
  void prepare(const std::string& database, std::size_t to, std::chrono::nanoseconds until, const std::set<std::string>& settings);
  // Holds it, and asks for everything to be as it is now. keep() is possible until then; after it, only a title tells whether
  // its sessions may go on: nothing is opened by time alone.
  void close(const std::string& database, std::size_t to, std::chrono::nanoseconds until);
  struct Readiness {
    bool held = false;
    bool in_time = false;  // held, and kept or not yet at the end of its time
    std::size_t sessions = 0;
    std::vector<Json> in_the_way;  // who could not go over at once; described, "why" says why
    std::vector<std::uint32_t> server_pids;
    std::size_t leaving = 0;  // connections that sessions have left, and that are not closed yet
  };
  Readiness readiness(const std::string& database, std::size_t to);
  // From here on the hold has no end of its own. False: its time is over already.
  bool keep(const std::string& database);
  void last_words(const std::string& database);
  bool fetching(const std::string& database);
  // All its sessions are the other server's, and the hold is over. Returns how many went, and whom it had to end.
  struct Over {
    std::size_t moved = 0;
    std::vector<Json> ended;
  };
  Over go_over(const std::string& database, std::size_t to);
  // The hold is over, and everybody stays. The connections to the other server are kept as long as they were asked for.
  void open(const std::string& database);
  // Who waits to hear who owns the database looks again; sessions that are elsewhere than on its primary are ended.
  void primary_is(const std::string& database, std::optional<std::size_t> server);
  // From here on nobody is accepted any more.
  void refuse_all();
  // Ends every session that is at rest, or has not begun; how many are left.
  std::size_t end_resting();
  // Ends one session, if it is this worker's.
  bool end(std::uint64_t session);

 private:
  struct Switching {
    std::optional<std::size_t> to;
    std::set<std::string> settings;
    std::chrono::nanoseconds prepared_until{0};
    std::chrono::nanoseconds closed_until{0};  // 0: open
    bool kept = false;
  };
  Worker(Shared& shared, int listener, std::atomic<std::uint64_t>& next_id);
  Result<> prepare();
  void run(const std::stop_token& stop);
  void wake() const;
  template <class F>
  auto in_loop(F body);
  void release_if_due();
  void begun(std::uint64_t id, const std::string& database);
  template <class F>
  void each_of(const std::string& database, F body);
  void open_now(const std::string& database);
  bool held(const std::string& database) const;
  void connect_some();
  void refresh_some();
  void leave_some();
  void leave_one();
  int wait_ms() const;
  bool watch(int fd, std::uint64_t token) const;
  bool listen();
  void stop_listening(int why);
  void accept_all();
  void ready(const epoll_event& event);
  void turn(std::uint64_t id);
  void sweep();
  void answer_asked();

  Shared& shared_;
  const int listener_;
  std::atomic<std::uint64_t>& next_id_;
  bool listening_ = false, refusing_ = false;
  Fd epoll_, wake_;
  Tally tally_;
  std::unordered_map<std::uint64_t, std::unique_ptr<Session>> sessions_;
  std::chrono::nanoseconds hold_until_{0};
  std::map<std::string, Switching> switching_;      // by database
  std::deque<std::uint64_t> to_connect_;            // want to be connected to the other server
  std::vector<std::uint64_t> connecting_;           // are being
  std::chrono::nanoseconds connect_at_{0};          // not before
  std::chrono::nanoseconds refresh_at_{0};          // 0: no session is prepared
  struct Left {
    std::string database;
    TlsSocket connection;
  };
  std::deque<Left> left_;                // sessions have gone over from there
  std::chrono::nanoseconds leave_at_{0};  // not before
  std::vector<std::uint64_t> again_;  // stopped to be fair; go on in the next round
  std::vector<std::unique_ptr<Lookup>> lookups_;  // one a server
  std::mutex asked_mutex_;
  std::vector<std::function<void()>> asked_;  // by other threads, to be run in the loop; guarded
  std::jthread thread_;
};

// Runs `body` on the worker's thread, and gives what it gave.
template <class F>
auto Worker::in_loop(F body) {
  using Value = decltype(body());
  auto promise = std::make_shared<std::promise<Value>>();
  auto future = promise->get_future();
  {
    const std::lock_guard lock(asked_mutex_);
    asked_.emplace_back([promise, body = std::move(body)] { promise->set_value(body()); });
  }
  wake();
  return future.get();
}

}  // namespace midstream::gate
