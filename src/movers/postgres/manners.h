// Manners: who reads old in bulk (workers of a copy, the base backup of a seed, a comparison) makes way for those who commit there. While it
// reads, an empty transaction is committed on old five times a second, and timed on old, so that the way to it does not count; it is
// flushed like anybody's, but waits for no standby. Where it takes longer than the plan's `commit_latency_ms`, less of the time is read in.
#pragma once

#include <atomic>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/json.h"
#include "movers/postgres/libpq.h"
#include "movers/postgres/throttle.h"

namespace midstream::postgres {

// As observe tells of it. Thread-safe.
struct MannersFigures {
  std::atomic<std::int64_t> limit_ms = 0;      // 0: nobody watches
  std::atomic<std::int64_t> commit_us = -1;    // of the last commit; -1: none was timed yet
  std::atomic<std::int64_t> permille = 1000;   // of the time in which is read
  std::atomic<bool> blind = false;             // commits on old cannot be timed just now
};
// "throttled: commits on old take 35 ms, limit 20 ms; 12 % of the time is read in"; "" where there is nothing to tell.
std::string words_of(const MannersFigures& figures);

// One watch while it lives: a session to old, and a thread that commits on it.
class Manners {
 public:
  // `limit_ms` 0: nothing is watched, and nobody rests. `old_side`: as who the reader reads.
  Manners(Session::Target old_side, std::int64_t limit_ms, MannersFigures& figures);
  ~Manners();
  Manners(const Manners&) = delete;
  Manners& operator=(const Manners&) = delete;

  bool throttled() { return share() < 1; }
  // Of the time in which may be read. A commit that is under way too long counts before it ends.
  double share();
  // How long to rest after so much reading; with bytes: of one of `readers` that read side by side.
  std::chrono::microseconds rest_after(std::chrono::nanoseconds reading);
  std::chrono::microseconds rest_after(std::chrono::nanoseconds reading, std::size_t bytes, int readers);
  // Bytes a second of all readers together, measured while nobody rested. 100 MiB until it is known.
  void free_speed(double bytes_per_second);

 private:
  void watch(const std::stop_token& stop);
  Result<std::chrono::microseconds> time_a_commit(std::optional<Session>& session, const std::stop_token& stop);
  void count(std::chrono::microseconds took);  // REQUIRES mutex_

  Session::Target old_side_;
  MannersFigures& figures_;
  std::mutex mutex_;  // guards what follows
  Throttle throttle_;
  double speed_ = 100.0 * (1 << 20);
  std::chrono::nanoseconds since_{0};    // of the commit that is under way; 0: none is
  std::chrono::nanoseconds counted_{0};  // when it was last counted
  std::jthread thread_;                  // last: joined before what it uses goes
};

}  // namespace midstream::postgres
