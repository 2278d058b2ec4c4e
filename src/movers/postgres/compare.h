// Comparing two sides while both change: digests that add up, the size of the next part, and the queue of keys that are
// looked at again. Pure.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace midstream::postgres {

// How many rows, and the sum (modulo 2^64) of their 64-bit hashes: the order of rows does not matter, how often one is there
// does.
struct Digest {
  std::uint64_t rows = 0;
  std::uint64_t sum = 0;
  bool operator==(const Digest&) const = default;
  Digest& operator+=(const Digest& other) {
    rows += other.rows;
    sum += other.sum;
    return *this;
  }
};
// From PostgreSQL's count(*) and sum(bigint), the latter a decimal of any length and sign, "" for none; corrupt where it is
// no number.
Result<Digest> digest_from(std::int64_t rows, std::string_view sum);
Json to_json(const Digest& digest);
Result<Digest> digest_from_json(const Json& value);

// Digests of the rows of one part, by a hash of what tells rows apart. Missing: no row.
using Buckets = std::map<int, Digest>;
void add(Buckets& sum, const Buckets& more);
Json to_json(const Buckets& buckets);
Result<Buckets> buckets_from_json(const Json& value);
// Those that are not the same on both sides, in runs of at most `most_rows` rows as the larger side counts them (one bucket
// at least): what is listed at once is bounded.
std::vector<std::vector<int>> differing(const Buckets& one, const Buckets& other, std::uint64_t most_rows);

// How many rows the next part shall have, so that one statement takes about `target`. Doubled or halved at most at a time.
class Pace {
 public:
  static constexpr std::int64_t kFewest = 16;
  // `row_bytes`: of an average row, out-of-line values included.
  Pace(std::int64_t row_bytes, std::int64_t target_ms, std::int64_t most_rows);
  std::int64_t rows() const { return rows_; }
  void took(std::int64_t ms);

 private:
  std::int64_t most_;
  std::int64_t rows_;
  std::int64_t target_ms_;
};

// What one side says of rows: what tells them apart -> their digest, as text. Missing: no such row.
using RowDigests = std::map<std::string, std::string>;
Result<RowDigests> row_digests_from_json(const Json& value);
std::set<std::string> differing(const RowDigests& one, const RowDigests& other);

// Rows that were seen to differ. A stream is always a little late, so each is looked at again: what the owner has, what the
// follower has once the stream has passed a marker that came after, and what the owner has then. A row that agrees with
// either is well. One that stood still on the owner and differs all the same, twice, differs for good: nothing on its way
// can mend it. What changes at every look stays open.
class Relook {
 public:
  explicit Relook(std::set<std::string> keys) : open_(std::move(keys)) {}
  const std::set<std::string>& open() const { return open_; }
  const std::set<std::string>& bad() const { return bad_; }
  int looks() const { return looks_; }
  void look(const RowDigests& before, const RowDigests& there, const RowDigests& after);

 private:
  static constexpr int kStrikes = 2;
  std::set<std::string> open_;
  std::set<std::string> bad_;
  std::map<std::string, int> strikes_;
  int looks_ = 0;
};

// How far one database's verify has come, as it is kept on disk. What was compared stays compared while `cut` is the same:
// the same copy, the same owner.
struct Progress {
  struct Finding {
    std::string what;  // a table, "sequences", "large objects"
    std::int64_t rows = 0;
    std::vector<std::string> keys;  // some of them
    bool operator==(const Finding&) const = default;
  };
  std::string cut;
  bool running = false;
  std::int64_t began_ms = 0;  // wall clock: nothing was compared earlier
  std::int64_t age_ms = 0;    // how long a clean verdict is worth something
  std::int64_t clean_ms = 0;  // when the last verify that found nothing began; 0: there was none
  std::string table;          // all before it, by name, are compared; "" at the beginning
  Json after;                 // and of it the rows up to this key; null: none
  bool in_table = false;      // `table` is under way, not done
  std::int64_t tables = 0;
  std::int64_t rows = 0;
  std::int64_t took_ms = 0;
  std::vector<Finding> findings;

  // From the first table on. What an earlier one found clean stays so, on the same copy.
  void begin(std::string new_cut, std::int64_t now_ms);
  void passed(const std::string& name, const Json& key);  // the rows of `name` up to `key`
  void passed_all(const std::string& name);
  bool is_done(const std::string& name) const { return !table.empty() && (name < table || (name == table && !in_table)); }
  void end();
  // Shall be done again: it was clean and is half as old as it may be, so that there is always a verdict that is young enough;
  // or it found something some minutes ago, which somebody may have set right.
  bool due(std::int64_t now_ms) const;
  // Found nothing, on this copy, and began no longer ago than `age_ms`.
  bool fresh(const std::string& now_cut, std::int64_t now_ms, std::int64_t age_ms) const;
};
Json to_json(const Progress& progress);
Result<Progress> progress_from_json(const Json& value);
// "public.orders: 2 rows, with keys [7] [9]; ..."; "" where nothing was found.
std::string words_of(const std::vector<Progress::Finding>& findings);

}  // namespace midstream::postgres
