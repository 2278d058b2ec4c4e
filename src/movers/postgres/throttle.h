// How much of the time old may be read in bulk, so that those who commit there do not wait for it. Pure.
#pragma once

#include <algorithm>
#include <chrono>

namespace midstream::postgres {

class Throttle {
 public:
  using Span = std::chrono::microseconds;
  static constexpr double kLeast = 1.0 / 32;  // a copy that stands still never ends

  // No commit on old shall take longer than that.
  explicit Throttle(Span limit) : limit_(limit) {}

  // One took so long, or has been under way for so long: half of what was read before, until they are well below the limit again.
  void commit_took(Span took) {
    if (took > limit_) share_ = std::max(share_ / 2, kLeast);
    else if (took <= limit_ * 8 / 10) share_ = std::min(share_ * 1.25, 1.0);
  }
  // Of the time in which may be read.
  double share() const { return share_; }
  // How long to rest after so much reading.
  Span rest_after(Span reading) const { return Span(static_cast<Span::rep>(static_cast<double>(reading.count()) * (1 - share_) / share_)); }

 private:
  Span limit_;
  double share_ = 1;
};

}  // namespace midstream::postgres
