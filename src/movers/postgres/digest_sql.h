// The statements that digest parts of a table. Pure. Each is one snapshot and a bounded number of rows; nothing in them
// depends on a side's settings beyond those that every session of ours is given (libpq.cc).
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace midstream::postgres {

// One table as one side describes it.
struct Subject {
  struct Column {
    std::string name;  // quoted
    std::string type;  // with its modifier, as a cast takes it
  };
  std::string table;                 // schema-qualified, quoted
  std::vector<std::string> columns;  // all that hold values, quoted, in the order of their names: that of a table may differ
  // What tells rows apart, in the order of an index; none: only all of its values do, and parts are pages.
  std::vector<Column> key;
  // Rows are hashed by their values' binary form, which is a third cheaper than their text. Both sides must be asked alike.
  bool exact = false;
};

using Key = std::vector<std::string>;

// Rows above `after` up to `until`; nothing for open ends.
struct Range {
  std::optional<Key> after, until;
};
struct Pages {
  std::int64_t first = 0;
  std::int64_t count = 0;
};

// The key of the `rows`-th row above `after`, a column each; no row where there are not so many.
std::string walk_sql(const Subject& subject, const std::optional<Key>& after, std::int64_t rows);
// count, sum of the rows' hashes.
std::string digest_sql(const Subject& subject, const Range& range);
// The same for each of `buckets` (a power of two) parts: bucket, count, sum.
std::string buckets_sql(const Subject& subject, const Range& range, int buckets);
std::string buckets_sql(const Subject& subject, const Pages& pages, int buckets);
// What tells each row in `wanted` buckets apart, count and sum.
std::string rows_sql(const Subject& subject, const Range& range, int buckets, const std::vector<int>& wanted);
std::string rows_sql(const Subject& subject, const Pages& pages, int buckets, const std::vector<int>& wanted);
// The same for the rows that $1, a JSON array, names; looked up by their key.
std::string look_sql(const Subject& subject, bool locked);
// For a table without key: those of them that are in `pages`.
std::string look_sql(const Subject& subject, const Pages& pages);
// The first 60 characters of the row whose hash is $1, for people.
std::string name_sql(const Subject& subject, const Pages& pages);

}  // namespace midstream::postgres
