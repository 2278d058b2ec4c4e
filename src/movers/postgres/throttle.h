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
  // The same where it is known how many bytes were read by each of `readers`: what lay in a socket's buffers is read in no time, and old
  // reads its disk for it all the same. So all of them together get that share of `speed` (bytes a second, when nobody rests), too.
  Span rest_after(Span reading, double bytes, int readers, double speed) const {
    if (share_ >= 1) return Span(0);
    const auto fair = Span(static_cast<Span::rep>(bytes * readers / (speed * share_) * 1e6));
    return std::max(rest_after(reading), fair - reading);
  }

 private:
  Span limit_;
  double share_ = 1;
};

}  // namespace midstream::postgres
