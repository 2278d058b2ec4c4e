#include "movers/postgres/shared.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/text.h"
#include "movers/postgres/catalog.h"
#include "movers/postgres/fence.h"
#include "movers/postgres/setup.h"
#include "movers/postgres/title.h"

namespace midstream::postgres {

namespace {

using Named = std::map<std::string, Json>;

// The catalog's list `key` by what names one of it.
Named by_name(const Json& catalog, const char* key, const std::vector<const char*>& parts) {
  Named out;
  for (const auto& one : catalog.value(key, Json::array())) {
    std::string name;
    for (const auto* part : parts) name += (name.empty() ? "" : " in ") + get_string_or(one, part, "");
    out[name] = one;
  }
  return out;
}

std::vector<std::string> differing(const Named& theirs, const Named& mine) {
  std::vector<std::string> out;
  for (const auto& [name, one] : theirs)
    if (const auto found = mine.find(name); found == mine.end() || found->second != one) out.push_back(name);
  return out;
}

class Carrying {
 public:
  Carrying(const Work& work, const Json& theirs, Json mine, std::set<std::string> made)
      : work_(work), theirs_(theirs), mine_(std::move(mine)), made_(std::move(made)) {}

  Result<> roles() {
    const auto theirs = by_name(theirs_, "roles", {"rolname"}), mine = by_name(mine_, "roles", {"rolname"});
    for (const auto& name : differing(theirs, mine)) {
      const bool there = mine.contains(name);
      if (there && !may_alter(name)) others_.push_back("role " + name);
      if (there && !may_alter(name)) continue;
      CHECK_OK(work_.run_cluster(fmt::format("{} ROLE {} WITH{}", there ? "ALTER" : "CREATE", ident(name), role_attributes(theirs.at(name)))));
      made_.insert(name);
      changed_.push_back("role " + name);
    }
    // What the giver has dropped stays, if it is the move's, without a way in: what it owns here is not ours to drop.
    for (const auto& [name, one] : mine) {
      if (theirs.contains(name) || !made_.contains(name) || !get_bool_or(one, "rolcanlogin", false)) continue;
      CHECK_OK(work_.run_cluster(fmt::format("ALTER ROLE {} NOLOGIN", ident(name))));
      changed_.push_back(fmt::format("role {} (dropped on the other side: NOLOGIN)", name));
    }
    return {};
  }

  Result<> memberships() {
    const auto theirs = by_name(theirs_, "memberships", {"role", "member"}), mine = by_name(mine_, "memberships", {"role", "member"});
    for (const auto& name : differing(theirs, mine)) {
      const auto& one = theirs.at(name);
      if (may_alter_membership(one)) CHECK_OK(membership("GRANT", "TO", one));
    }
    for (const auto& [name, one] : mine)
      if (!theirs.contains(name) && both_move(one) && may_alter_membership(one)) CHECK_OK(membership("REVOKE", "FROM", one));
    return {};
  }

  Result<> settings() {
    const auto theirs = by_name(theirs_, "settings", {"role", "database"}), mine = by_name(mine_, "settings", {"role", "database"});
    for (const auto& name : differing(theirs, mine)) CHECK_OK(set(theirs.at(name)));
    for (const auto& [name, one] : mine)
      if (!theirs.contains(name)) CHECK_OK(set(Json{{"role", one.at("role")}, {"database", one.at("database")}, {"config", Json::array()}}));
    return {};
  }

  Result<> databases() {
    for (const auto& database : work_.plan.databases) {
      const auto& theirs = theirs_.at("databases").at(database);
      const auto& mine = mine_.at("databases").at(database);
      if (theirs.at("owner") != mine.at("owner")) {
        CHECK_OK(work_.run_cluster(fmt::format("ALTER DATABASE {} OWNER TO {}", ident(database), ident(get_string_or(theirs, "owner", "")))));
        changed_.push_back("owner of database " + database);
      }
      if (rights(theirs) == rights(mine)) continue;
      for (const auto& right : mine.at("acl").is_array() ? mine.at("acl") : Json::array())
        if (const auto to = right.at(0).get<std::string>(); !to.empty())
          CHECK_OK(work_.run_cluster(fmt::format("REVOKE ALL ON DATABASE {} FROM {}", ident(database), ident(to))));
      if (theirs.at("acl").is_array()) CHECK_OK(grant_database(work_, theirs, database));
      else CHECK_OK(work_.run_cluster(fmt::format("GRANT CONNECT, TEMPORARY ON DATABASE {} TO PUBLIC", ident(database))));
      CHECK_OK(let_in(work_, database));
      changed_.push_back("rights on database " + database);
    }
    return {};
  }

  const std::vector<std::string>& changed() const { return changed_; }
  const std::vector<std::string>& others() const { return others_; }
  const std::set<std::string>& made() const { return made_; }

