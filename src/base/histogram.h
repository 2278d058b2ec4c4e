// Latencies counted in logarithmic buckets: 1 µs to some hours, each bucket 5% wider than the one before. What is said of
// a sample is right to those 5%.
#pragma once

#include <cstdint>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace midstream {

class Histogram {
 public:
  void add(std::int64_t us, std::uint64_t count = 1);
  void merge(const Histogram& other);
  // What came after `before`, an earlier state of this same histogram.
  Histogram since(const Histogram& before) const;
  std::uint64_t count() const { return count_; }
  // The value that a share `q` (0 to 1) of the samples does not exceed, microseconds: the upper end of its bucket. 0 where
  // there are no samples.
  std::int64_t quantile(double q) const;
  // Samples in buckets that begin at `us` or above.
  std::uint64_t above(std::int64_t us) const;

  // [[bucket, count], ...], and back.
  Json to_json() const;
  static Result<Histogram> from_json(const Json& value);

 private:
  void put(std::size_t bucket, std::uint64_t count);
  std::vector<std::uint64_t> buckets_;  // as far as the highest one in use
  std::uint64_t count_ = 0;
};

}  // namespace midstream
