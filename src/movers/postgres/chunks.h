// What is copied, cut into parts. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace midstream::postgres {

inline constexpr std::int64_t kPageBytes = 8192;

// A table of the publication, as old's catalog describes it under the snapshot.
struct SourceTable {
  std::string name;     // schema-qualified, quoted where needed
  std::string columns;  // those that a copy may fill (not generated), quoted, with commas; "" where there are none
  bool binary = false;  // every column's type is built in: its binary form is the same on every server
  std::int64_t pages = 0;
  std::string oid;
};

// Pages [first, end) of a table; end 0: to the end, which may have moved since the pages were counted (what a later
// transaction put there is not visible to the snapshot).
struct Chunk {
  std::string table;
  std::int64_t first = 0;
  std::int64_t end = 0;
  std::int64_t bytes = 0;  // on disk, an estimate: rows that are too long for a page are elsewhere
};

// Every page of every table in exactly one chunk of about `bytes`; every table has one at least. Tables of one chunk first:
// such are emptied and filled again by their applications, and one that is after the snapshot and before its turn spoils the
// copy. Then the largest, so that no long one is left for the end.
std::vector<Chunk> cut_into_chunks(const std::vector<SourceTable>& tables, std::int64_t bytes);

// COPY statements of one chunk: out of old, into new.
std::string copy_out_sql(const SourceTable& table, const Chunk& chunk);
std::string copy_in_sql(const SourceTable& table);

// How many workers shall be at work, found by trying (more streams than cores can make a copy slower): one more as long as
// that gave at least a tenth more, else one less than was too many, and there it stays.
class Climb {
 public:
  Climb(int start, int most) : workers_(start), most_(most) {}
  int workers() const { return workers_; }
  // What was copied while `workers()` were at work, a second.
  void measured(double bytes_a_second);

 private:
  int workers_;
  int most_;
  double before_ = 0;
  bool settled_ = false;
};

}  // namespace midstream::postgres
