#include "movers/postgres/title.h"

#include <fmt/format.h>

#include "movers/postgres/brief_lock.h"
#include "movers/postgres/ddl.h"
#include "movers/postgres/schema_sql.h"

namespace midstream::postgres {

namespace {

std::string replaced(std::string text, std::string_view what, const std::string& with) {
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + with.size()))
    text.replace(at, what.size(), with);
  return text;
}

// All or none: what one lets begin another judges.
Result<> make_event_triggers(const Work& work, Session& session) {
  const auto missing = TRY(session.run(missing_event_triggers_sql(work.plan), {}, work.context.deadline, work.context.stop)).number(0, 0);
  if (missing == 0) return {};
  std::string sql;
  for (const auto& [name, event] : work.plan.event_triggers())
    sql += fmt::format("DROP EVENT TRIGGER IF EXISTS {0}; CREATE EVENT TRIGGER {0} ON {1} EXECUTE FUNCTION midstream.deny_ddl(); ALTER EVENT TRIGGER {0} ENABLE ALWAYS;",
                       ident(name), event);
  return briefly_locked(work, session, sql);
}

}  // namespace

std::string missing_event_triggers_sql(const Plan& plan) {
  std::string wanted;
  for (const auto& [name, event] : plan.event_triggers()) wanted += fmt::format("{}({}, {})", wanted.empty() ? "" : ", ", quote(name), quote(event));
  return fmt::format("SELECT count(*) FROM (VALUES {}) AS wanted (name, event) WHERE NOT EXISTS (SELECT FROM pg_event_trigger WHERE evtname = name AND "
                     "evtevent = event AND evtenabled = 'A')", wanted);
}

Result<bool> database_exists(const Work& work, const std::string& database) {
  return TRY(work.run_cluster("SELECT 1 FROM pg_database WHERE datname = $1", {database})).size() > 0;
}

Result<> make_title(const Work& work, const std::string& database, std::string_view state, int connection_limit) {
  auto session = TRY(work.session(database));
  const auto& context = work.context;
  const auto sql = replaced(kSchemaSql, "$AGENT$", quote(work.plan.agent_role()));
  const auto row = fmt::format(
      "INSERT INTO midstream.owner (epoch, state, connection_limit) VALUES ({}, {}, {}) ON CONFLICT DO "
      "NOTHING;",
      context.task.epoch, quote(state), connection_limit);
  auto done = session->query("BEGIN; SET LOCAL midstream.allow = 'on';" + sql + ddl_sql(work.plan, database) + row + "COMMIT", {}, context.deadline,
                             context.stop);
  if (!done) {
    (void)session->query("ROLLBACK", {}, context.deadline, context.stop);
    return std::unexpected(title_error(done.error(), fmt::format("cannot make the title in {}", database)));
  }
  CHECK_OK(
      session->run("SELECT midstream.adopt($1)", {std::to_string(context.task.epoch)}, context.deadline, context.stop));
  return {};
}

Result<> make_triggers(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  const auto& context = work.context;
  const auto tables = TRY(session->run(
      fmt::format("SELECT name FROM ({}) AS t (name, kind, persistence, oid) WHERE NOT EXISTS (SELECT FROM "
                  "pg_trigger g "
                  "WHERE g.tgrelid = t.oid AND g.tgname = 'midstream_deny' AND g.tgenabled = 'A')",
                  kTablesSql),
      {}, context.deadline, context.stop));
  for (const auto& table : tables.column(0)) {
    CHECK_OK(briefly_locked(
        work, *session,
        fmt::format("CREATE OR REPLACE TRIGGER midstream_deny BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE "
                    "ON {0} FOR "
                    "EACH STATEMENT EXECUTE FUNCTION midstream.deny(); ALTER TABLE {0} ENABLE ALWAYS TRIGGER "
                    "midstream_deny",
                    table),
        table));
  }
  CHECK_OK(make_ddl_triggers(work, *session));
  return make_event_triggers(work, *session);
}

Result<> remove_title(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  const auto& context = work.context;
  std::string without = drop_ddl_triggers_sql(work.plan);
  for (const auto& [name, event] : work.plan.event_triggers()) without += fmt::format("DROP EVENT TRIGGER IF EXISTS {};", ident(name));
  CHECK_OK(briefly_locked(work, *session, without));
  const auto tables =
      TRY(session->run("SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'midstream_deny' AND tgrelid <> "
                       "coalesce(to_regclass('midstream.proof'), 0::oid::regclass)",
                       {}, context.deadline, context.stop));
  for (const auto& table : tables.column(0))
    CHECK_OK(briefly_locked(work, *session, fmt::format("DROP TRIGGER IF EXISTS midstream_deny ON {}", table), table));
  return briefly_locked(work, *session, "DROP SCHEMA IF EXISTS midstream CASCADE");
}

Result<Title> read_title(const Work& work, const std::string& database) {
  const auto known = TRY(work.run_cluster("SELECT 1 FROM pg_database, pg_roles WHERE datname = $1 AND rolname = $2",
                                          {database, work.plan.agent_role()}));
  if (known.size() == 0) return Title{};
  auto session = TRY(work.session(database));
  auto rows = session->query(
      "SELECT epoch, CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE state END, turn, coalesce((SELECT max(turn) FROM midstream.handover), 0), began FROM "
      "midstream.owner",
      {}, work.context.deadline, work.context.stop);
  if (!rows && (rows.error().sqlstate == "42P01" || rows.error().sqlstate == "3F000")) return Title{};
  if (!rows) return std::unexpected(to_error(rows.error(), fmt::format("cannot read the title of {}", database)));
  if (rows->size() == 0) return Title{};
  return Title{static_cast<std::uint64_t>(rows->number(0, 0)), rows->text(0, 1), rows->number(0, 2), rows->number(0, 3),
               rows->text(0, 4)};
}

Json to_json(const Title& title) {
  return {{"epoch", title.epoch},
          {"state", title.state},
          {"turn", title.turn},
          {"arrived", title.arrived},
          {"began", title.began}};
}

Title title_from_json(const Json& value) {
  return Title{static_cast<std::uint64_t>(get_int_or(value, "epoch", 0)), get_string_or(value, "state", ""),
               get_int_or(value, "turn", 0), get_int_or(value, "arrived", 0), get_string_or(value, "began", "")};
}

Result<std::string> fingerprint(const Work& work, const std::string& database) {
  return TRY(work.run(database, kFingerprintSql)).text(0, 0);
}

std::string adopt_sql(const Work& work) {
  return work.keeping ? "" : fmt::format("SELECT midstream.adopt({});", work.context.task.epoch);
}

Error title_error(const SqlError& error, std::string_view doing) {
  auto out = to_error(error, doing);
  if (error.sqlstate == "MS001") out.kind = ErrorKind::fenced;
  return out;
}

}  // namespace midstream::postgres
