#include "movers/postgres/recopy.h"

#include <fmt/format.h>

#include <algorithm>

#include "sys/log.h"

namespace midstream::postgres {

namespace {

// Tables at the end of their copy, with the name of the slot that each needs to go on (ReplicationSlotNameForTablesync).
constexpr const char* kEndingCopies =
    "SELECT r.srrelid, format('%I.%I', n.nspname, c.relname), 'pg_' || s.oid || '_sync_' || r.srrelid || '_' || "
    "(SELECT system_identifier FROM pg_control_system()) FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = "
    "r.srsubid JOIN pg_database d ON d.oid = s.subdbid JOIN pg_class c ON c.oid = r.srrelid JOIN pg_namespace n ON n.oid "
    "= c.relnamespace WHERE s.subname = $1 AND d.datname = current_database() AND r.srsubstate = 'f' ORDER BY 1";

// {0} the subscription, {1} the same as a literal, {2} the table's oid, {3} its name. The ALTER changes nothing: it takes
// the lock that whoever sets a table's state holds until it commits. TRUNCATE is refused where foreign keys point at the
// table. The origin goes last: its position does not come back with a ROLLBACK.
constexpr const char* kCopyAnew =
    "BEGIN; SET LOCAL midstream.allow = 'on'; SET LOCAL session_replication_role = replica; SET LOCAL lock_timeout = "
    "'5s'; SET LOCAL synchronous_commit = 'on'; ALTER SUBSCRIPTION {0} SET (binary = false); DO $body$ DECLARE sub oid; "
    "BEGIN "
    "PERFORM FROM midstream.owner WHERE state = 'standby' AND turn = 0 FOR UPDATE; "
    "IF NOT FOUND OR EXISTS (SELECT FROM midstream.handover) THEN RETURN; END IF; "
    "SELECT r.srsubid INTO sub FROM pg_subscription_rel r JOIN pg_subscription s ON s.oid = r.srsubid WHERE s.subname = "
    "{1} AND s.subdbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND r.srrelid = {2} AND "
    "r.srsubstate = 'f'; IF sub IS NULL THEN RETURN; END IF; "
    "BEGIN TRUNCATE ONLY {3}; EXCEPTION WHEN feature_not_supported THEN DELETE FROM ONLY {3}; END; "
    "UPDATE pg_subscription_rel SET srsubstate = 'i', srsublsn = NULL WHERE srsubid = sub AND srrelid = {2}; "
    "PERFORM set_config('midstream.copied_anew', 'yes', false); "
    "IF EXISTS (SELECT FROM pg_replication_origin WHERE roname = 'pg_' || sub || '_{2}') THEN "
    "PERFORM pg_replication_origin_drop('pg_' || sub || '_{2}'); END IF; END $body$; COMMIT";

}  // namespace

Result<LostCopies> find_lost_copies(const Work& work, const std::string& database) {
  const auto ending = TRY(work.run(database, kEndingCopies, {work.incoming(database)}));
  LostCopies lost;
  if (ending.size() == 0) return lost;
  Json names = Json::array();
  for (int i = 0; i < ending.size(); ++i) names.push_back(ending.text(i, 2));
  const auto answer = TRY(work.ask("which_slots", {{"names", names}}));
  const auto there = TRY(get_strings(answer, "there"));
  for (int i = 0; i < ending.size(); ++i)
    if (std::ranges::find(there, ending.text(i, 2)) == there.end())
      lost.insert({ending.text(i, 0), ending.text(i, 1)});
  return lost;
}

Result<Json> which_slots(const Work& work, const Json& args) {
  const auto asked = TRY(get_strings(args, "names"));
  const auto there = TRY(work.run_cluster("SELECT slot_name FROM pg_replication_slots")).column(0);
  Json found = Json::array();
  for (const auto& name : asked)
    if (std::ranges::find(there, name) != there.end()) found.push_back(name);
  return Json{{"there", found}};
}

Result<bool> copy_anew(const Work& work, const std::string& database, const LostCopy& lost) {
  const auto name = work.incoming(database);
  const auto& context = work.context;
  auto session = TRY(work.session(database));
  const auto present = TRY(session->run("SELECT 1 FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE "
                                        "subname = $1 AND datname = current_database()",
                                        {name}, context.deadline, context.stop));
  if (present.size() == 0) return false;
  CHECK_OK(session->run("SET midstream.copied_anew = 'no'", {}, context.deadline, context.stop));
  CHECK_OK(session->run(fmt::format(kCopyAnew, ident(name), quote(name), lost.relation, lost.name), {},
                        context.deadline, context.stop));
  const auto done = TRY(session->run("SHOW midstream.copied_anew", {}, context.deadline, context.stop));
  return done.text(0, 0) == "yes";
}

Result<> copy_lost_ones_anew(const Work& work, LostCopyNotes& notes) {
  for (const auto& database : work.plan.databases) {
    for (const auto& one : notes.get(work.plan.move, database)) {
      if (TRY(copy_anew(work, database, one)))
        log_warn("postgres", "move {}: the copy of {} in {} could not go on, for its slot on {} is gone; it begins again",
                 work.plan.move, one.name, database, work.theirs().host);
      notes.remove(work.plan.move, database, one);
    }
  }
  return {};
}

void LostCopyNotes::put(const std::string& move, const std::string& database, LostCopies lost) {
  const std::lock_guard lock(mutex_);
  notes_[{move, database}] = std::move(lost);
}

void LostCopyNotes::remove(const std::string& move, const std::string& database, const LostCopy& one) {
  const std::lock_guard lock(mutex_);
  if (const auto found = notes_.find({move, database}); found != notes_.end()) found->second.erase(one);
}

std::set<std::string> LostCopyNotes::moves() const {
  const std::lock_guard lock(mutex_);
  std::set<std::string> names;
  for (const auto& [key, lost] : notes_)
    if (!lost.empty()) names.insert(key.first);
  return names;
}

LostCopies LostCopyNotes::get(const std::string& move, const std::string& database) const {
  const std::lock_guard lock(mutex_);
  const auto found = notes_.find({move, database});
  return found == notes_.end() ? LostCopies() : found->second;
}

}  // namespace midstream::postgres
