// Frames on their way to the other host, written by a thread of their own: who finds what changed does not wait for the
// link, nor the link for who reads and hashes.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "base/result.h"
#include "sys/stream.h"

namespace midstream::files {

class Courier {
 public:
  explicit Courier(std::shared_ptr<Stream> stream);
  // What has not been written is dropped.
  ~Courier();

  // Takes a frame over; frames arrive in the order of these calls. Waits while too much is under way. The error is that
  // of an earlier frame's writing: from then on nothing is written.
  Result<> send(std::string frame, const std::stop_token& stop);

 private:
  void run(const std::stop_token& stop);

  const std::shared_ptr<Stream> stream_;
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<std::string> frames_;
  std::size_t bytes_ = 0;  // of the frames and of the one that is being written
  std::optional<Error> error_;
  std::jthread thread_;  // last: ends before what it uses
};

}  // namespace midstream::files
