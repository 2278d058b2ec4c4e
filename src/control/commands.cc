#include "control/commands.h"

#include <fmt/format.h>

namespace midstream {

Commands::Admission::~Admission() {
  if (commands_ == nullptr) return;
  std::lock_guard lock(commands_->mutex_);
  if (--commands_->running_ == 0) commands_->idle_.notify_all();
}

Result<Commands::Admission> Commands::admit(std::uint64_t epoch) {
  std::lock_guard lock(mutex_);
  if (epoch < epoch_) {
    return failure(ErrorKind::fenced, fmt::format("epoch {} is over, {} is in force here", epoch, epoch_),
                   "another controller has taken over; stop this one");
  }
  if (epoch > epoch_ || closed_) return retry(fmt::format("epoch {} is not adopted here yet", epoch));
  ++running_;
  return Admission(*this, stop_.get_token());
}

Result<> Commands::adopt(std::uint64_t epoch, Deadline deadline, const std::function<Result<>(std::uint64_t)>& persist) {
  std::unique_lock lock(mutex_);
  if (epoch < epoch_) {
    return failure(ErrorKind::fenced, fmt::format("epoch {} is over, {} is in force here", epoch, epoch_),
                   "another controller has taken over; stop this one");
  }
  if (epoch == epoch_ && !closed_) return {};
  closed_ = true;
  stop_.request_stop();
  if (!idle_.wait_for(lock, deadline.remaining(), [&] { return running_ == 0; })) {
    return retry("a command of an earlier controller has not ended yet");
  }
  // While we waited, another adoption may have gone through.
  if (epoch < epoch_) return failure(ErrorKind::fenced, fmt::format("epoch {} is over, {} is in force here", epoch, epoch_));
  if (epoch == epoch_ && !closed_) return {};
  if (epoch > epoch_) CHECK_OK(persist(epoch));
  epoch_ = epoch;
  stop_ = std::stop_source();
  closed_ = false;
  return {};
}

void Commands::end() {
  std::unique_lock lock(mutex_);
  closed_ = true;
  stop_.request_stop();
  idle_.wait(lock, [&] { return running_ == 0; });
}

std::uint64_t Commands::epoch() const {
  std::lock_guard lock(mutex_);
  return epoch_;
}

}  // namespace midstream
