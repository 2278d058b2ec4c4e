#include "gate/tally.h"

#include <algorithm>
#include <numeric>

namespace midstream::gate {

namespace {

template <std::size_t N>
void add_all(std::array<std::uint64_t, N>& to, const std::array<std::uint64_t, N>& more) {
  for (std::size_t i = 0; i < N; ++i) to[i] += more[i];
}

}  // namespace

Refusal refusal_of(std::string_view code) {
  if (code == "28P01") return Refusal::password;
  if (code == "28000") return Refusal::rule;
  if (code == "3D000") return Refusal::database;
  return code == "57P03" ? Refusal::lookup : Refusal::protocol;
}

void Spans::add(std::chrono::nanoseconds span) {
  const auto seconds = std::chrono::duration<double>(span).count();
  ++counts[static_cast<std::size_t>(std::ranges::lower_bound(kBounds, seconds) - kBounds.begin())];
  sum += span;
}

Spans& Spans::operator+=(const Spans& other) {
  add_all(counts, other.counts);
  sum += other.sum;
  return *this;
}

std::uint64_t Spans::count() const { return std::accumulate(counts.begin(), counts.end(), std::uint64_t{0}); }

void Held::add(std::chrono::nanoseconds span) {
  ++times;
  last = span;
  sum += span;
  longest = std::max(longest, span);
}

Tally& Tally::operator+=(const Tally& other) {
  accepted += other.accepted;
  logins += other.logins;
  moved += other.moved;
  cancels_passed += other.cancels_passed;
  cancels_dropped += other.cancels_dropped;
  add_all(ended, other.ended);
  add_all(refused, other.refused);
  for (std::size_t server = 0; server < opened.size(); ++server) add_all(opened[server], other.opened[server]);
  counts += other.counts;
  held += other.held;
  waited += other.waited;
  return *this;
}

void Totals::count(Doing a, Movable b, Other c) {
  ++doing[static_cast<std::size_t>(a)];
  ++movable[static_cast<std::size_t>(b)];
  ++other[static_cast<std::size_t>(c)];
}

Totals& Totals::operator+=(const Totals& more) {
  tally += more.tally;
  add_all(doing, more.doing);
  add_all(movable, more.movable);
  add_all(other, more.other);
  return *this;
}

}  // namespace midstream::gate
