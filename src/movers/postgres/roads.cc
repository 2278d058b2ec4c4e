#include "movers/postgres/roads.h"

#include <fmt/format.h>
#include <locale.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/text.h"
#include "movers/postgres/seed_backup.h"
#include "movers/postgres/seed_place.h"
#include "movers/postgres/server_unit.h"

namespace midstream::postgres {

namespace {

namespace fs = std::filesystem;

using Names = std::vector<std::string>;

// Of the switch's hold, on two cores (docs/PERFORMANCE.md). A clean stop writes what is dirty since the checkpoint just before, and ends
// every process; a promotion ends recovery.
constexpr const char* kPauseByRows = "predicted pause 0.1 to 0.3 s";
constexpr const char* kPauseByStop = "predicted pause 0.3 to 0.8 s (a clean stop, and a promotion)";

Names list_of(const Json& facts, const char* key) { return facts.value(key, Names{}); }

// What is in control data must be the same: the copy is read by new's programs as it lies on old's disk.
constexpr const char* kControlSql =
    "SELECT to_jsonb(c) - 'bytes_per_wal_segment' FROM pg_control_init() c";

// Those whose meaning the operating system or a library gives; the C locale has none.
constexpr const char* kCollationsSql =
    "SELECT coalesce(jsonb_object_agg(name, version), '{}') FROM (SELECT DISTINCT collprovider::text || ' ' || collname AS name, "
    "pg_collation_actual_version(oid) AS version FROM pg_collation WHERE pg_collation_actual_version(oid) IS NOT NULL) x";

constexpr const char* kLibrariesSql = "SELECT DISTINCT probin FROM pg_proc WHERE probin IS NOT NULL AND prolang = (SELECT oid FROM pg_language WHERE lanname = 'c')";

std::string list_sql(std::string_view what, std::string_view from) {
  return fmt::format("(SELECT coalesce(jsonb_agg({} ORDER BY 1), '[]') FROM {})", what, from);
}

Result<Json> cluster_lists(const Work& work) {
  const bool recent = TRY(work.run_cluster("SHOW server_version_num")).number(0, 0) >= 150000;
  return parse_json(
      TRY(work.run_cluster(fmt::format(
              "SELECT jsonb_build_object('control', ({}), 'collations', ({}), 'checksums', current_setting('data_checksums'), 'prepared', "
              "current_setting('max_prepared_transactions')::int, 'databases', {}, 'roles', {}, 'subscriptions', {}, 'slots', {}, 'tablespaces', {}, "
              "'locales', {}, 'managers', {}, 'settings', (SELECT jsonb_object_agg(name, setting) FROM pg_settings WHERE name IN ('max_connections', "
              "'max_worker_processes', 'max_wal_senders', 'max_prepared_transactions', 'max_locks_per_transaction', 'hot_standby')), 'level', "
              "current_setting('wal_level'), 'source', current_setting('primary_conninfo'), 'bytes', (SELECT sum(pg_database_size(oid)) FROM pg_database)::bigint + (SELECT sum(size) FROM pg_ls_waldir())::bigint)",
              kControlSql, kCollationsSql, list_sql("datname", "pg_database WHERE NOT datistemplate AND datname <> 'postgres'"),
              list_sql("rolname", fmt::format("pg_roles WHERE rolname NOT LIKE 'pg\\_%' AND rolname NOT LIKE 'midstream\\_%' AND rolname <> {}",
                                              quote(work.options.superuser))),
              list_sql("subname", "pg_subscription WHERE subname NOT LIKE 'midstream\\_%'"),
              list_sql("slot_name", "pg_replication_slots WHERE slot_name NOT LIKE 'midstream\\_%'"),
              list_sql("spcname", "pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')"),
              list_sql("name", "(SELECT DISTINCT unnest(ARRAY[datcollate, datctype]) AS name FROM pg_database) x"),
              recent ? list_sql("rm_name", "pg_get_wal_resource_managers() WHERE NOT rm_builtin") : "'[]'::jsonb")))
          .text(0, 0));
}

// A database that takes nobody is not looked into.
Result<Names> libraries(const Work& work) {
  std::set<std::string> all;
  const auto ours = TRY(work.run_cluster("SELECT 1 FROM pg_roles WHERE rolname = $1", {work.plan.agent_role()})).size() > 0;
  for (const auto& database : work.plan.databases) {
    const auto open = TRY(work.run_cluster("SELECT datallowconn FROM pg_database WHERE datname = $1", {database}));
    if (open.size() == 0 || !open.truth(0, 0)) continue;
    const auto user = ours ? work.plan.agent_role() : work.options.superuser;
    auto session = TRY(work.pool.get(work.target(database, user), work.context.deadline, work.context.stop));
    for (const auto& name : TRY(session->run(kLibrariesSql, {}, work.context.deadline, work.context.stop)).column(0)) all.insert(name);
  }
  return Names(all.begin(), all.end());
}

bool has_locale(const std::string& name) {
  const locale_t made = ::newlocale(LC_COLLATE_MASK | LC_CTYPE_MASK, name.c_str(), nullptr);
  if (made == nullptr) return false;
  ::freelocale(made);
  return true;
}

bool is_mount_point(const fs::path& path) {
  struct stat own {}, above {};
  return ::stat(path.c_str(), &own) == 0 && ::stat(path.parent_path().c_str(), &above) == 0 && own.st_dev != above.st_dev;
}

// Why the data directory cannot change places with another; "" where it can.
std::string unfit_directory(const fs::path& data) {
  std::error_code ignored;
  if (fs::is_symlink(data, ignored)) return fmt::format("{} is a link: give the server the directory itself", data.native());
  if (is_mount_point(data)) return fmt::format("{} is a file system of its own: put the cluster into a directory of it", data.native());
  if (fs::is_symlink(data / "pg_wal", ignored)) return fmt::format("{}/pg_wal is a link to another place", data.native());
  return "";
}

// What new's host alone can say: its disk, its programs, its supervisor.
Result<Json> host_facts(const Work& work, int major, Json facts) {
  const fs::path data = TRY(work.run_cluster("SHOW data_directory")).text(0, 0);
  facts["copy"] = is_copy(data);
  facts["unfit_directory"] = unfit_directory(data);
  struct statvfs room {};
  if (::statvfs(data.c_str(), &room) == 0)
    facts["free"] = static_cast<std::int64_t>(room.f_bavail) * static_cast<std::int64_t>(room.f_frsize);
  const auto programs = server_programs(major);
  facts["programs"] = programs ? "" : programs.error().what;
  const auto unit = find_server_unit(work, data);
  facts["unit"] = unit ? words_of(*unit) : "";
  facts["no_unit"] = unit ? "" : unit.error().what;
  facts["library_directory"] = TRY(work.run_cluster("SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'")).text(0, 0);
  return facts;
}

// What old's C functions are in that new has not: looked for on this host, new's, by the names that old gave.
Names missing_libraries(const Json& old_facts, const Json& new_facts) {
  const auto directory = get_string_or(new_facts, "library_directory", "");
  const auto present = list_of(new_facts, "library_files");
  const std::set<std::string> known(present.begin(), present.end());
  Names missing;
  for (const auto& name : list_of(old_facts, "libraries")) {
    auto bare = name.starts_with("$libdir/") ? name.substr(8) : name;
    if (bare.starts_with(directory + "/")) bare = bare.substr(directory.size() + 1);
    if (bare.ends_with(".so")) bare.resize(bare.size() - 3);
    std::error_code ignored;
    const bool elsewhere = bare.starts_with('/') && fs::exists(bare + ".so", ignored);
    if (!elsewhere && !known.contains(bare)) missing.push_back(name);
  }
  return missing;
}

Names library_files(const fs::path& directory) {
  Names names;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(directory, ignored))
    if (entry.path().extension() == ".so") names.push_back(entry.path().stem());
  return names;
}

std::string listed(std::string_view what, const Names& names) { return names.empty() ? "" : fmt::format("{}: {}", what, join(names, ", ")); }

Names without(Names names, const Names& others) {
  std::erase_if(names, [&](const auto& name) { return std::ranges::find(others, name) != others.end(); });
  return names;
}

std::string differing_collations(const Json& ours, const Json& theirs) {
  Names differing;
  for (const auto& [name, version] : ours.items())
    if (theirs.contains(name) && theirs.at(name) != version) differing.push_back(name.substr(2));
  if (differing.empty()) return "";
  const auto count = differing.size();
  if (count > 3) differing.resize(3);
  return fmt::format("{} collations sort by other rules on new (another C library or ICU): {}{}", count, join(differing, ", "), count > 3 ? " ..." : "");
}

std::string differing_control(const Json& ours, const Json& theirs) {
  Names differing;
  for (const auto& [key, value] : ours.items())
    if (!theirs.contains(key) || theirs.at(key) != value) differing.push_back(fmt::format("{} {}", key, value.dump()));
  return listed("the clusters are laid out otherwise (old has)", differing);
}

}  // namespace

