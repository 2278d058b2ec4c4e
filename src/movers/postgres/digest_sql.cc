#include "movers/postgres/digest_sql.h"

#include <fmt/format.h>

#include "base/text.h"
#include "movers/postgres/libpq.h"

namespace midstream::postgres {

namespace {

constexpr const char* kRow = "midstream_row";

std::string column(const std::string& name) { return fmt::format("{}.{}", kRow, name); }

std::string values_of(const Subject& subject) {
  std::vector<std::string> parts;
  for (const auto& name : subject.columns) parts.push_back(column(name));
  return join(parts, ", ");
}

// NULL prints as nothing, an empty string as "": a row's text tells them apart.
std::string text_of(const Subject& subject) {
  return subject.columns.empty() ? "''" : fmt::format("ROW({})::text", values_of(subject));
}

// The binary form of a whole row is one value of type bytea: its hash does not depend on what a type takes for equal (1.0 and
// 1.00), and the lengths and NULLs are in it.
std::string hash_of(const Subject& subject) {
  if (!subject.exact || subject.columns.empty()) return fmt::format("hashtextextended({} COLLATE \"C\", 1)", text_of(subject));
  return fmt::format("hash_record_extended(ROW(record_send(ROW({}))), 1)", values_of(subject));
}

// What tells rows apart, as text: a JSON array of the key's columns.
std::string name_of(const Subject& subject) {
  std::vector<std::string> parts;
  for (const auto& one : subject.key) parts.push_back(column(one.name) + "::text");
  return fmt::format("jsonb_build_array({})::text", join(parts, ", "));
}

std::string columns_of(const Subject& subject) {
  std::vector<std::string> parts;
  for (const auto& one : subject.key) parts.push_back(column(one.name));
  return join(parts, ", ");
}

std::string values_of(const Subject& subject, const Key& key) {
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < subject.key.size() && i < key.size(); ++i)
    parts.push_back(fmt::format("{}::{}", quote(key[i]), subject.key[i].type));
  return join(parts, ", ");
}

std::string within(const Subject& subject, const Range& range) {
  std::string out = "true";
  if (range.after) out = fmt::format("({}) > ({})", columns_of(subject), values_of(subject, *range.after));
  if (range.until) out += fmt::format(" AND ({}) <= ({})", columns_of(subject), values_of(subject, *range.until));
  return out;
}

std::string within(const Subject&, const Pages& pages) {
  return fmt::format("{0}.ctid >= '({1},0)' AND {0}.ctid < '({2},0)'", kRow, pages.first, pages.first + pages.count);
}

std::string from(const Subject& subject) { return fmt::format("ONLY {} {}", subject.table, kRow); }

// The rows of a part with their hash, each computed once (OFFSET 0 keeps it so), and what tells them apart: the key, or else
// the hash itself.
template <class Part>
std::string hashed(const Subject& subject, const Part& part) {
  const auto key = subject.key.empty() ? "" : name_of(subject) + " AS k, ";
  return fmt::format("(SELECT {}{} AS h FROM {} WHERE {} OFFSET 0) hashed", key, hash_of(subject), from(subject), within(subject, part));
}
std::string_view name_there(const Subject& subject) { return subject.key.empty() ? "h::text" : "k"; }
std::string bucket_there(const Subject& subject, int buckets) {
  return fmt::format("({} & {})::int", subject.key.empty() ? "h" : "hashtextextended(k COLLATE \"C\", 0)", buckets - 1);
}

template <class Part>
std::string buckets_in(const Subject& subject, const Part& part, int buckets) {
  return fmt::format("SELECT {}, count(*), sum(h) FROM {} GROUP BY 1", bucket_there(subject, buckets), hashed(subject, part));
}

template <class Part>
std::string rows_in(const Subject& subject, const Part& part, int buckets, const std::vector<int>& wanted) {
  return fmt::format("SELECT {}, count(*), sum(h) FROM {} WHERE {} IN ({}) GROUP BY 1", name_there(subject), hashed(subject, part),
                     bucket_there(subject, buckets), fmt::join(wanted, ", "));
}

}  // namespace

std::string walk_sql(const Subject& subject, const std::optional<Key>& after, std::int64_t rows) {
  // Made text outside: only of the row that is wanted, not of all that are passed over.
  std::vector<std::string> inside, outside;
  for (std::size_t i = 0; i < subject.key.size(); ++i) {
    inside.push_back(fmt::format("{} AS k{}", column(subject.key[i].name), i));
    outside.push_back(fmt::format("k{}::text", i));
  }
  return fmt::format("SELECT {} FROM (SELECT {} FROM {} WHERE {} ORDER BY {} OFFSET {} LIMIT 1) walked", join(outside, ", "),
                     join(inside, ", "), from(subject), within(subject, Range{after, std::nullopt}), columns_of(subject), rows - 1);
}

std::string digest_sql(const Subject& subject, const Range& range) {
  return fmt::format("SELECT count(*), sum({}) FROM {} WHERE {}", hash_of(subject), from(subject), within(subject, range));
}

std::string buckets_sql(const Subject& subject, const Range& range, int buckets) { return buckets_in(subject, range, buckets); }
std::string buckets_sql(const Subject& subject, const Pages& pages, int buckets) { return buckets_in(subject, pages, buckets); }

std::string rows_sql(const Subject& subject, const Range& range, int buckets, const std::vector<int>& wanted) {
  return rows_in(subject, range, buckets, wanted);
}
std::string rows_sql(const Subject& subject, const Pages& pages, int buckets, const std::vector<int>& wanted) {
  return rows_in(subject, pages, buckets, wanted);
}

std::string look_sql(const Subject& subject, bool locked) {
  std::vector<std::string> same;
  for (std::size_t i = 0; i < subject.key.size(); ++i)
    same.push_back(fmt::format("{} = (named.key->>{})::{}", column(subject.key[i].name), i, subject.key[i].type));
  return fmt::format(
      "WITH held AS MATERIALIZED (SELECT named.key::text AS k, {} AS h FROM jsonb_array_elements($1::jsonb) AS named (key) JOIN {} "
      "ON {}{}) SELECT k, count(*), sum(h) FROM held GROUP BY k",
      hash_of(subject), from(subject), join(same, " AND "), locked ? fmt::format(" FOR SHARE OF {}", kRow) : "");
}

std::string look_sql(const Subject& subject, const Pages& pages) {
  return fmt::format("SELECT h::text, count(*), sum(h) FROM {} WHERE h IN (SELECT jsonb_array_elements_text($1::jsonb)::bigint) "
                     "GROUP BY 1",
                     hashed(subject, pages));
}

std::string name_sql(const Subject& subject, const Pages& pages) {
  return fmt::format("SELECT left({}, 60) FROM {} WHERE {} AND {} = $1::bigint LIMIT 1", text_of(subject), from(subject),
                     within(subject, pages), hash_of(subject));
}

}  // namespace midstream::postgres
