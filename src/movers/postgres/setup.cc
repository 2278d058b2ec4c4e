#include "movers/postgres/setup.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "movers/postgres/access.h"
#include "movers/postgres/catalog.h"
#include "movers/postgres/fence.h"
#include "movers/postgres/identity.h"
#include "movers/postgres/physical_side.h"
#include "movers/postgres/quiet_triggers.h"
#include "movers/postgres/roads.h"
#include "movers/postgres/seeder.h"
#include "movers/postgres/shared.h"
#include "movers/postgres/stream.h"
#include "movers/postgres/title.h"
#include "sys/file.h"

namespace midstream::postgres {

namespace {

Result<Json> open_record(const Work& work) {
  auto record = TRY(Record::load(work.context, work.plan.move));
  record["side"] = work.on_old ? "old" : "new";
  record["host"] = work.context.host;
  auto desired = work.plan.raw;
  desired["kind"] = "switch";
  record["desired"] = desired;
  for (const char* key : {"own_password", "probe_password", "gate_password"})
    if (!record.contains(key)) record[key] = TRY(random_secret());
  for (const char* key : {"made_roles", "made_databases"})
    if (!record.contains(key)) record[key] = Json::array();
  CHECK_OK(Record::save(work.context, work.plan.move, record));
  return record;
}

Result<> make_role(const Work& work, Session& session, const std::string& name, std::string_view attributes,
                   const std::string& password) {
  const auto& context = work.context;
  const auto found =
      TRY(session.run("SELECT 1 FROM pg_roles WHERE rolname = $1", {name}, context.deadline, context.stop));
  std::string text = fmt::format("{} ROLE {} WITH {}", found.size() > 0 ? "ALTER" : "CREATE", ident(name), attributes);
  if (!password.empty()) text += " PASSWORD " + quote(TRY(session.verifier(name, password)));
  CHECK_OK(session.run(text, {}, context.deadline, context.stop));
  return {};
}

// Our own roles in this cluster.
Result<> make_our_roles(const Work& work, const Json& record) {
  auto session = TRY(work.maintenance());
  if (session.server_version() < 140000 || session.server_version() >= 180000)
    return refused(
        fmt::format("PostgreSQL {} on {} is not supported", session.server_version() / 10000, work.mine().host),
        "versions 14 to 17 are");
  const auto& plan = work.plan;
  CHECK_OK(make_role(work, session, plan.agent_role(), "LOGIN SUPERUSER", ""));
  CHECK_OK(make_role(work, session, plan.replication_role(), "LOGIN REPLICATION BYPASSRLS",
                     get_string_or(record, "own_password", "")));
  CHECK_OK(session.run(fmt::format("GRANT pg_read_all_data TO {}", ident(plan.replication_role())), {},
                       work.context.deadline, work.context.stop));
  // Passes the soft fence, to read the title, and reads password verifiers: what only superusers may.
  if (plan.gate.present())
    CHECK_OK(make_role(work, session, plan.gate_role(), "LOGIN SUPERUSER", get_string_or(record, "gate_password", "")));
  CHECK_OK(make_role(work, session, plan.probe_role(), "LOGIN", get_string_or(record, "probe_password", "")));
  for (const auto& database : plan.databases)
    CHECK_OK(make_role(work, session, plan.fence_role(database), "NOLOGIN", ""));
  return {};
}

}  // namespace

Result<> let_in(const Work& work, const std::string& database) {
  for (const auto& role : {work.plan.replication_role(), work.plan.probe_role()}) {
    const auto may = TRY(work.run_cluster("SELECT has_database_privilege($1, $2, 'CONNECT')", {role, database}));
    if (!may.truth(0, 0))
      CHECK_OK(work.run_cluster(fmt::format("GRANT CONNECT ON DATABASE {} TO {}", ident(database), ident(role))));
  }
  return {};
}

namespace {

// The server reads its access files a moment after it is told to; a session that began later shows it.
Result<> reload(const Work& work, Session& session) {
  const auto& context = work.context;
  const auto before = TRY(session.run("SELECT clock_timestamp()", {}, context.deadline, context.stop)).text(0, 0);
  CHECK_OK(session.run("SELECT pg_reload_conf()", {}, context.deadline, context.stop));
  for (;;) {
    auto later = TRY(work.maintenance());
    const auto loaded =
        TRY(later.run("SELECT pg_conf_load_time() >= $1::timestamptz", {before}, context.deadline, context.stop));
    if (loaded.truth(0, 0)) return {};
    CHECK_OK(wait_a_bit(Millis(5), context.deadline, context.stop, "the server to reload"));
  }
}

// Refused where the server cannot read a line of its access files: it ignores the whole file then, and goes on with the
// rules that it has. Lines of our own block count where `ours` says so.
Result<> readable(const Work& work, Session& session, bool ours) {
  const auto& context = work.context;
  for (const char* kind : {"hba", "ident"}) {
    const bool rules = std::string_view(kind) == "hba";
    if (!rules && session.server_version() < 150000) continue;  // cannot be asked
    const auto bad = TRY(session.run(
        fmt::format("SELECT line_number, error, current_setting('{}_file') FROM {} WHERE error IS NOT NULL ORDER BY 1",
                    kind, rules ? "pg_hba_file_rules" : "pg_ident_file_mappings"),
        {}, context.deadline, context.stop));
    if (bad.size() == 0) continue;
    const auto block = find_block(TRY(read_file(bad.text(0, 2))), work.plan.move);
    for (int i = 0; i < bad.size(); ++i) {
      const bool own = bad.number(i, 0) >= block.first && bad.number(i, 0) <= block.last;
      if (own && !ours) continue;
      return refused(fmt::format("{} on {}, line {}: {}; the server ignores the whole file and goes on with the rules "
                                 "that it has",
                                 bad.text(i, 2), work.context.host, bad.text(i, 0), printable(bad.text(i, 1))),
                     "make that line right, then try again");
    }
  }
  return {};
}

// Our blocks as they shall be, whatever the rest of the files is like, and read by the server; refused where it could
// not read them. A bad line of somebody else's found beforehand leaves everything as it is.
Result<> write_access(const Work& work, std::string_view hba, std::string_view map) {
  auto session = TRY(work.maintenance());
  const auto& context = work.context;
  CHECK_OK(readable(work, session, false));
  const auto files = TRY(session.run("SELECT current_setting('hba_file'), current_setting('ident_file')", {},
                                     context.deadline, context.stop));
  const auto before = find_block(TRY(read_file(files.text(0, 0))), work.plan.move);
  CHECK_OK(set_block(files.text(0, 1), work.plan.move, map));
  CHECK_OK(set_block(files.text(0, 0), work.plan.move, hba));
  work.at("access.written");
  // Also where nothing changed: an earlier reload may have been rejected.
  CHECK_OK(reload(work, session));
  const auto theirs = readable(work, session, false);
  if (!theirs) return theirs;
  auto read = readable(work, session, true);
  if (read) return {};
  CHECK_OK(set_block(files.text(0, 0), work.plan.move, before.lines));
  CHECK_OK(reload(work, session));
  return read;
}

Result<> remove_access(const Work& work) {
  CHECK_OK(remove_pass_file(work));
  if (work.plan.physical()) CHECK_OK(forget_other(work));
  if (work.plan.physical() || (work.on_old && work.plan.seeded())) CHECK_OK(drop_slot(work, work.plan.seed_slot()));
  work.pool.drop_all();
  CHECK_OK(write_access(work, "", ""));
  std::vector<std::string> roles{work.plan.replication_role(), work.plan.probe_role()};
  for (const auto& database : work.plan.databases) roles.push_back(work.plan.fence_role(database));
  if (work.plan.gate.present()) roles.push_back(work.plan.gate_role());
  roles.push_back(work.plan.agent_role());
  auto session = TRY(work.maintenance());
  for (const auto& role : roles) {
    const auto there =
        TRY(session.run("SELECT 1 FROM pg_roles WHERE rolname = $1", {role}, work.context.deadline, work.context.stop));
    if (there.size() == 0) continue;
    CHECK_OK(session.run("DROP OWNED BY " + ident(role), {}, work.context.deadline, work.context.stop));
    CHECK_OK(session.run("DROP ROLE IF EXISTS " + ident(role), {}, work.context.deadline, work.context.stop));
  }
  work.pool.drop_all();  // what the keeper began meanwhile: a role that is made again is not the one of these sessions
  return Record::remove(work.context, work.plan.move);
}

// The blocks as the record says they are.
Result<> refresh_access(const Work& work) {
  const auto record = TRY(Record::load(work.context, work.plan.move));
  const auto hard = record.value("hard", Json::array()).get<std::set<std::string>>();
  const auto gated = record.value("gated", Json::array()).get<std::set<std::string>>();
  return write_access(work, hba_lines(work.plan, work.theirs().address, hard, gated), ident_lines(work.plan, work.options.os_user));
}

bool has(const Json& list, const std::string& name) {
  return std::ranges::any_of(list, [&](const Json& one) { return one == name; });
}

Result<bool> role_exists(const Work& work, const std::string& role) {
  return TRY(work.run_cluster("SELECT 1 FROM pg_roles WHERE rolname = $1", {role})).size() > 0;
}

// What this side holds in `database` while the database stays.
Result<> remove_from_database(const Work& work, const std::string& database) {
  CHECK_OK(drop_subscription(work, database));
  CHECK_OK(drop_slot(work, work.outgoing(database)));
  CHECK_OK(
      work.run(database, fmt::format("BEGIN; SET LOCAL midstream.allow = 'on'; DROP PUBLICATION IF EXISTS {}; COMMIT",
                                     ident(work.plan.publication()))));
  CHECK_OK(take_identities_back(work, database));
  CHECK_OK(loud_triggers_back(work, database));
  return remove_title(work, database);
}

Result<> prepare_database(const Work& work, const Json& catalog, const std::string& database) {
  const auto limit = static_cast<int>(get_int_or(catalog.at("databases").at(database), "datconnlimit", -1));
  CHECK_OK(make_title(work, database, "standby", limit));
  const auto marked =
      TRY(work.run(database, "SELECT obj_description('midstream'::regnamespace, 'pg_namespace') = 'filled'"));
  if (!marked.truth(0, 0)) CHECK_OK(restore_schema(work, catalog, database));
  CHECK_OK(settle_database(work, catalog, database));
  CHECK_OK(let_in(work, database));
  CHECK_OK(make_triggers(work, database));
  CHECK_OK(quiet_triggers(work, database));
  return make_publication(work, database);
}

}  // namespace

Result<> make_own_roles(const Work& work) { return make_our_roles(work, TRY(Record::load(work.context, work.plan.move))); }

Result<> set_access(const Work& work, const std::string& database, Access access) {
  auto record = TRY(Record::load(work.context, work.plan.move));
  const auto among = [&](const char* key, Access which) {
    auto ones = record.value(key, Json::array()).get<std::set<std::string>>();
    for (const auto& one : work.plan.databases) {
      if (!database.empty() && one != database) continue;
      if (access == which) ones.insert(one);
      else ones.erase(one);
    }
    record[key] = ones;
  };
  among("hard", Access::refused);
  among("gated", Access::gated);
  CHECK_OK(Record::save(work.context, work.plan.move, record));
  return refresh_access(work);
}

Result<bool> is_gated(const Work& work, const std::string& database) {
  if (!work.plan.gate.present()) return false;
  return has(TRY(Record::load(work.context, work.plan.move)).value("gated", Json::array()), database);
}

Result<> access_is_readable(const Work& work) {
  auto session = TRY(work.maintenance());
  return readable(work, session, true);
}

Result<Json> exchange_credentials(const Work& work, const std::string& password) {
  auto record = TRY(Record::load(work.context, work.plan.move));
  const auto own = get_string_or(record, "own_password", "");
  if (own.empty()) return refused(fmt::format("host {} has no part in move {} yet", work.context.host, work.plan.move));
  record["peer_password"] = password;
  CHECK_OK(Record::save(work.context, work.plan.move, record));
  CHECK_OK(write_pass_file(work, password));
  return Json{{"password", own}};
}

Result<Json> shared_credentials(const Work& work) {
  auto record = TRY(Record::load(work.context, work.plan.move));
  const auto own = get_string_or(record, "own_password", "");
  if (own.empty()) return refused(fmt::format("host {} has no part in move {} yet", work.context.host, work.plan.move));
  CHECK_OK(exchange_credentials(work, own));
  return Json{{"password", own}, {"probe_password", get_string_or(record, "probe_password", "")}};
}

Result<Json> apply_source(const Work& work) {
  const auto record = TRY(open_record(work));
  work.at("source.recorded");
  CHECK_OK(make_our_roles(work, record));
  work.at("source.roles");
  CHECK_OK(set_access(work, "", Access::soft));
  for (const auto& database : work.plan.databases) {
    CHECK_OK(let_in(work, database));
    auto session = TRY(work.session(database));
    const auto limit = TRY(session->run("SELECT datconnlimit FROM pg_database WHERE datname = current_database()", {},
                                        work.context.deadline, work.context.stop));
    CHECK_OK(make_title(work, database, "owner", static_cast<int>(limit.number(0, 0))));
    work.at("source.title");
    CHECK_OK(make_triggers(work, database));
    if (work.plan.physical()) continue;  // a log of pages asks for no publication, and fires no trigger
    CHECK_OK(quiet_triggers(work, database));
    CHECK_OK(make_publication(work, database));
  }
  return Json{{"databases", work.plan.databases.size()}};
}

Result<Json> undo_source(const Work& work) {
  if (TRY(role_exists(work, work.plan.agent_role()))) {
    // A crash may have left the role without its way in.
    CHECK_OK(refresh_access(work));
    for (const auto& database : work.plan.databases) {
      const auto title = TRY(read_title(work, database));
      if (!title.state.empty() && title.state != "owner")
        return refused(fmt::format("{} is '{}' on {}: it owns nothing that could be set free", database, title.state,
                                   work.context.host),
                       "undo the switch first");
      CHECK_OK(remove_from_database(work, database));
    }
  }
  CHECK_OK(remove_access(work));
  return Json::object();
}

namespace {

Result<> swap_passwords(const Work& work, Json& record) {
  const auto answer = TRY(work.ask("credentials", {{"password", get_string_or(record, "own_password", "")}}));
  record["peer_password"] = TRY(get_string(answer, "password"));
  CHECK_OK(Record::save(work.context, work.plan.move, record));
  CHECK_OK(write_pass_file(work, get_string_or(record, "peer_password", "")));
  return {};
}

// One cluster on two hosts has one password for each role.
Result<> share_passwords(const Work& work, Json& record) {
  const auto answer = TRY(work.ask("shared_credentials", Json::object()));
  record["own_password"] = record["peer_password"] = TRY(get_string(answer, "password"));
  record["probe_password"] = TRY(get_string(answer, "probe_password"));
  CHECK_OK(Record::save(work.context, work.plan.move, record));
  CHECK_OK(write_pass_file(work, get_string_or(record, "peer_password", "")));
  return {};
}

// New's cluster is to become a copy of old's: what stands before that is that nobody will be let in when it has.
Result<Json> ready_for_seed(const Work& work, Json record) {
  CHECK_OK(road_is_open(work));
  CHECK_OK(set_access(work, "", Access::refused));
  work.at("target.fenced");
  CHECK_OK(work.plan.physical() ? share_passwords(work, record) : swap_passwords(work, record));
  return Json{{"roles", 0}, {"databases", 0}};
}

}  // namespace

Result<Json> apply_target(const Work& work) {
  auto record = TRY(open_record(work));
  if (work.plan.gate.present()) {
    // One password on both sides: the gate has one role.
    record["gate_password"] = TRY(get_string(TRY(work.ask("gate_password", Json::object())), "password"));
    CHECK_OK(Record::save(work.context, work.plan.move, record));
  }
  if (work.plan.copies_cluster()) return ready_for_seed(work, std::move(record));
  CHECK_OK(make_our_roles(work, record));
  work.at("target.roles");
  CHECK_OK(set_access(work, "", Access::refused));
  const auto catalog = TRY(work.ask("dump", {{"schema", true}}));
  const auto missing = TRY(missing_roles(work, catalog));
  for (const auto& name : missing)
    if (!has(record["made_roles"], name)) record["made_roles"].push_back(name);
  for (const auto& name : TRY(conflicting_roles(work, catalog)))
    if (!has(record["made_roles"], name))
      return refused(
          fmt::format("role {} exists on {} with other attributes or another password", name, work.context.host),
          "make both the same, or drop it there");
  for (const auto& database : work.plan.databases) {
    if (!TRY(database_exists(work, database))) {
      if (!has(record["made_databases"], database)) record["made_databases"].push_back(database);
    } else if (!has(record["made_databases"], database)) {
      return refused(fmt::format("database {} exists on {} already", database, work.context.host),
                     "drop or rename it there");
    }
  }
  CHECK_OK(Record::save(work.context, work.plan.move, record));
  work.at("target.recorded");
  CHECK_OK(make_roles(work, catalog, record["made_roles"].get<std::vector<std::string>>()));
  for (const auto& database : work.plan.databases) {
    // The fence stands before the database does.
    if (!TRY(database_exists(work, database))) {
      CHECK_OK(work.run_cluster(members_sql(work.plan, database, true)));
      CHECK_OK(make_database(work, catalog, database));
    }
    work.at("target.database");
    CHECK_OK(prepare_database(work, catalog, database));
  }
  CHECK_OK(swap_passwords(work, record));
  return Json{{"roles", record["made_roles"].size()}, {"databases", record["made_databases"].size()}};
}

Result<> forget_seed(const Work& work) {
  for (const auto& database : work.plan.databases) CHECK_OK(drop_slot(work, work.outgoing(database)));
  return drop_slot(work, work.plan.seed_slot());
}

Result<> forget_streams(const Work& work) {
  if (work.on_old && work.plan.copies_cluster()) CHECK_OK(forget_seed(work));
  if (!TRY(role_exists(work, work.plan.agent_role()))) return {};
  for (const auto& database : work.plan.databases) {
    const auto title = TRY(read_title(work, database));
    if (title.state.empty()) continue;
    CHECK_OK(drop_subscription(work, database));
    CHECK_OK(drop_slot(work, work.outgoing(database)));
  }
  return {};
}

Result<Json> undo_target(const Work& work) {
  if (work.plan.copies_cluster() && TRY(runs_on_copy(work)))
    return refused(fmt::format("{} still runs on the copy of old's cluster", work.context.host), "undo the follow step first");
  const auto record = TRY(Record::load(work.context, work.plan.move));
  if (TRY(role_exists(work, work.plan.agent_role()))) {
    CHECK_OK(refresh_access(work));
    for (const auto& database : work.plan.databases) {
      if (!has(record.value("made_databases", Json::array()), database) || !TRY(database_exists(work, database)))
        continue;
      const auto title = TRY(read_title(work, database));
      if (title.state == "owner" || title.state == "closing" || title.arrived > title.turn)
        return refused(
            fmt::format("{} on {} owns its data: dropping it would lose writes", database, work.context.host),
            "undo the switch first");
      if (!title.state.empty()) CHECK_OK(drop_subscription(work, database));
      if (!title.state.empty()) CHECK_OK(note_made_roles(work, database));
    }
    CHECK_OK(work.ask("forget_streams", Json::object()));
    for (const auto& database : work.plan.databases) {
      CHECK_OK(drop_slot(work, work.outgoing(database)));
      if (!has(record.value("made_databases", Json::array()), database)) continue;
      work.pool.drop(database);
      CHECK_OK(work.run_cluster(fmt::format("DROP DATABASE IF EXISTS {} WITH (FORCE)", ident(database))));
      work.at("undo.target.dropped");
    }
  }
  auto made = TRY(Record::load(work.context, work.plan.move)).value("made_roles", Json::array());
  std::reverse(made.begin(), made.end());
  for (const auto& name : made) CHECK_OK(work.run_cluster("DROP ROLE IF EXISTS " + ident(name.get<std::string>())));
  CHECK_OK(remove_access(work));
  return Json::object();
}

Result<> finish_old(const Work& work) {
  if (work.plan.physical()) return retire_standby(work);
  if (TRY(role_exists(work, work.plan.agent_role()))) {
    for (const auto& database : work.plan.databases) {
      const auto open = TRY(work.run_cluster("SELECT datallowconn FROM pg_database WHERE datname = $1", {database}));
      if (open.size() == 0 || !open.truth(0, 0)) continue;
      const auto title = TRY(read_title(work, database));
      if (title.state == "owner" || title.state == "closing")
        return refused(fmt::format("{} on {} is '{}'", database, work.context.host, title.state), "switch first");
      CHECK_OK(remove_from_database(work, database));
      work.at("finish.old.removed");
      work.pool.drop(database);
      CHECK_OK(work.run_cluster(fmt::format("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false", ident(database))));
      CHECK_OK(
          work.run_cluster("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", {database}));
    }
  }
  return remove_access(work);
}

Result<Json> apply_finish(const Work& work) {
  const bool present = TRY(role_exists(work, work.plan.agent_role()));
  if (!present) return Json{{"finished", true}};
  for (const auto& database : work.plan.databases) {
    const auto title = TRY(read_title(work, database));
    if (!title.state.empty() && title.state != "owner")
      return refused(fmt::format("{} on {} is '{}', not owner", database, work.context.host, title.state),
                     "switch first");
  }
  CHECK_OK(work.ask("finish_old", Json::object()));
  work.at("finish.old");
  for (const auto& database : work.plan.databases) CHECK_OK(remove_from_database(work, database));
  if (work.plan.copies_cluster()) CHECK_OK(settle_copy(work));
  CHECK_OK(remove_access(work));
  return Json{{"finished", true}};
}

}  // namespace midstream::postgres