Result<Json> road_facts(const Work& work) {
  auto facts = TRY(cluster_lists(work));
  const auto version = TRY(work.run_cluster("SHOW server_version_num")).number(0, 0);
  facts["major"] = version / 10000;
  utsname machine{};
  ::uname(&machine);
  facts["machine"] = machine.machine;
  facts["libraries"] = TRY(libraries(work));
  if (work.on_old) return facts;
  facts = TRY(host_facts(work, static_cast<int>(version / 10000), std::move(facts)));
  facts["library_files"] = library_files(get_string_or(facts, "library_directory", ""));
  return facts;
}

Names why_not_seeded(const Plan& plan, const Json& old_facts, const Json& new_facts) {
  if (get_bool_or(new_facts, "copy", false)) return {};  // it has become one
  Names why;
  const auto add = [&](std::string words) {
    if (!words.empty()) why.push_back(std::move(words));
  };
  const auto differs = [&](const char* key, std::string_view what) {
    if (old_facts.value(key, Json()) != new_facts.value(key, Json()))
      add(fmt::format("{}: {} on old, {} on new", what, old_facts.value(key, Json()).dump(), new_facts.value(key, Json()).dump()));
  };
  differs("major", "another major version");
  differs("machine", "another architecture");
  differs("checksums", "data checksums");
  add(differing_control(old_facts.value("control", Json::object()), new_facts.value("control", Json::object())));
  add(differing_collations(old_facts.value("collations", Json::object()), new_facts.value("collations", Json::object())));
  Names unknown;
  for (const auto& name : list_of(old_facts, "locales"))
    if (!has_locale(name)) unknown.push_back(name);
  add(listed("locales that new has not", unknown));
  add(listed("databases on old that are not in the move", without(list_of(old_facts, "databases"), plan.databases)));
  add(listed("tablespaces on old", list_of(old_facts, "tablespaces")));
  add(listed("subscriptions on old, which a copy would have too", list_of(old_facts, "subscriptions")));
  add(listed("extensions on old that write records of their own into the log", list_of(old_facts, "managers")));
  add(listed("libraries of old's functions that new has not", missing_libraries(old_facts, new_facts)));
  add(listed("new's cluster is not empty: databases", list_of(new_facts, "databases")));
  add(listed("new's cluster is not empty: roles that old has not", without(list_of(new_facts, "roles"), list_of(old_facts, "roles"))));
  add(listed("new's cluster is not empty: slots", list_of(new_facts, "slots")));
  add(listed("new's cluster is not empty: subscriptions", list_of(new_facts, "subscriptions")));
  add(listed("new's cluster is not empty: tablespaces", list_of(new_facts, "tablespaces")));
  if (get_int_or(new_facts, "prepared", 0) < get_int_or(old_facts, "prepared", 0))
    add(fmt::format("max_prepared_transactions is {} on new and {} on old", get_int_or(new_facts, "prepared", 0), get_int_or(old_facts, "prepared", 0)));
  const auto needed = get_int_or(old_facts, "bytes", 0) * 11 / 10 + (128 << 20);
  if (get_int_or(new_facts, "free", 0) < needed)
    add(fmt::format("not enough room on new: {} MiB needed, {} MiB free", needed >> 20, get_int_or(new_facts, "free", 0) >> 20));
  for (const char* key : {"unfit_directory", "programs", "no_unit"}) add(get_string_or(new_facts, key, ""));
  return why;
}

