#include "movers/postgres/prewarm.h"

#include <fmt/format.h>

#include <algorithm>

namespace midstream::postgres {

namespace {

constexpr Millis kSpan{10'000};
constexpr std::int64_t kPiece = 8192;  // blocks that are asked for at once

constexpr const char* kHotSql =
    "SELECT name FROM (SELECT format('%I.%I', schemaname, relname) AS name, coalesce(heap_blks_read + heap_blks_hit, 0) AS asked FROM pg_statio_all_tables "
    "UNION ALL SELECT format('%I.%I', schemaname, indexrelname), coalesce(idx_blks_read + idx_blks_hit, 0) FROM pg_statio_all_indexes) s "
    "WHERE asked > 0 AND name !~ '^(pg_catalog|information_schema|midstream|pg_toast)\\.' ORDER BY asked DESC, name LIMIT 1000";

// Where it can be called from, made if need be; "" where this server has none.
Result<std::string> function_name(const Work& work, Session& session, Deadline deadline) {
  const auto& stop = work.context.stop;
  const auto find = [&] {
    return session.run("SELECT format('%I.pg_prewarm', n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'pg_prewarm'", {},
                       deadline, stop);
  };
  auto there = TRY(find());
  if (there.size() == 0) {
    if (TRY(session.run("SELECT 1 FROM pg_available_extensions WHERE name = 'pg_prewarm'", {}, deadline, stop)).size() == 0) return std::string();
    CHECK_OK(session.run("CREATE EXTENSION pg_prewarm SCHEMA midstream", {}, deadline, stop));
    there = TRY(find());
  }
  return there.text(0, 0);
}

Result<std::int64_t> read_hot(const Work& work, Session& session, const Json& hot) {
  const auto& stop = work.context.stop;
  const auto until = work.context.deadline.sooner(kSpan);
  CHECK_OK(session.run("SET LOCAL midstream.allow = 'on'", {}, until, stop));
  const auto function = TRY(function_name(work, session, until));
  if (function.empty()) return 0;
  auto left = TRY(session.run("SELECT pg_size_bytes(current_setting('shared_buffers')) / current_setting('block_size')::int * 3 / 4", {}, until, stop)).number(0, 0);
  std::int64_t blocks = 0;
  for (const auto& name : TRY(get_strings(hot, "relations"))) {
    const auto size = TRY(session.run("SELECT coalesce(pg_relation_size(to_regclass($1)), 0) / current_setting('block_size')::int", {name}, until, stop)).number(0, 0);
    for (std::int64_t first = 0; first < size && left > 0; first += kPiece) {
      if (until.expired()) return blocks;
      const auto last = std::min({first + kPiece, size, first + left}) - 1;
      const auto read = TRY(session.run(fmt::format("SELECT {}(to_regclass($1), 'buffer', 'main', $2::bigint, $3::bigint)", function),
                                        {name, std::to_string(first), std::to_string(last)}, work.context.deadline, stop));
      blocks += read.number(0, 0);
      left -= last - first + 1;
    }
  }
  return blocks;
}

}  // namespace

Result<Json> hot_relations(const Work& work, const std::string& database) {
  const auto rows = TRY(work.run(database, kHotSql));
  return Json{{"relations", rows.column(0)}};
}

Result<std::int64_t> prewarm(const Work& work, Session& session, const Json& hot) {
  CHECK_OK(session.run("BEGIN", {}, work.context.deadline, work.context.stop));
  const auto blocks = read_hot(work, session, hot);
  CHECK_OK(session.run("ROLLBACK", {}, Deadline::in(Millis(5'000)), {}));
  if (!blocks) return std::unexpected(blocks.error());
  const auto size = TRY(session.run("SHOW block_size", {}, work.context.deadline, work.context.stop)).number(0, 0);
  return *blocks * size;
}

}  // namespace midstream::postgres
