#include "probe/lane.h"

#include <algorithm>

namespace midstream {

Lane::Slot Lane::take(Nanos now) {
  const std::lock_guard lock(mutex_);
  next_ = std::max<std::int64_t>(next_, (now - base_) / every_);
  const auto slot = next_++;
  in_flight_.insert(first_seq_ + slot);
  return {first_seq_ + slot, base_ + slot * every_};
}

void Lane::end(std::int64_t seq, std::optional<RunLine> record) {
  const std::lock_guard lock(mutex_);
  in_flight_.erase(seq);
  if (record) ended_.emplace(seq, std::move(*record));
  while (!ended_.empty() && (in_flight_.empty() || ended_.begin()->first < *in_flight_.begin())) {
    sink_(ended_.begin()->second);
    ended_.erase(ended_.begin());
  }
}

}  // namespace midstream
