// Simulated time and chance. Everything that happens in a simulation is an entry here, in one order that the seed
// alone decides.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace midstream::test {

// SplitMix64: the same numbers for the same seed with every standard library.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::uint64_t next() {
    auto z = (state_ += 0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  std::int64_t between(std::int64_t low, std::int64_t high) {  // both ends included
    return low + static_cast<std::int64_t>(next() % static_cast<std::uint64_t>(high - low + 1));
  }
  bool chance(int percent) { return between(1, 100) <= percent; }

 private:
  std::uint64_t state_;
};

// What is shared by all parts of one simulation.
class Loop {
 public:
  Loop(std::uint64_t seed, bool traced) : random(seed), traced_(traced) {}

  Random random;

  std::int64_t now() const { return now_; }
  // `what` happens `delay` ms from now, after everything that was already due then.
  void after(std::int64_t delay, std::function<void()> what) {
    entries_.emplace(std::pair(now_ + delay, ++sequence_), std::move(what));
  }
  // Goes on until `done`, the time `end`, or the first broken promise. True if `done`.
  bool run(std::int64_t end, const std::function<bool()>& done) {
    while (violation_.empty() && !done()) {
      if (entries_.empty() || entries_.begin()->first.first > end) {
        now_ = std::max(now_, end);
        return false;
      }
      auto entry = entries_.extract(entries_.begin());
      now_ = entry.key().first;
      entry.mapped()();
    }
    return violation_.empty();
  }

  // A promise is broken; the first one counts.
  void violate(std::string what) {
    note([&] { return "BROKEN: " + what; });
    if (violation_.empty()) violation_ = std::move(what);
  }
  const std::string& violation() const { return violation_; }

  // One line of the trace; `text` is called only where a trace is wanted.
  void note(const std::function<std::string()>& text) {
    if (traced_) trace_.push_back(std::to_string(now_) + " " + text());
  }
  const std::vector<std::string>& trace() const { return trace_; }

 private:
  std::int64_t now_ = 0;
  std::uint64_t sequence_ = 0;
  std::map<std::pair<std::int64_t, std::uint64_t>, std::function<void()>> entries_;
  std::string violation_;
  bool traced_;
  std::vector<std::string> trace_;
};

}  // namespace midstream::test
