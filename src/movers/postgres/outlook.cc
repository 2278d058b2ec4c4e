#include "movers/postgres/outlook.h"

#include "movers/postgres/stream.h"
#include "movers/postgres/title.h"

namespace midstream::postgres {

// The clock first: what was acknowledged by then has its place in the log already.
Result<Json> own_positions(const Work& work, const std::string& database) {
  const auto rows = TRY(work.run(database,
                                 "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint, pg_current_wal_insert_lsn(), confirmed_flush_lsn FROM "
                                 "pg_replication_slots WHERE slot_name = $1",
                                 {work.outgoing(database)}));
  if (rows.size() == 0) return retry("there is no stream back to old");
  return Json{{"at_ms", rows.number(0, 0)}, {"position", rows.text(0, 1)}, {"confirmed", rows.text(0, 2)}};
}

// An hour of seconds: further behind, old is not in sync, and going back is told as not possible all that time.
Result<Json> note_heard(const Work& work, const std::string& database, const Json& args) {
  CHECK_OK(work.run(database,
                    "WITH old AS (DELETE FROM midstream.heard WHERE at < now() - interval '1 hour') INSERT INTO midstream.heard (at, turn, position, confirmed, sync) "
                    "SELECT to_timestamp($1::float8 / 1000), turn, $2::pg_lsn, $3::pg_lsn, $4::boolean FROM midstream.owner ON CONFLICT DO NOTHING",
                    {std::to_string(TRY(get_int(args, "at_ms"))), TRY(get_string(args, "position")), TRY(get_string(args, "confirmed")),
                     get_bool_or(args, "sync", false) ? "true" : "false"}));
  return Json::object();
}

namespace {

// By what has been made of the stream here, and by what this side itself has told the other. Of this hand-over alone: before it
// another cluster, with another log, may have been new.
constexpr const char* kHereSql =
    "WITH heard AS (SELECT * FROM midstream.heard WHERE turn = (SELECT turn FROM midstream.owner)), applied AS (SELECT pg_replication_origin_progress('pg_' || s.oid, true) AS lsn FROM pg_subscription s WHERE subname = $1), "
    "known AS (SELECT greatest((SELECT lsn FROM applied), (SELECT max(confirmed) FROM heard)) AS lsn), "
    "last AS (SELECT * FROM heard ORDER BY at DESC LIMIT 1) "
    "SELECT coalesce((SELECT (extract(epoch FROM at) * 1000)::bigint FROM last), 0), "
    "coalesce((SELECT (extract(epoch FROM max(at)) * 1000)::bigint FROM heard, known WHERE position <= known.lsn), 0), "
    "coalesce((SELECT greatest(position - known.lsn, 0)::bigint FROM last, known), 0), "
    "coalesce((SELECT sync FROM last), false), EXISTS (SELECT FROM pg_stat_subscription WHERE subname = $1 AND pid IS NOT NULL AND received_lsn IS NOT NULL "
    "AND last_msg_receipt_time > now() - interval '15 s')";

}  // namespace

Result<Json> what_is_here(const Work& work, const std::string& database) {
  const auto title = TRY(read_title(work, database));
  const auto rows = TRY(work.run(database, kHereSql, {work.incoming(database)}));
  return Json{{"turn", title.turn},           {"state", title.state},
              {"heard_ms", rows.number(0, 0)}, {"safe_ms", rows.number(0, 1)},
              {"bytes", rows.number(0, 2)},    {"sync", rows.text(0, 3) == "t"},
              {"connected", rows.text(0, 4) == "t"}};
}

}  // namespace midstream::postgres