Names why_not_physical(const Plan& plan, const Json& old_facts, const Json& new_facts) {
  auto why = why_not_seeded(plan, old_facts, new_facts);
  if (get_string_or(plan.raw, "reverse", "") == "sync") why.push_back("reverse: sync is not there yet on this road");
  if (plan.databases.size() > 1) why.push_back("more than one database in the move: not there yet");
  // A standby with less than its primary does not start, and each will be the other's.
  const auto ours = old_facts.value("settings", Json::object());
  const auto theirs = new_facts.value("settings", Json::object());
  for (const auto& [name, value] : ours.items())
    if (theirs.value(name, Json("")) != value) why.push_back(fmt::format("{} is {} on old and {} on new", name, value.dump(), theirs.value(name, Json()).dump()));
  if (ours.value("hot_standby", "on") != "on") why.push_back("hot_standby is off");
  for (const auto& [where, facts] : {std::pair{"old", &old_facts}, std::pair{"new", &new_facts}})
    if (get_string_or(*facts, "level", "") == "minimal") why.push_back(fmt::format("wal_level is minimal on {}", where));
  const auto source = get_string_or(old_facts, "source", "");
  if (!source.empty() && source.find(plan.seed_slot()) == std::string::npos) why.push_back("old has a primary_conninfo of its own, from when it was a standby");
  return why;
}

Result<> road_is_open(const Work& work) {
  const auto old_facts = TRY(work.ask("road_facts", Json::object()));
  const auto new_facts = TRY(road_facts(work));
  const auto why = work.plan.physical() ? why_not_physical(work.plan, old_facts, new_facts) : why_not_seeded(work.plan, old_facts, new_facts);
  if (why.empty()) return {};
  return refused(fmt::format("the {} road is closed: {}", work.plan.road, join(why, "; ")), "change that, or take the logical road");
}

void check_roads(const Plan& plan, const Json& old_facts, const Json& new_facts, Json& findings) {
  const auto add = [&](const char* road, const Names& why, std::string_view pause) {
    const bool taken = plan.road == road;
    const bool fits = why.empty() || !taken;
    findings.push_back(finding(fmt::format("road {}{}", road, taken ? " (taken)" : ""), fits,
                               why.empty() ? fmt::format("open; {}", pause) : "closed: " + join(why, "; "),
                               fits ? "" : "change what closes it, or take the logical road (road: logical)"));
  };
  const bool logical = plan.road == "logical";
  findings.push_back(finding(fmt::format("road logical{}", logical ? " (taken)" : ""), true, fmt::format("open where the other findings say so; {}", kPauseByRows)));
  add("seeded", why_not_seeded(plan, old_facts, new_facts), kPauseByRows);
  add("physical", why_not_physical(plan, old_facts, new_facts), kPauseByStop);
}

}  // namespace midstream::postgres
