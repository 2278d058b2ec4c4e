// One thread of the gate: an epoll loop over the sessions that it has accepted, and its lookup connection.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <thread>
#include <unordered_map>
#include <vector>

#include "gate/lookup.h"
#include "gate/session.h"
#include "gate/shared.h"

namespace midstream::gate {

class Worker {
 public:
  // Accepts from `listener`, which several workers may share. `next_id` numbers the sessions of all of them.
  static Result<std::unique_ptr<Worker>> start(Shared& shared, int listener, std::atomic<std::uint64_t>& next_id);
  ~Worker();  // tells every client that the gate ends

  // What each session of this worker's is and does; waits for its thread, as all of these.
  Json sessions();
  // Holds every session, those that are still to come too, until then (CLOCK_BOOTTIME) and no longer, whoever else lives or
  // dies; a time that has passed releases them. Returns once it is in force.
  void hold(std::chrono::nanoseconds until);
  struct Held {
    std::chrono::nanoseconds until{0};  // 0: nothing is held
    std::size_t sessions = 0;
    std::vector<Json> in_the_way;  // those that are not at a safe point yet
  };
  Held held();

 private:
  Worker(Shared& shared, int listener, std::atomic<std::uint64_t>& next_id);
  Result<> prepare();
  void run(const std::stop_token& stop);
  void wake() const;
  template <class F>
  auto in_loop(F body);
  void release_if_due();
  int wait_ms() const;
  bool watch(int fd, std::uint64_t token) const;
  bool listen();
  void stop_listening(int why);
  void accept_all();
  void ready(std::uint64_t token);
  void turn(std::uint64_t id);
  void sweep();
  void answer_asked();

  Shared& shared_;
  const int listener_;
  std::atomic<std::uint64_t>& next_id_;
  bool listening_ = false;
  Fd epoll_, wake_;
  std::unordered_map<std::uint64_t, std::unique_ptr<Session>> sessions_;
  std::chrono::nanoseconds hold_until_{0};
  std::vector<std::uint64_t> again_;  // stopped to be fair; go on in the next round
  Lookup lookup_;
  std::mutex asked_mutex_;
  std::vector<std::function<void()>> asked_;  // by other threads, to be run in the loop; guarded
  std::jthread thread_;
};

}  // namespace midstream::gate
