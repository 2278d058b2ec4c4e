#include "movers/postgres/brief_lock.h"

#include <fmt/format.h>

#include "base/text.h"

namespace midstream::postgres {

namespace {

constexpr int kRounds = 20;
constexpr Millis kBetween{300};

// Only who waits for as long as deadlock_timeout has an autovacuum give way.
constexpr const char* kBrief =
    "BEGIN; SET LOCAL lock_timeout = '100ms'; SET LOCAL deadlock_timeout = '20ms'; SET LOCAL midstream.allow = 'on'; SET LOCAL "
    "session_replication_role = replica; ";

Result<std::string> who_holds(const Work& work, Session& session, const std::string& table) {
  const auto who = TRY(session.run(
      "SELECT a.pid, coalesce(a.usename, a.backend_type), coalesce((extract(epoch FROM clock_timestamp() - a.xact_start))::bigint, 0) FROM "
      "pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.relation = to_regclass($1) AND l.granted AND a.pid <> pg_backend_pid() "
      "ORDER BY a.xact_start LIMIT 1",
      {table}, work.context.deadline, work.context.stop));
  if (who.size() == 0) return std::string();
  return fmt::format("; {} (pid {}) has it in a transaction that is {} s old", printable(who.text(0, 1)), who.text(0, 0), who.text(0, 2));
}

}  // namespace

Result<> briefly_locked(const Work& work, Session& session, const std::string& sql, const std::string& table) {
  const auto& context = work.context;
  for (int round = 0;; ++round) {
    const auto done = session.query(kBrief + sql + "; COMMIT", {}, context.deadline, context.stop);
    if (done) return {};
    auto error = done.error();
    (void)session.query("ROLLBACK", {}, context.deadline, context.stop);
    if (error.sqlstate != "55P03") return std::unexpected(to_error(error, table.empty() ? "cannot prepare a table" : "cannot prepare table " + table));
    if (round >= kRounds)
      return retry(fmt::format("the lock of {} was not to be had in {} tries{}", table.empty() ? "a table" : table, kRounds,
                               table.empty() ? "" : TRY(who_holds(work, session, table))),
                   "wait until that transaction is over, or end it");
    CHECK_OK(wait_a_bit(kBetween, context.deadline, context.stop, table.empty() ? "a table's lock" : "the lock of " + table));
  }
}

}  // namespace midstream::postgres
