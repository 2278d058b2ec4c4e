#include "movers/traffic/split.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <optional>

namespace midstream::haproxy {

namespace {

std::int64_t sum(const std::vector<int>& weights) {
  return std::accumulate(weights.begin(), weights.end(), std::int64_t{0});
}
int greatest(const std::vector<int>& weights) {
  return weights.empty() ? 0 : *std::max_element(weights.begin(), weights.end());
}

std::vector<std::int64_t> due(const std::vector<int>& full, std::int64_t factor) {
  std::vector<std::int64_t> parts;
  for (const int weight : full) parts.push_back(weight * factor);
  return parts;
}

std::vector<int> scaled(const std::vector<std::int64_t>& parts, std::int64_t top, std::int64_t m) {
  std::vector<int> weights;
  for (const auto part : parts) {
    const auto rounded = (2 * part * m + top) / (2 * top);
    weights.push_back(part == 0 ? 0 : static_cast<int>(std::max<std::int64_t>(1, rounded)));
  }
  return weights;
}

// How far `weights` are from what is due: of the split first, then of the worst server. In parts of a
// million, so that equal candidates compare equal.
std::pair<std::int64_t, std::int64_t> error_of(const Weights& weights, const std::vector<std::int64_t>& old_due,
                                               const std::vector<std::int64_t>& new_due) {
  const auto all = static_cast<double>(sum(weights.old_side) + sum(weights.new_side));
  const auto all_due = static_cast<double>(std::accumulate(old_due.begin(), old_due.end(), std::int64_t{0}) +
                                           std::accumulate(new_due.begin(), new_due.end(), std::int64_t{0}));
  auto off = [&](double have, double want) {
    return std::abs(static_cast<std::int64_t>((have / all - want / all_due) * 1e6));
  };
  const auto side = off(static_cast<double>(sum(weights.new_side)),
                        static_cast<double>(std::accumulate(new_due.begin(), new_due.end(), std::int64_t{0})));
  std::int64_t worst = 0;
  for (std::size_t i = 0; i < old_due.size(); ++i) {
    worst = std::max(worst, off(weights.old_side[i], static_cast<double>(old_due[i])));
  }
  for (std::size_t i = 0; i < new_due.size(); ++i) {
    worst = std::max(worst, off(weights.new_side[i], static_cast<double>(new_due[i])));
  }
  return {side, worst};
}

}  // namespace

Weights full_weights(const Weights& found) {
  Weights full = found;
  const int old_top = greatest(found.old_side);
  const int new_top = greatest(found.new_side);
  if (old_top == 0) full.old_side.assign(found.old_side.size(), std::max(1, new_top));
  if (new_top == 0) full.new_side.assign(found.new_side.size(), std::max(1, old_top));
  return full;
}

Result<Weights> split_weights(int percent, const Weights& full) {
  if (percent < 0 || percent > 100) return refused(fmt::format("{} is not a percentage from 0 to 100", percent));
  const auto old_sum = sum(full.old_side);
  const auto new_sum = sum(full.new_side);
  if (old_sum == 0 || new_sum == 0) return refused("one side of the split has no server with a weight");
  if (percent == 0) return Weights{full.old_side, std::vector<int>(full.new_side.size(), 0)};
  if (percent == 100) return Weights{std::vector<int>(full.old_side.size(), 0), full.new_side};

  const auto old_due = due(full.old_side, (100 - percent) * new_sum);
  const auto new_due = due(full.new_side, percent * old_sum);
  const auto top =
      std::max(*std::max_element(old_due.begin(), old_due.end()), *std::max_element(new_due.begin(), new_due.end()));
  std::optional<Weights> best;
  std::pair<std::int64_t, std::int64_t> best_error;
  for (std::int64_t m = 1; m <= kMaxWeight; ++m) {
    Weights candidate{scaled(old_due, top, m), scaled(new_due, top, m)};
    const auto error = error_of(candidate, old_due, new_due);
    if (best && error > best_error) continue;
    best = std::move(candidate);
    best_error = error;
  }
  return *best;
}

double percent_of(const Weights& weights) {
  const auto all = sum(weights.old_side) + sum(weights.new_side);
  return all == 0 ? -1.0 : 100.0 * static_cast<double>(sum(weights.new_side)) / static_cast<double>(all);
}

}  // namespace midstream::haproxy
