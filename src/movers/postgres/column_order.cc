#include "movers/postgres/column_order.h"

namespace midstream::postgres {

namespace {

// `place`: where a column stands in a table that is made anew, a path that sorts: what comes from the first parent, from the second, its own.
constexpr const char* kReorderedSql = R"sql(
WITH RECURSIVE tree (oid) AS (
    SELECT inhparent FROM pg_inherits UNION SELECT inhrelid FROM pg_inherits),
path (oid, attname, place) AS (
    SELECT a.attrelid, a.attname, ARRAY[1000000, a.attnum::int] FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attinhcount = 0 AND NOT c.relispartition AND a.attrelid IN (SELECT oid FROM tree)
  UNION ALL
    SELECT a.attrelid, a.attname, i.inhseqno || p.place
    FROM path p JOIN pg_inherits i ON i.inhparent = p.oid JOIN pg_class c ON c.oid = i.inhrelid AND NOT c.relispartition
      JOIN pg_attribute a ON a.attrelid = i.inhrelid AND a.attname = p.attname AND a.attnum > 0 AND NOT a.attisdropped),
columns AS (
  SELECT a.attrelid, a.attname, a.attnum, (SELECT min(p.place) FROM path p WHERE p.oid = a.attrelid AND p.attname = a.attname) AS place
  FROM pg_attribute a WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attrelid IN (SELECT oid FROM path)),
orders AS (
  SELECT attrelid, string_agg(quote_ident(attname), ', ' ORDER BY attnum) AS is_now,
    string_agg(quote_ident(attname), ', ' ORDER BY place NULLS LAST, attnum) AS will_be FROM columns GROUP BY 1)
SELECT format('%I.%I', n.nspname, c.relname), is_now, will_be FROM orders JOIN pg_class c ON c.oid = attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE is_now <> will_be AND c.relkind = 'r' AND c.relpersistence <> 't' ORDER BY 1)sql";

}  // namespace

Result<std::vector<Reordered>> reordered_tables(const Work& work, Session& session) {
  const auto rows = TRY(session.run(kReorderedSql, {}, work.context.deadline, work.context.stop));
  std::vector<Reordered> out;
  for (int i = 0; i < rows.size(); ++i) out.push_back({rows.text(i, 0), rows.text(i, 1), rows.text(i, 2)});
  return out;
}

}  // namespace midstream::postgres
