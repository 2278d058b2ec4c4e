#include "movers/keeper.h"

#include <algorithm>

namespace midstream {

Keeper::~Keeper() {
  thread_.request_stop();
  wake_.notify_all();
}

void Keeper::start(std::stop_token stop) {
  if (thread_.joinable()) return;
  thread_ = std::jthread([this, stop = std::move(stop)](const std::stop_token& own) { loop(own, stop); });
}

void Keeper::add(Millis delay, Millis again, std::function<bool()> job) {
  const std::lock_guard lock(mutex_);
  jobs_.push_back({boot_now() + delay, again, std::move(job)});
  wake_.notify_all();
}

void Keeper::loop(const std::stop_token& own, const std::stop_token& stop) {
  const std::stop_callback wake(stop, [this] { wake_.notify_all(); });
  std::unique_lock lock(mutex_);
  while (!own.stop_requested() && !stop.stop_requested()) {
    const auto due = std::ranges::min_element(jobs_, {}, &Job::at);
    if (due == jobs_.end()) {
      wake_.wait_for(lock, own, Millis{500}, [this] { return !jobs_.empty(); });
      continue;
    }
    if (due->at > boot_now()) {
      wake_.wait_for(lock, std::min<std::chrono::nanoseconds>(due->at - boot_now(), Millis{500}));
      continue;
    }
    Job job = std::move(*due);
    jobs_.erase(due);
    lock.unlock();
    const bool done = job.run();
    lock.lock();
    if (!done && job.again > Millis{0})
      jobs_.push_back({boot_now() + job.again, job.again, std::move(job.run)});
  }
}

}  // namespace midstream
