// What an agent has under way, by epoch. This is the fence between controllers: a command of an old epoch is not
// admitted, and adopting a new one ends everything earlier first.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <stop_token>

#include "base/result.h"
#include "sys/clock.h"

namespace midstream {

class Commands {
 public:
  explicit Commands(std::uint64_t epoch) : epoch_(epoch) {}

  // One command under way; its end is the destructor. Movable, not copyable.
  class Admission {
   public:
    Admission(Commands& commands, std::stop_token stop) : commands_(&commands), stop_(std::move(stop)) {}
    Admission(Admission&& other) noexcept : commands_(std::exchange(other.commands_, nullptr)), stop_(std::move(other.stop_)) {}
    Admission& operator=(Admission&&) = delete;
    ~Admission();
    const std::stop_token& stop() const { return stop_; }

   private:
    Commands* commands_;
    std::stop_token stop_;
  };

  // Fenced if a newer epoch was adopted; retry if `epoch` is not adopted yet, or is just being.
  Result<Admission> admit(std::uint64_t epoch);

  // Ends everything of earlier epochs (stop request, then waiting), then calls `persist(epoch)` and takes the
  // epoch over. Fenced if `epoch` is older than ours; at once if it is ours. Retry when a command does not end
  // before the deadline: nothing was taken over then, but the stop request stands.
  Result<> adopt(std::uint64_t epoch, Deadline deadline, const std::function<Result<>(std::uint64_t)>& persist);

  // Stops everything and waits for it; nothing is admitted afterwards.
  void end();

  std::uint64_t epoch() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  std::uint64_t epoch_;
  int running_ = 0;
  bool closed_ = false;  // adopting, or ended
  std::stop_source stop_;
};

}  // namespace midstream
