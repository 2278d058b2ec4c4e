// One background thread that does things later.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>
#include <vector>

#include "sys/clock.h"

namespace midstream {

// Thread-safe. Jobs are done one after the other, in the namespaces of the thread that called start(); jobs
// that are added before that are done after it.
class Keeper {
 public:
  Keeper() = default;
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;
  ~Keeper();

  // Until `stop` is requested or the keeper is destroyed.
  void start(std::stop_token stop);
  // Does `job` after `delay`; where it returns false, again every `again`, until it returns true.
  void add(Millis delay, Millis again, std::function<bool()> job);

 private:
  struct Job {
    std::chrono::nanoseconds at;
    Millis again;
    std::function<bool()> run;
  };
  void loop(const std::stop_token& own, const std::stop_token& stop);

  std::mutex mutex_;  // guards jobs_
  std::condition_variable_any wake_;
  std::vector<Job> jobs_;
  std::jthread thread_;
};

}  // namespace midstream
