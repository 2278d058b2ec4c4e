#include "base/histogram.h"

#include <algorithm>
#include <cmath>

namespace midstream {

namespace {

constexpr std::size_t kMost = 512;  // 1.05 to the 512th microseconds: 19 hours
const double kStep = std::log(1.05);

std::size_t bucket_of(std::int64_t us) {
  if (us <= 1) return 0;
  return std::min(kMost, static_cast<std::size_t>(std::log(static_cast<double>(us)) / kStep));
}

double begin_of(std::size_t bucket) { return bucket == 0 ? 0 : std::exp(kStep * static_cast<double>(bucket)); }

}  // namespace

void Histogram::put(std::size_t bucket, std::uint64_t count) {
  if (bucket >= buckets_.size()) buckets_.resize(bucket + 1);
  buckets_[bucket] += count;
  count_ += count;
}

void Histogram::add(std::int64_t us, std::uint64_t count) { put(bucket_of(us), count); }

void Histogram::merge(const Histogram& other) {
  if (other.buckets_.size() > buckets_.size()) buckets_.resize(other.buckets_.size());
  for (std::size_t i = 0; i < other.buckets_.size(); ++i) buckets_[i] += other.buckets_[i];
  count_ += other.count_;
}

Histogram Histogram::since(const Histogram& before) const {
  Histogram out;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    const auto earlier = i < before.buckets_.size() ? before.buckets_[i] : 0;
    if (buckets_[i] > earlier) out.put(i, buckets_[i] - earlier);
  }
  return out;
}

std::int64_t Histogram::quantile(double q) const {
  const auto wanted = static_cast<std::uint64_t>(std::ceil(std::clamp(q, 0.0, 1.0) * static_cast<double>(count_)));
  std::uint64_t passed = 0;
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    passed += buckets_[i];
    if (passed > 0 && passed >= wanted) return std::llround(begin_of(i + 1));
  }
  return 0;
}

std::uint64_t Histogram::above(std::int64_t us) const {
  std::uint64_t above = 0;
  for (std::size_t i = buckets_.size(); i > 0 && begin_of(i - 1) >= static_cast<double>(us); --i) above += buckets_[i - 1];
  return above;
}

Json Histogram::to_json() const {
  Json out = Json::array();
  for (std::size_t i = 0; i < buckets_.size(); ++i) {
    if (buckets_[i] > 0) out.push_back({i, buckets_[i]});
  }
  return out;
}

Result<Histogram> Histogram::from_json(const Json& value) {
  Histogram out;
  if (!value.is_array()) return corrupt("a histogram is a list of [bucket, count]");
  for (const auto& pair : value) {
    const bool right =
        pair.is_array() && pair.size() == 2 && pair[0].is_number_integer() && pair[1].is_number_integer();
    if (!right || pair[0].get<std::int64_t>() < 0 || pair[0].get<std::int64_t>() > static_cast<std::int64_t>(kMost) ||
        pair[1].get<std::int64_t>() < 0) {
      return corrupt("a histogram is a list of [bucket, count]");
    }
    out.put(pair[0].get<std::size_t>(), pair[1].get<std::uint64_t>());
  }
  return out;
}

}  // namespace midstream