 private:
  // On old, and on a copy of it, all that moves is the production's own; on new, what was there before the move is not the move's.
  bool may_alter(const std::string& role) const { return work_.on_old || work_.plan.copies_cluster() || made_.contains(role); }

  bool may_alter_membership(const Json& one) const { return may_alter(get_string_or(one, "role", "")) || may_alter(get_string_or(one, "member", "")); }

  bool both_move(const Json& one) const {
    const auto known = by_name(theirs_, "roles", {"rolname"});
    return known.contains(get_string_or(one, "role", "")) && known.contains(get_string_or(one, "member", ""));
  }

  Result<> membership(std::string_view verb, std::string_view towards, const Json& one) {
    const auto role = get_string_or(one, "role", ""), member = get_string_or(one, "member", "");
    const bool admin = verb == "GRANT" && get_bool_or(one, "admin", false);
    if (verb == "GRANT" && !admin) CHECK_OK(work_.run_cluster(fmt::format("REVOKE ADMIN OPTION FOR {} FROM {}", ident(role), ident(member))));
    CHECK_OK(work_.run_cluster(fmt::format("{} {} {} {}{}", verb, ident(role), towards, ident(member), admin ? " WITH ADMIN OPTION" : "")));
    changed_.push_back(fmt::format("membership of {} in {}", member, role));
    return {};
  }

  Result<> set(const Json& one) {
    const auto role = get_string_or(one, "role", ""), database = get_string_or(one, "database", "");
    if (database.empty() && (role.empty() || !may_alter(role))) return {};  // of all roles, or of one of new's own: they stay as they are
    const auto whose = role.empty()       ? "DATABASE " + ident(database)
                       : database.empty() ? "ROLE " + ident(role)
                                          : fmt::format("ROLE {} IN DATABASE {}", ident(role), ident(database));
    CHECK_OK(work_.run_cluster(fmt::format("ALTER {} RESET ALL", whose)));
    for (const auto& entry : one.at("config")) CHECK_OK(work_.run_cluster(fmt::format("ALTER {} SET {}", whose, role_setting(entry.get<std::string>()))));
    changed_.push_back(fmt::format("settings of {}", role.empty() ? "database " + database : "role " + role));
    return {};
  }

  static std::set<std::string> rights(const Json& database) {
    std::set<std::string> out;
    for (const auto& right : database.at("acl").is_array() ? database.at("acl") : Json::array()) out.insert(right.dump());
    return out;
  }

  const Work& work_;
  const Json& theirs_;
  const Json mine_;
  std::set<std::string> made_;
  std::vector<std::string> changed_;
  std::vector<std::string> others_;
};

Result<> keep_made(const Work& work, const std::set<std::string>& made) {
  auto record = TRY(Record::load(work.context, work.plan.move));
  auto all = record.value("made_roles", Json::array());
  for (const auto& name : made)
    if (std::ranges::none_of(all, [&](const Json& one) { return one == name; })) all.push_back(name);
  record["made_roles"] = std::move(all);
  return Record::save(work.context, work.plan.move, record);
}

}  // namespace

Result<> note_made_roles(const Work& work, const std::string& database) {
  if (TRY(work.run(database, "SELECT to_regclass('midstream.made_roles') IS NULL")).truth(0, 0)) return {};
  const auto names = TRY(work.run(database, "SELECT role FROM midstream.made_roles")).column(0);
  return keep_made(work, {names.begin(), names.end()});
}

Result<Json> carry_shared(const Work& work, const Json& args) {
  if (!work.on_old)
    for (const auto& database : work.plan.databases) CHECK_OK(note_made_roles(work, database));
  const auto catalog = TRY(get_object(args, "catalog"));
  const auto made = TRY(Record::load(work.context, work.plan.move)).value("made_roles", Json::array()).get<std::set<std::string>>();
  Carrying carrying(work, catalog, TRY(dump_catalog(work, false)), made);
  CHECK_OK(carrying.roles());
  if (!work.on_old) CHECK_OK(keep_made(work, carrying.made()));
  // A superuser that has come is behind the fence like the others.
  for (const auto& database : work.plan.databases)
    if (TRY(read_title(work, database)).state != "owner") CHECK_OK(work.run_cluster(members_sql(work.plan, database, true)));
  CHECK_OK(carrying.memberships());
  CHECK_OK(carrying.settings());
  CHECK_OK(carrying.databases());
  if (!carrying.others().empty())
    return refused(fmt::format("{} on {} is otherwise than on {} now, and was there before the move", join(carrying.others(), ", "), work.context.host, work.theirs().host),
                   "make both the same, or drop it there");
  return Json{{"changed", carrying.changed()}};
}

}  // namespace midstream::postgres
