// What arrives from the sender, on its way to be applied: read, checked, and cut into pieces. What is certain to be new
// files is written ahead, without names, while what came before is still being applied.
#pragma once

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "movers/files/wire.h"
#include "sys/fd.h"
#include "sys/stream.h"

namespace midstream::files {

struct Received {
  std::string body;
  Frame frame;  // points into the body
};

// A frame, or a piece of a Batch: pieces come in order, the last one says so.
struct Arrived {
  std::shared_ptr<const Received> received;
  std::size_t from = 0, to = 0;  // of a Batch's changes
  std::vector<Fd> nameless;      // of these, by position; empty where nothing was written ahead
  bool last = true;
};

class Intake {
 public:
  // `hidden`: the tree's hidden directory.
  Intake(Stream& stream, Fd hidden) : stream_(stream), hidden_(std::move(hidden)) {}

  // Reads until the stream ends or `stop` is requested, and says why; what has arrived can still be taken. Corrupt where
  // the sender breaks the protocol. On a thread of its own, whose file mode mask is gone afterwards.
  Error read(const std::stop_token& stop);
  // nullopt: nothing more will come.
  std::optional<Arrived> next(const std::stop_token& stop);
  // Nothing more is taken: what waits is dropped, and read() ends.
  void close();

 private:
  Result<> read_one(const std::stop_token& stop);
  Result<> cut(const std::shared_ptr<const Received>& received, const Batch& batch, const std::stop_token& stop);
  Result<> push(Arrived arrived, std::size_t bytes, const std::stop_token& stop);

  Stream& stream_;
  const Fd hidden_;
  bool bare_ = false;  // what is made there is as it is asked for
  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::deque<std::pair<Arrived, std::size_t>> waiting_;
  std::size_t bytes_ = 0, files_ = 0;  // of what waits
  bool ended_ = false;                 // nothing more is pushed
  bool closed_ = false;
};

}  // namespace midstream::files
