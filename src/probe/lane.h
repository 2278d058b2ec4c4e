// The schedule of one service, and the order of its findings.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>

#include "probe/records.h"

namespace midstream {

// Hands out slots on a fixed rate and passes their records on in the order of the slots, whatever the order in which
// they end. Thread-safe.
class Lane {
 public:
  struct Slot {
    std::int64_t seq = 0;
    Nanos due{0};
  };
  using Sink = std::function<void(const RunLine&)>;

  // Slot n is due at base + n * every and has the number first_seq + n.
  Lane(Nanos base, Nanos every, std::int64_t first_seq, Sink sink)
      : base_(base), every_(every), first_seq_(first_seq), sink_(std::move(sink)) {}

  // The next slot that nobody has; those that are a whole interval past at `now` are left out. Every slot taken must
  // be ended.
  Slot take(Nanos now);
  // nullopt: no probe was made.
  void end(std::int64_t seq, std::optional<RunLine> record);

 private:
  const Nanos base_;
  const Nanos every_;
  const std::int64_t first_seq_;
  const Sink sink_;
  std::mutex mutex_;  // guards what follows, and is held while sink_ runs
  std::int64_t next_ = 0;
  std::set<std::int64_t> in_flight_;
  std::map<std::int64_t, RunLine> ended_;
};

}  // namespace midstream
