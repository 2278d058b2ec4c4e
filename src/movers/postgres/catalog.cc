#include "movers/postgres/catalog.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "movers/postgres/ddl.h"
#include "movers/postgres/identity.h"
#include "movers/postgres/quiet_triggers.h"
#include "sys/child.h"

namespace midstream::postgres {

namespace {

constexpr std::size_t kMostSchema = (16u << 20) - 1;  // what a child's output may be

std::string listed(const std::vector<std::string>& names) {
  std::vector<std::string> quoted;
  for (const auto& name : names) quoted.push_back(quote(name));
  return quoted.empty() ? "''" : join(quoted, ", ");
}

std::string moved_roles(const Work& work) {
  return fmt::format("rolname NOT LIKE 'pg\\_%' AND rolname NOT LIKE 'midstream\\_%' AND rolname <> {}",
                     quote(work.options.superuser));
}

Result<Json> json_of(const Work& work, const std::string& sql) {
  return parse_json(
      TRY(work.run_cluster("SELECT coalesce(jsonb_agg(to_jsonb(x)), '[]') FROM (" + sql + ") x")).text(0, 0));
}

// The server's own programs, as the server's user, with statement logging off.
std::vector<std::string> program(const Work& work, int version, std::string_view name) {
  auto path = fmt::format("/usr/lib/postgresql/{}/bin/{}", version / 10000, name);
  if (!std::filesystem::exists(path)) path = name;
  return {"setpriv",
          fmt::format("--reuid={}", work.options.os_user),
          fmt::format("--regid={}", work.options.os_user),
          "--init-groups",
          "env",
          "PGOPTIONS=-c log_statement=none -c log_min_duration_statement=-1 -c log_min_error_statement=panic "
          "-c log_min_messages=fatal -c midstream.allow=on -c pg_stat_statements.track=none",
          "PGPASSFILE=/dev/null/none",
          "PGAPPNAME=midstream",
          path,
          "-h",
          work.options.socket_dir,
          "-p",
          std::to_string(work.mine().port)};
}

// A line of pg_dump that makes the move's own publication, which old alone has; an application's are carried.
bool is_of_publication(const std::string& line, const std::string& name) {
  for (const std::string_view verb : {"CREATE PUBLICATION ", "ALTER PUBLICATION "})
    if (line.starts_with(fmt::format("{}{} ", verb, name)) || line.starts_with(fmt::format("{}{} ", verb, ident(name)))) return true;
  return false;
}

// With what had been written down of its DDL by then, in `ddl`.
Result<std::string> schema_of(const Work& work, int version, const std::string& database, Json& ddl) {
  auto session = TRY(work.session(database));
  const auto snapshot =
      TRY(session->run("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT pg_export_snapshot()", {}, work.context.deadline, work.context.stop)).text(0, 0);
  ddl = TRY(ddl_rows(*session, work.context.deadline, work.context.stop));
  auto argv = program(work, version, "pg_dump");
  argv.insert(argv.end(), {"-U", work.plan.agent_role(), "--schema-only", "--no-subscriptions",
                           "--no-tablespaces", "--exclude-schema=midstream", "--snapshot=" + snapshot, "-d", "dbname='" + database + "'"});
  const auto exit = TRY(run_child(argv, "", work.context.deadline, work.context.stop));
  CHECK_OK(session->run("COMMIT", {}, work.context.deadline, work.context.stop));
  if (exit.code != 0)
    return refused(fmt::format("pg_dump of the schema of {} failed: {}", database, printable(exit.err.substr(0, 400))));
  if (exit.out.size() >= kMostSchema) return refused(fmt::format("the schema of {} is larger than 16 MiB", database));
  // Our own triggers are made on new by ourselves, with its own title.
  std::string out;
  for (const auto& line : split(exit.out, '\n'))
    if (!is_of_publication(line, work.plan.publication()) && line.find("midstream_deny") == std::string::npos && line.find("midstream.deny_ddl") == std::string::npos &&
        line.find("midstream.record_ddl") == std::string::npos && line.find("midstream.note_actor") == std::string::npos && line.find("EVENT TRIGGER \"!midstream_") == std::string::npos)
      out += line + '\n';
  return out;
}

// An event trigger's statement in a dump spans two lines; ours are left out whole.
std::string without_event_triggers(const std::string& sql, const Plan& plan) {
  const auto names = plan.event_triggers();
  std::string out;
  for (auto rest = std::string_view(sql); !rest.empty();) {
    const auto end = rest.find('\n');
    const auto line = rest.substr(0, end);
    rest = end == std::string_view::npos ? std::string_view{} : rest.substr(end + 1);
    const bool ours = line.find("EVENT TRIGGER") != std::string_view::npos && std::ranges::any_of(names, [&](const auto& one) {
      return line.find(ident(one.first)) != std::string_view::npos || line.find(one.first + " ") != std::string_view::npos;
    });
    if (!ours) out.append(line).append("\n");
  }
  return out;
}

}  // namespace

std::string role_attributes(const Json& role) {
  const auto flag = [&](const char* key, const char* word) {
    return std::string(get_bool_or(role, key, false) ? " " : " NO") + word;
  };
  std::string out =
      flag("rolsuper", "SUPERUSER") + flag("rolinherit", "INHERIT") + flag("rolcreaterole", "CREATEROLE") +
      flag("rolcreatedb", "CREATEDB") + flag("rolcanlogin", "LOGIN") + flag("rolreplication", "REPLICATION") +
      flag("rolbypassrls", "BYPASSRLS") + fmt::format(" CONNECTION LIMIT {}", get_int_or(role, "rolconnlimit", -1));
  const auto verifier = get_string_or(role, "rolpassword", "");
  out += verifier.empty() ? " PASSWORD NULL" : " PASSWORD " + quote(verifier);
  const auto until = get_string_or(role, "rolvaliduntil", "");
  if (!until.empty()) out += " VALID UNTIL " + quote(until);
  return out;
}

// "name=value" of pg_db_role_setting as SET takes it: lists are kept as they are, quoted by the server
// itself.
std::string role_setting(const std::string& entry) {
  static constexpr std::array kLists{"search_path", "temp_tablespaces", "session_preload_libraries",
                                     "local_preload_libraries", "shared_preload_libraries"};
  const auto at = entry.find('=');
  const auto name = entry.substr(0, at);
  const auto value = at == std::string::npos ? "" : entry.substr(at + 1);
  const bool list = std::ranges::find(kLists, name) != kLists.end();
  std::vector<std::string> parts;
  for (const auto& part : split(name, '.')) parts.push_back(ident(part));
  return fmt::format("{} TO {}", join(parts, "."), list && !value.empty() ? value : quote(value));
}

namespace {

constexpr const char* kRolesSql =
    "SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, "
    "rolbypassrls, "
    "rolconnlimit, rolpassword, rolvaliduntil::text FROM pg_authid WHERE ";

}  // namespace

Result<Json> dump_catalog(const Work& work, bool with_schema) {
  Json catalog;
  catalog["roles"] = TRY(json_of(work, kRolesSql + moved_roles(work) + " ORDER BY 1"));
  catalog["memberships"] = TRY(json_of(
      work, fmt::format("SELECT r.rolname AS role, m.rolname AS member, a.admin_option AS admin FROM pg_auth_members "
                        "a JOIN "
                        "pg_roles r ON r.oid = a.roleid JOIN pg_roles m ON m.oid = a.member WHERE m.rolname NOT LIKE "
                        "'midstream\\_%' AND m.rolname NOT LIKE 'pg\\_%' AND r.rolname NOT LIKE 'midstream\\_%' AND "
                        "m.rolname <> {}",
                        quote(work.options.superuser))));
  catalog["settings"] = TRY(json_of(
      work,
      fmt::format("SELECT coalesce(r.rolname, '') AS role, coalesce(d.datname, '') AS database, s.setconfig AS "
                  "config "
                  "FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON "
                  "d.oid = s.setdatabase WHERE (s.setdatabase = 0 OR d.datname IN ({})) AND (s.setrole = 0 OR {})",
                  listed(work.plan.databases), moved_roles(work))));
  const auto databases = TRY(json_of(
      work, fmt::format("SELECT d.datname, pg_encoding_to_char(d.encoding) AS encoding, d.datcollate, d.datctype, "
                        "coalesce(to_jsonb(d)->>'datlocprovider', 'c') AS datlocprovider, coalesce(to_jsonb(d)->>'daticulocale', "
                        "to_jsonb(d)->>'datlocale', '') AS daticulocale, r.rolname AS owner, d.datconnlimit, (SELECT jsonb_agg("
                        "jsonb_build_array(coalesce(g.rolname, ''), a.privilege_type, a.is_grantable)) FROM "
                        "aclexplode(d.datacl) a LEFT JOIN pg_roles g ON g.oid = a.grantee WHERE "
                        "coalesce(g.rolname, '') NOT "
                        "LIKE 'midstream\\_%') AS acl FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba WHERE "
                        "d.datname IN ({})",
                        listed(work.plan.databases))));
  for (const auto& one : databases) catalog["databases"][get_string_or(one, "datname", "")] = one;
  if (!with_schema) return catalog;
  const int version = TRY(work.maintenance()).server_version();
  for (const auto& database : work.plan.databases) {
    catalog["identities"][database] = TRY(given_identities(work, database));
    catalog["quieted"][database] = TRY(quieted_triggers(work, database));
    catalog["schemas"][database] = without_event_triggers(TRY(schema_of(work, version, database, catalog["ddl"][database])), work.plan);
  }
  return catalog;
}

Result<std::vector<std::string>> conflicting_roles(const Work& work, const Json& catalog) {
  const auto here = TRY(json_of(work, kRolesSql + moved_roles(work)));
  std::vector<std::string> out;
  for (const auto& role : catalog.at("roles"))
    for (const auto& mine : here)
      if (mine.at("rolname") == role.at("rolname") && mine != role) out.push_back(get_string_or(role, "rolname", ""));
  return out;
}

Result<std::vector<std::string>> missing_roles(const Work& work, const Json& catalog) {
  const auto here = TRY(work.run_cluster("SELECT rolname FROM pg_roles")).column(0);
  std::vector<std::string> out;
  for (const auto& role : catalog.at("roles")) {
    auto name = get_string_or(role, "rolname", "");
    if (std::ranges::find(here, name) == here.end()) out.push_back(std::move(name));
  }
  return out;
}

Result<> make_roles(const Work& work, const Json& catalog, const std::vector<std::string>& made) {
  const auto ours = [&](const std::string& name) { return std::ranges::find(made, name) != made.end(); };
  const auto missing = TRY(missing_roles(work, catalog));
  for (const auto& role : catalog.at("roles")) {
    const auto name = get_string_or(role, "rolname", "");
    if (std::ranges::find(missing, name) != missing.end())
      CHECK_OK(work.run_cluster(fmt::format("CREATE ROLE {} WITH{}", ident(name), role_attributes(role))));
  }
  for (const auto& one : catalog.at("memberships")) {
    const auto member = get_string_or(one, "member", "");
    if (ours(member) || ours(get_string_or(one, "role", "")))
      CHECK_OK(work.run_cluster(fmt::format("GRANT {} TO {}{}", ident(get_string_or(one, "role", "")), ident(member),
                                            get_bool_or(one, "admin", false) ? " WITH ADMIN OPTION" : "")));
  }
  for (const auto& one : catalog.at("settings")) {
    const auto role = get_string_or(one, "role", "");
    if (!ours(role) || !get_string_or(one, "database", "").empty()) continue;
    for (const auto& entry : one.at("config"))
      CHECK_OK(work.run_cluster(fmt::format("ALTER ROLE {} SET {}", ident(role), role_setting(entry.get<std::string>()))));
  }
  return {};
}

Result<> make_database(const Work& work, const Json& catalog, const std::string& database) {
  const auto& one = catalog.at("databases").at(database);
  auto sql = fmt::format(
      "CREATE DATABASE {} WITH OWNER {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {} "
      "CONNECTION LIMIT 0",
      ident(database), ident(get_string_or(one, "owner", "")), quote(get_string_or(one, "encoding", "")),
      quote(get_string_or(one, "datcollate", "")), quote(get_string_or(one, "datctype", "")));
  if (get_string_or(one, "datlocprovider", "c") == "i")
    sql += fmt::format(" LOCALE_PROVIDER icu ICU_LOCALE {}", quote(get_string_or(one, "daticulocale", "")));
  CHECK_OK(work.run_cluster(sql));
  return {};
}

Result<> grant_database(const Work& work, const Json& one, const std::string& database) {
  if (!one.at("acl").is_array()) return {};
  CHECK_OK(work.run_cluster(fmt::format("REVOKE ALL ON DATABASE {} FROM PUBLIC", ident(database))));
  for (const auto& grant : one.at("acl")) {
    const auto to = grant.at(0).get<std::string>();
    CHECK_OK(work.run_cluster(fmt::format("GRANT {} ON DATABASE {} TO {}{}", grant.at(1).get<std::string>(), ident(database),
                                          to.empty() ? "PUBLIC" : ident(to), grant.at(2).get<bool>() ? " WITH GRANT OPTION" : "")));
  }
  return {};
}

Result<> settle_database(const Work& work, const Json& catalog, const std::string& database) {
  CHECK_OK(grant_database(work, catalog.at("databases").at(database), database));
  for (const auto& set : catalog.at("settings")) {
    if (get_string_or(set, "database", "") != database) continue;
    const auto role = get_string_or(set, "role", "");
    for (const auto& entry : set.at("config")) {
      const auto value = role_setting(entry.get<std::string>());
      CHECK_OK(work.run_cluster(
          role.empty() ? fmt::format("ALTER DATABASE {} SET {}", ident(database), value)
                       : fmt::format("ALTER ROLE {} IN DATABASE {} SET {}", ident(role), ident(database), value)));
    }
  }
  return {};
}

Result<> restore_schema(const Work& work, const Json& catalog, const std::string& database) {
  auto argv = program(work, TRY(work.maintenance()).server_version(), "psql");
  argv.insert(argv.end(), {"-U", work.plan.agent_role(), "-X", "-q", "-v", "ON_ERROR_STOP=1", "--single-transaction",
                           "-d", "dbname='" + database + "'"});
  // Extensions belong to who makes them; our role will be gone.
  const auto sql = fmt::format(
      "SET SESSION AUTHORIZATION {};\n{}\nRESET SESSION AUTHORIZATION;\n{}{}{}COMMENT ON SCHEMA "
      "midstream IS 'filled';\n",
      ident(work.options.superuser), get_string_or(catalog.at("schemas"), database, ""),
      TRY(note_identities_sql(catalog.value("identities", Json::object()).value(database, Json::array()))),
      TRY(note_quieted_sql(catalog.value("quieted", Json::object()).value(database, Json::array()))),
      note_ddl_sql(catalog.value("ddl", Json::object()).value(database, Json::array())));
  const auto exit = TRY(run_child(argv, sql, work.context.deadline, work.context.stop));
  if (exit.code != 0)
    return refused(fmt::format("the schema of {} cannot be restored: {}", database, printable(exit.err.substr(0, 400))),
                   "make new able to hold it (extensions, languages, versions), undo the target step and run it again");
  return {};
}

}  // namespace midstream::postgres
