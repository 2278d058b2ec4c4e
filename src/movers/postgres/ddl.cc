#include "movers/postgres/ddl.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "movers/postgres/brief_lock.h"
#include "movers/postgres/ddl_sql.h"
#include "movers/postgres/stream.h"

namespace midstream::postgres {

namespace {

constexpr int kMostWritten = 1000;      // looked at: a stream that is further behind than this has stopped long ago
constexpr std::int64_t kPatience = 5'000;  // ms that a command may take to come over before it is tried

// What a command is written down at. Sorted before the application's own event triggers, whose commands come after the one they are for.
constexpr std::array<const char*, 3> kEvents{"ddl_command_end", "sql_drop", "table_rewrite"};

// By name: event triggers fire in its order, and who runs the command is noted right before it is written down.
struct Recorder {
  const char* place;
  const char* function;
};
constexpr std::array<Recorder, 2> kRecorders{{{"1", "note_actor"}, {"2", "record_ddl"}}};

std::string trigger_name(const Plan& plan, std::string_view event, std::string_view place) { return fmt::format("!midstream_{}_{}_{}", place, event, plan.move); }

Result<Json> as_json(const Work& work, const std::string& database, const std::string& sql, const Params& params = {}) {
  return parse_json(TRY(work.run(database, sql, params)).text(0, 0));
}

// Where it is a row of the other side's, the command is repeated with it: with session_replication_role = replica.
constexpr const char* kInsertSql = "INSERT INTO midstream.ddl OVERRIDING SYSTEM VALUE SELECT * FROM jsonb_populate_record(NULL::midstream.ddl, $1::jsonb)";
constexpr Millis kLongest{600'000};

// One request to the side that owns, or to the one that follows.
Result<Json> ask(const Work& work, const std::string& database, bool old_side, std::string_view verb, Json args) {
  if (old_side != work.on_old) {
    args["database"] = database;
    return work.ask(verb, std::move(args));
  }
  if (verb == "ddl_written") return ddl_written(work, database);
  if (verb == "ddl_missing") return ddl_missing(work, database, args);
  if (verb == "ddl_row") return ddl_row(work, database, args);
  return ddl_rehearsed(work, database, args);
}

}  // namespace

std::string ddl_sql(const Plan& plan, const std::string& database) {
  if (plan.physical()) return "";
  std::string sql = kDdlSql;
  const std::array<std::pair<std::string, std::string>, 3> words{
      {{"$AGENT$", quote(plan.agent_role())},
       {"$PUBLICATION$", quote(plan.publication())},
       {"$STREAMS$", quote(plan.stream(database, true)) + ", " + quote(plan.stream(database, false))}}};
  for (const auto& [word, with] : words)
    for (auto at = sql.find(word); at != std::string::npos; at = sql.find(word, at + with.size())) sql.replace(at, word.size(), with);
  return sql;
}

Result<> make_ddl_triggers(const Work& work, Session& session) {
  if (work.plan.physical()) return {};
  std::string sql;
  for (const auto& [place, function] : kRecorders)
   for (const auto* event : kEvents) {
    const auto name = trigger_name(work.plan, event, place);
    const auto present = TRY(session.run("SELECT 1 FROM pg_event_trigger WHERE evtname = $1 AND evtenabled = 'A'", {name}, work.context.deadline, work.context.stop));
    if (present.size() == 0)
      sql += fmt::format("DROP EVENT TRIGGER IF EXISTS {0}; CREATE EVENT TRIGGER {0} ON {1} EXECUTE FUNCTION midstream.{2}(); ALTER EVENT TRIGGER {0} ENABLE "
                         "ALWAYS; ", ident(name), event, function);
  }
  if (sql.empty()) return {};
  return briefly_locked(work, session, sql);
}

std::string drop_ddl_triggers_sql(const Plan& plan) {
  std::string sql;
  for (const auto& recorder : kRecorders)
    for (const auto* event : kEvents) sql += fmt::format("DROP EVENT TRIGGER IF EXISTS {}; ", ident(trigger_name(plan, event, recorder.place)));
  return sql;
}

Result<> complete_tables(const Work& work, const std::string& database) {
  CHECK_OK(work.run(database, "BEGIN; SET LOCAL midstream.allow = 'on'; SET LOCAL session_replication_role = replica; SET LOCAL lock_timeout = '2s'; SELECT "
                              "midstream.adopt_tables(true); COMMIT"));
  return {};
}

Result<Json> ddl_rows(Session& session, Deadline deadline, const std::stop_token& stop) {
  return parse_json(TRY(session.run("SELECT coalesce(jsonb_agg(to_jsonb(d) ORDER BY turn, n), '[]') FROM midstream.ddl d", {}, deadline, stop)).text(0, 0));
}

std::string note_ddl_sql(const Json& rows) {
  return fmt::format("INSERT INTO midstream.ddl (turn, n, at, role, tag, about, settings) OVERRIDING SYSTEM VALUE SELECT turn, n, at, role, tag, about, '{{}}' FROM "
                     "jsonb_populate_recordset(NULL::midstream.ddl, {}::jsonb);\n", quote(rows.dump()));
}

Result<> repeat_before_copy(const Work& work, Session& session, const Json& rows, const std::string& guard_sql) {
  const auto& stop = work.context.stop;
  const auto known = TRY(session.run("SELECT turn || ' ' || n FROM midstream.ddl UNION ALL SELECT turn || ' ' || n FROM midstream.settled", {}, Deadline::in(Millis(10'000)), stop)).column(0);
  for (const auto& row : rows) {
    const auto key = fmt::format("{} {}", get_int_or(row, "turn", 0), get_int_or(row, "n", 0));
    if (std::ranges::find(known, key) != known.end()) continue;
    CHECK_OK(session.run(fmt::format("BEGIN; SET LOCAL midstream.allow = 'on'; SET LOCAL session_replication_role = replica; SET LOCAL midstream.before_copy = 'on'; {}", guard_sql), {},
                         Deadline::in(Millis(10'000)), stop));
    const auto done = session.query(kInsertSql, {row.dump()}, Deadline::in(kLongest), stop);
    if (!done) {
      (void)session.query("ROLLBACK", {}, Deadline::in(Millis(5'000)), {});
      auto error = to_error(done.error(), fmt::format("{} ({}) was done on {} since new got its schema, and cannot be repeated", get_string_or(row, "tag", ""),
                                                      printable(get_string_or(row, "about", "").substr(0, 200)), work.theirs().host));
      if (error.kind == ErrorKind::refused) error.todo = "make the same change on new and settle it (docs/movers/postgres.md), or undo target and begin it again";
      return std::unexpected(std::move(error));
    }
    CHECK_OK(session.run("COMMIT", {}, Deadline::in(Millis(10'000)), stop));
  }
  return {};
}

Result<Json> ddl_written(const Work& work, const std::string& database) {
  return as_json(work, database,
                 fmt::format("SELECT coalesce(jsonb_agg(jsonb_build_array(turn, n, tag, about, why_not, (extract(epoch FROM clock_timestamp() - at) * 1000)::bigint)), '[]') "
                             "FROM (SELECT * FROM midstream.ddl ORDER BY turn DESC, n DESC LIMIT {}) d", kMostWritten));
}

Result<Json> ddl_missing(const Work& work, const std::string& database, const Json& args) {
  return as_json(work, database,
                 "SELECT coalesce(jsonb_agg(x ORDER BY (x->>0)::bigint, (x->>1)::bigint), '[]') FROM jsonb_array_elements($1::jsonb) x WHERE NOT EXISTS (SELECT FROM "
                 "midstream.ddl WHERE turn = (x->>0)::bigint AND n = (x->>1)::bigint UNION ALL SELECT FROM midstream.settled WHERE turn = (x->>0)::bigint AND n = "
                 "(x->>1)::bigint)",
                 {args.value("written", Json::array()).dump()});
}

Result<Json> ddl_row(const Work& work, const std::string& database, const Json& args) {
  return as_json(work, database, "SELECT coalesce((SELECT to_jsonb(d) FROM midstream.ddl d WHERE turn = $1 AND n = $2), '{}')",
                 {std::to_string(get_int_or(args, "turn", -1)), std::to_string(get_int_or(args, "n", -1))});
}

Result<Json> ddl_rehearsed(const Work& work, const std::string& database, const Json& row) {
  if (TRY(look_at_subscription(work, database)).running) return Json{{"error", ""}};
  auto session = TRY(work.session(database));
  const auto deadline = work.context.deadline.sooner(Millis(10'000));
  CHECK_OK(session->run("BEGIN; SET LOCAL midstream.allow = 'on'; SET LOCAL session_replication_role = replica; SET LOCAL lock_timeout = '1s'; SET LOCAL statement_timeout = '5s'",
                        {}, deadline, work.context.stop));
  const auto tried = session->query(kInsertSql, {row.dump()}, deadline, work.context.stop);
  CHECK_OK(session->run("ROLLBACK", {}, Deadline::in(Millis(5'000)), {}));
  // Somebody is at it, it takes its time, or it has come meanwhile.
  if (tried || tried.error().sqlstate == "55P03" || tried.error().sqlstate == "57014" || tried.error().sqlstate == "23505") return Json{{"error", ""}};
  return Json{{"error", tried.error().message}};
}

Result<std::string> ddl_in_the_way(const Work& work, const std::string& database, bool old_owns) {
  const auto written = TRY(ask(work, database, old_owns, "ddl_written", Json::object()));
  if (written.empty()) return std::string();
  const auto missing = TRY(ask(work, database, !old_owns, "ddl_missing", {{"written", written}}));
  if (missing.empty()) return std::string();
  const auto& first = missing.front();
  auto why = first.at(4).is_null() ? std::string() : first.at(4).get<std::string>();
  const Json key{{"turn", first.at(0)}, {"n", first.at(1)}};
  if (why.empty() && first.at(5).get<std::int64_t>() > kPatience) {
    const auto row = TRY(ask(work, database, old_owns, "ddl_row", key));
    why = get_string_or(TRY(ask(work, database, !old_owns, "ddl_rehearsed", row)), "error", "");
  }
  if (why.empty()) return std::string();
  const auto& owner = old_owns ? work.plan.old_end : work.plan.new_end;
  const auto& follower = old_owns ? work.plan.new_end : work.plan.old_end;
  const auto about = first.at(3).get<std::string>();
  return fmt::format(
      "{} on {} stopped, whole, before what was done on {}: {}{}: {}; make the same change there as OS user postgres (psql -U {} {}, SET midstream.allow = 'on') and then "
      "SELECT midstream.settle({}, {}); {}",
      database, follower.host, owner.host, first.at(2).get<std::string>(), about.empty() ? "" : fmt::format(" ({})", printable(about.substr(0, 200))), printable(why.substr(0, 300)),
      work.plan.agent_role(), database, first.at(0).get<std::int64_t>(), first.at(1).get<std::int64_t>(),
      old_owns ? "or undo the copy and begin it again" : "until then nothing leads back");
}

}  // namespace midstream::postgres
