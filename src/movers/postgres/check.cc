#include "movers/postgres/check.h"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include <algorithm>

#include "base/text.h"
#include "movers/postgres/copier.h"
#include "movers/postgres/catalog.h"
#include "movers/postgres/column_order.h"
#include "movers/postgres/identity.h"
#include "movers/postgres/quiet_triggers.h"
#include "movers/postgres/roads.h"
#include "movers/postgres/schema_sql.h"
#include "movers/postgres/setup.h"
#include "movers/postgres/stream.h"
#include "movers/postgres/sync_reverse.h"
#include "movers/postgres/wal.h"

namespace midstream::postgres {

namespace {

Result<Json> database_facts(const Work& work, const std::string& database) {
  // Before the move there is no role of ours; afterwards ours is the one that a fence lets in.
  const auto ours = TRY(work.run_cluster("SELECT 1 FROM pg_roles WHERE rolname = $1", {work.plan.agent_role()}));
  const auto user = ours.size() > 0 ? work.plan.agent_role() : work.options.superuser;
  auto session = TRY(work.pool.get(work.target(database, user), work.context.deadline, work.context.stop));
  const auto one = [&](const std::string& sql) -> Result<std::vector<std::string>> {
    return TRY(session->run(sql, {}, work.context.deadline, work.context.stop)).column(0);
  };
  Json facts;
  for (const auto& bare : TRY(tables_without_identity(work, *session))) facts["without_identity"].push_back({bare.table, words_of(bare)});
  if (!work.plan.seeded())
    for (const auto& one : TRY(reordered_tables(work, *session))) facts["reordered"].push_back({one.table, one.is, one.will_be});
  facts["bytes"] =
      TRY(session->run("SELECT pg_database_size(current_database())", {}, work.context.deadline, work.context.stop))
          .number(0, 0);
  facts["extensions"] = TRY(one("SELECT extname FROM pg_extension ORDER BY 1"));
  facts["large_objects"] = TRY(one("SELECT count(*) FROM pg_largeobject_metadata"));
  facts["unlogged"] =
      TRY(one(fmt::format("SELECT name || ' (' || greatest(0, c.reltuples)::bigint || ' rows)' FROM ({}) AS "
                          "t (name, kind, persistence, oid) JOIN "
                          "pg_class c ON c.oid = t.oid WHERE kind = 'r' AND persistence = 'u'",
                          kTablesSql)));
  facts["tablespaces"] =
      TRY(one("SELECT DISTINCT spcname FROM pg_class c JOIN pg_tablespace s ON s.oid = c.reltablespace "
              "WHERE spcname <> 'pg_global'"));
  facts["foreign"] =
      TRY(one("SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = "
              "c.relnamespace WHERE c.relkind = 'f'"));
  facts["slots"] = TRY(one("SELECT slot_name FROM pg_replication_slots WHERE database = current_database() AND slot_name NOT LIKE 'midstream\\_%' ORDER BY 1"));
  facts["subscriptions"] = TRY(one("SELECT subname FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE datname = "
                                   "current_database() AND subname NOT LIKE 'midstream\\_%'"));
  for (const auto& loud : TRY(loud_triggers(work, *session))) facts["loud_triggers"].push_back({loud.table, loud.name, loud.enabled == 'A' ? "ALWAYS" : "REPLICA"});
  return facts;
}

Json number_of(const Work& work, const std::string& name) {
  const auto value = work.run_cluster("SELECT current_setting($1)", {name});
  return value ? Json(value->text(0, 0)) : Json("?");
}

std::string major(const Json& facts) { return std::to_string(get_int_or(facts, "version", 0) / 10000); }

void check_cluster(const Json& facts, const std::string& where, bool physical, Json& findings) {
  const auto add = [&](std::string what, bool ok, std::string detail, std::string todo) {
    findings.push_back(finding(what + " on " + where, ok, std::move(detail), ok ? "" : std::move(todo)));
  };
  const auto version = get_int_or(facts, "version", 0);
  add("PostgreSQL version", version >= 140000 && version < 180000, major(facts), "versions 14 to 17 can be moved");
  const auto level = get_string_or(facts, "wal_level", "");
  add("wal_level", level == "logical" || (physical && level == "replica"), level, "set wal_level = logical in postgresql.conf and restart the server");
  const auto free_slots = get_int_or(facts, "free_slots", 0);
  const auto needed = get_int_or(facts, "needed_slots", 4);
  add("free replication slots", free_slots >= needed, fmt::format("{} free", free_slots),
      fmt::format("raise max_replication_slots so that {} are free, and restart the server", needed));
  const auto senders = get_int_or(facts, "free_senders", 0);
  add("free WAL senders", senders >= needed, fmt::format("{} free", senders),
      fmt::format("raise max_wal_senders so that {} are free, and restart the server", needed));
  const auto workers = get_int_or(facts, "workers", 0);
  if (!physical) add("logical replication workers", workers >= 2, std::to_string(workers),
      "raise max_logical_replication_workers to 4");
  check_wal(facts, where, findings);
  findings.push_back(finding("commit timestamps on " + where, true, get_string_or(facts, "timestamps", ""),
                             "track_commit_timestamp = on would let commits of both sides be compared"));
}

void check_database(const Json& facts, const std::string& database, bool physical, Json& findings) {
  const auto list = [&](const char* key) { return facts.value(key, std::vector<std::string>{}); };
  const auto none = [&](const char* key, std::string what, std::string todo) {
    const auto found = list(key);
    findings.push_back(finding(what + " in " + database, found.empty(), found.empty() ? "none" : join(found, ", "),
                               found.empty() ? "" : std::move(todo)));
  };
  findings.push_back(finding("unlogged tables in " + database, true, join(list("unlogged"), ", "),
                             "their rows are carried inside the switch, up to 1000 a table"));
  if (const auto slots = list("slots"); !slots.empty())
    findings.push_back(finding("logical replication slots of others in " + database, true, join(slots, ", "),
                               "a slot is a place in old's WAL and stays there: whoever reads it ends before the switch, and begins anew on new"));
  if (physical) return;  // the rest comes as it is
  for (const auto& one : facts.value("without_identity", Json::array()))
    findings.push_back(finding(fmt::format("table {} of {} has no replica identity", one.at(0).get<std::string>(), database), true,
                               one.at(1).get<std::string>(), "a primary key would serve better"));
  for (const auto& one : facts.value("reordered", Json::array()))
    findings.push_back(finding(fmt::format("columns of {} in {}, which inherits some, come in another order on new", one.at(0).get<std::string>(), database), true,
                               fmt::format("{} become {}", one.at(1).get<std::string>(), one.at(2).get<std::string>()),
                               "an INSERT that does not name its columns would fill others: name them, or take the seeded road, which keeps the order"));
  none("tablespaces", "tablespaces of their own", "move these tables into the default tablespace");
  none("foreign", "foreign tables", "drop them; what they lead to has to be moved by itself");
  // Where somebody replicates into the database, they are meant for that.
  const bool alone = list("subscriptions").empty();
  for (const auto& one : facts.value("loud_triggers", Json::array()))
    findings.push_back(finding(fmt::format("trigger {} on {} of {} is ENABLE {}", one.at(1).get<std::string>(), one.at(0).get<std::string>(), database,
                                           one.at(2).get<std::string>()),
                               alone, alone ? "does not fire for replicated rows while the move lasts" : "the database subscribes to " + join(list("subscriptions"), ", "),
                               alone ? "nothing, unless sessions of yours set session_replication_role" : "make it ENABLE (origin) while the move lasts"));
  findings.push_back(finding("large objects in " + database, true, join(list("large_objects"), ""),
                             "they are carried inside the switch, up to 1000 and 8 MiB"));
}

void check_pair(const Work& work, const Json& old_facts, const Json& new_facts, Json& findings) {
  const bool copy = get_bool_or(new_facts["road"], "copy", false);  // it has old's identity, and databases
  findings.push_back(finding("both clusters are different ones", copy || old_facts["system"] != new_facts["system"],
                             get_string_or(new_facts, "system", ""), "old and new name the same server"));
  std::int64_t bytes = 0;
  for (const auto& [name, facts] : old_facts.at("databases").items()) {
    bytes += get_int_or(facts, "bytes", 0);
    for (const auto& extension : facts.value("extensions", std::vector<std::string>{})) {
      const auto known = new_facts.value("available", std::vector<std::string>{});
      if (std::ranges::find(known, extension) == known.end())
        findings.push_back(finding(fmt::format("extension {} of {} on new", extension, name), false, "not available",
                                   "install the package that has it"));
    }
  }
  const auto room = get_int_or(new_facts, "free_bytes", 0);
  findings.push_back(finding("room for the databases on new", room > bytes + bytes / 2,
                             fmt::format("{} MiB needed, {} MiB free", bytes >> 20, room >> 20),
                             "make half as much room again as the databases take on old"));
  check_roads(work.plan, old_facts["road"], new_facts["road"], findings);
  for (const auto& database : work.plan.databases) {
    findings.push_back(finding(fmt::format("database {} on old", database), old_facts["databases"].contains(database),
                               "", "there is no such database"));
    const bool there = new_facts["databases"].contains(database);
    const auto ours = new_facts.value("made", std::vector<std::string>{});
    const bool made = copy || std::ranges::find(ours, database) != ours.end();
    findings.push_back(
        finding(fmt::format("no database {} on new", database), !there || made, "", "drop or rename it there"));
  }
}

}  // namespace

Result<Json> cluster_facts(const Work& work) {
  const auto count = static_cast<std::int64_t>(work.plan.databases.size());
  const auto row =
      TRY(work.run_cluster("SELECT current_setting('server_version_num'), current_setting('wal_level'), "
                           "current_setting('max_replication_slots')"
                           "::int - (SELECT count(*) FROM pg_replication_slots WHERE slot_name NOT LIKE "
                           "'midstream\\_%'), current_setting("
                           "'max_wal_senders')::int - (SELECT count(*) FROM pg_stat_replication WHERE "
                           "application_name NOT LIKE 'midstream\\_%'), "
                           "current_setting('max_logical_replication_workers'), "
                           "current_setting('track_commit_timestamp'), (SELECT "
                           "system_identifier FROM pg_control_system()), current_setting('data_directory')"));
  Json facts{{"version", row.number(0, 0)},      {"wal_level", row.text(0, 1)}, {"free_slots", row.number(0, 2)},
             {"free_senders", row.number(0, 3)}, {"workers", row.number(0, 4)}, {"timestamps", row.text(0, 5)},
             {"system", row.text(0, 6)},         {"needed_slots", (work.on_old ? 3 : 3 + kCopyWorkers) * count},   {"databases", Json::object()}};
  // The base backup's own, while it is under way: one slot, two senders.
  if (work.plan.seeded() && work.on_old) facts["needed_slots"] = get_int_or(facts, "needed_slots", 0) + 2;
  if (work.plan.physical()) facts["needed_slots"] = 2;
  facts["road"] = TRY(road_facts(work));
  facts.update(TRY(wal_facts(work)));
  facts["prepared"] = number_of(work, "max_prepared_transactions");
  struct statvfs room {};
  if (::statvfs(row.text(0, 7).c_str(), &room) == 0)
    facts["free_bytes"] = static_cast<std::int64_t>(room.f_bavail) * static_cast<std::int64_t>(room.f_frsize);
  facts["available"] = TRY(work.run_cluster("SELECT name FROM pg_available_extensions")).column(0);
  const auto record = TRY(Record::load(work.context, work.plan.move));
  facts["made"] = record.value("made_databases", Json::array());
  for (const auto& database : work.plan.databases) {
    const auto open = TRY(work.run_cluster("SELECT datallowconn FROM pg_database WHERE datname = $1", {database}));
    if (open.size() > 0)
      facts["databases"][database] = open.truth(0, 0) ? TRY(database_facts(work, database)) : Json::object();
  }
  return facts;
}

Result<Json> run_check(const Work& work) {
  Json findings = Json::array();
  const auto& kind = work.plan.kind;
  if (kind != "source" && kind != "target") return findings;
  const auto mine = cluster_facts(work);
  findings.push_back(finding(fmt::format("PostgreSQL on {} answers", work.mine().host), mine.has_value(),
                             mine ? major(*mine) : mine.error().what,
                             mine ? "" : "let OS user postgres in by peer authentication over the unix socket"));
  if (!mine) return findings;
  check_cluster(*mine, work.mine().host, work.plan.physical(), findings);
  const auto access = access_is_readable(work);
  findings.push_back(finding(fmt::format("the access files on {} can be read", work.mine().host), access.has_value(),
                             access ? "" : access.error().what, access ? "" : access.error().todo));
  if (kind == "source") {
    for (const auto& [name, facts] : mine->at("databases").items()) check_database(facts, name, work.plan.physical(), findings);
    for (const auto& database : work.plan.databases)
      findings.push_back(finding(fmt::format("database {} on {}", database, work.mine().host),
                                 mine->at("databases").contains(database), "", "there is no such database"));
    return findings;
  }
  const auto theirs = work.ask("facts", Json::object());
  findings.push_back(finding(fmt::format("{} answers", work.theirs().host), theirs.has_value(),
                             theirs ? "" : theirs.error().what, "start its agent"));
  if (!theirs) return findings;
  check_pair(work, *theirs, *mine, findings);
  if (is_sync_reverse(work.plan)) {
    const auto standbys = TRY(work.run_cluster("SHOW synchronous_standby_names")).text(0, 0);
    findings.push_back(finding("new's commits can wait for old", standbys.empty(), standbys.empty() ? "reverse: sync" : "new waits for " + printable(standbys),
                               "leave `reverse` out of the manifest, or do without synchronous standbys on new"));
  }
  const auto catalog = TRY(work.ask("dump", {{"schema", false}}));
  const auto record = TRY(Record::load(work.context, work.plan.move));
  const auto made = record.value("made_roles", std::vector<std::string>{});
  auto clash = TRY(conflicting_roles(work, catalog));
  std::erase_if(clash, [&](const auto& name) { return std::ranges::find(made, name) != made.end(); });
  findings.push_back(finding("roles on new that are otherwise than on old", clash.empty(), join(clash, ", "),
                             "make both the same, or drop them on new"));
  return findings;
}

}  // namespace midstream::postgres
