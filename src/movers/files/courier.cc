#include "movers/files/courier.h"

namespace midstream::files {

namespace {
constexpr std::size_t kUnderWay = 8u << 20;
}  // namespace

Courier::Courier(std::shared_ptr<Stream> stream)
    : stream_(std::move(stream)), thread_([this](const std::stop_token& stop) { run(stop); }) {}

Courier::~Courier() = default;

Result<> Courier::send(std::string frame, const std::stop_token& stop) {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, stop, [&] { return error_ || bytes_ < kUnderWay; });
  if (error_) return std::unexpected(*error_);
  if (stop.stop_requested()) return failure(ErrorKind::cancelled, "stopped while sending");
  bytes_ += frame.size();
  frames_.push_back(std::move(frame));
  changed_.notify_all();
  return {};
}

void Courier::run(const std::stop_token& stop) {
  while (true) {
    std::string frame;
    {
      std::unique_lock lock(mutex_);
      if (!changed_.wait(lock, stop, [&] { return !frames_.empty(); })) return;
      if (stop.stop_requested()) return;
      frame = std::move(frames_.front());
      frames_.pop_front();
    }
    // No deadline but the acknowledgements': a receiver with a full disk reads nothing and says so.
    auto written = write_frame(*stream_, frame, Deadline::in(std::chrono::hours(24)), stop);
    const std::lock_guard lock(mutex_);
    bytes_ -= frame.size();
    if (!written) error_ = written.error();
    changed_.notify_all();
    if (!written) return;
  }
}

}  // namespace midstream::files
