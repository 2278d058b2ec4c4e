#include "movers/postgres/quiet_triggers.h"

#include <fmt/format.h>

#include "movers/postgres/brief_lock.h"
#include "movers/postgres/schema_sql.h"

namespace midstream::postgres {

namespace {

std::string quieting_sql(const LoudTrigger& loud) {
  return fmt::format(
      "LOCK TABLE ONLY {0} IN SHARE ROW EXCLUSIVE MODE; INSERT INTO midstream.quieted (relation, name, was) SELECT tgrelid, tgname, tgenabled FROM "
      "pg_trigger WHERE tgrelid = {1}::regclass AND tgname = {2} ON CONFLICT (relation, name) DO UPDATE SET was = excluded.was; ALTER TABLE ONLY {0} {3} "
      "TRIGGER {4}",
      loud.table, quote(loud.table), quote(loud.name), loud.enabled == 'A' ? "ENABLE" : "DISABLE", ident(loud.name));
}

Result<bool> has_notes(const Work& work, Session& session) {
  return TRY(session.run("SELECT to_regclass('midstream.quieted') IS NOT NULL", {}, work.context.deadline, work.context.stop)).truth(0, 0);
}

}  // namespace

Result<std::vector<LoudTrigger>> loud_triggers(const Work& work, Session& session) {
  const auto rows = TRY(session.run(
      "SELECT format('%I.%I', n.nspname, c.relname), t.tgname, t.tgenabled FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n "
      "ON n.oid = c.relnamespace WHERE NOT t.tgisinternal AND t.tgenabled IN ('A', 'R') AND t.tgname <> 'midstream_deny' AND n.nspname <> 'midstream' AND c.relkind IN ('r', 'p') "
      "AND c.relpersistence <> 't' ORDER BY 1, 2",
      {}, work.context.deadline, work.context.stop));
  std::vector<LoudTrigger> out;
  for (int i = 0; i < rows.size(); ++i) out.push_back({rows.text(i, 0), rows.text(i, 1), rows.text(i, 2)[0]});
  return out;
}

Result<> quiet_triggers(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  for (const auto& loud : TRY(loud_triggers(work, *session))) {
    CHECK_OK(briefly_locked(work, *session, quieting_sql(loud), loud.table));
    work.at("trigger.quieted");
  }
  return {};
}

Result<> loud_triggers_back(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  if (!TRY(has_notes(work, *session))) return {};
  const auto rows = TRY(session->run(
      "SELECT format('%I.%I', n.nspname, c.relname), c.oid, t.tgname, q.was FROM midstream.quieted q JOIN pg_class c ON c.oid = q.relation JOIN "
      "pg_namespace n ON n.oid = c.relnamespace JOIN pg_trigger t ON t.tgrelid = c.oid AND t.tgname = q.name WHERE t.tgenabled = CASE q.was WHEN 'A' "
      "THEN 'O' ELSE 'D' END ORDER BY 1, 3",
      {}, work.context.deadline, work.context.stop));
  for (int i = 0; i < rows.size(); ++i) {
    const auto table = rows.text(i, 0), name = rows.text(i, 2);
    CHECK_OK(briefly_locked(work, *session,
                            fmt::format("ALTER TABLE ONLY {0} ENABLE {1} TRIGGER {2}; DELETE FROM midstream.quieted WHERE relation = {3} AND name = {4}", table,
                                        rows.text(i, 3) == "A" ? "ALWAYS" : "REPLICA", ident(name), rows.text(i, 1), quote(name)),
                            table));
    work.at("trigger.back");
  }
  return {};
}

Result<Json> quieted_triggers(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  if (!TRY(has_notes(work, *session))) return Json::array();
  return parse_json(TRY(session->run("SELECT coalesce(jsonb_agg(jsonb_build_array(format('%I.%I', n.nspname, c.relname), q.name, q.was)), '[]') FROM "
                                     "midstream.quieted q JOIN pg_class c ON c.oid = q.relation JOIN pg_namespace n ON n.oid = c.relnamespace",
                                     {}, work.context.deadline, work.context.stop))
                        .text(0, 0));
}

Result<std::string> note_quieted_sql(const Json& quieted) {
  std::string sql;
  for (const auto& one : quieted) {
    if (!one.is_array() || one.size() != 3) return corrupt("triggers of the other side: not [table, trigger, enabled]");
    sql += fmt::format("INSERT INTO midstream.quieted (relation, name, was) VALUES ({}, {}, {});\n", quote(one.at(0).get<std::string>()),
                       quote(one.at(1).get<std::string>()), quote(one.at(2).get<std::string>()));
  }
  return sql;
}

}  // namespace midstream::postgres
