#include "movers/postgres/seed_adopt.h"

#include <fmt/format.h>

#include "base/text.h"
#include "movers/postgres/fence.h"
#include "movers/postgres/schema_sql.h"
#include "movers/postgres/setup.h"
#include "movers/postgres/title.h"

namespace midstream::postgres {

namespace {

#define MIDSTREAM_QUIET_DDL "BEGIN; SET LOCAL synchronous_commit = 'on'; SET LOCAL midstream.allow = 'on'; SET LOCAL session_replication_role = replica; "

// Of this move, both directions, as a list of literals.
std::string own_subscriptions(const Plan& plan) {
  std::vector<std::string> names;
  for (const auto& database : plan.databases)
    for (const bool forward : {true, false}) names.push_back(quote(plan.stream(database, forward)));
  return join(names, ", ");
}

// Those that old had towards new, from an earlier turn of the same move. Without a slot of theirs being touched.
Result<> drop_own_subscriptions(const Work& work, const std::string& database) {
  const auto names = TRY(work.run(database,
                                  fmt::format("SELECT quote_ident(subname) FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE "
                                              "datname = current_database() AND subname IN ({})",
                                              own_subscriptions(work.plan))));
  for (const auto& name : names.column(0))
    CHECK_OK(work.run(database, fmt::format(MIDSTREAM_QUIET_DDL "ALTER SUBSCRIPTION {0} SET (slot_name = NONE); DROP SUBSCRIPTION {0}; COMMIT", name)));
  return {};
}

// What was prepared before the slots' point is committed behind it, if at all, and then comes by them: here it would only stand in its
// own way (tried: apply waits for it for ever).
Result<> roll_prepared_back(const Work& work, const std::string& database) {
  const auto gids = TRY(work.run(database, "SELECT quote_literal(gid) FROM pg_prepared_xacts WHERE database = current_database()"));
  for (const auto& gid : gids.column(0)) CHECK_OK(work.run(database, "ROLLBACK PREPARED " + gid));
  return {};
}

Result<> take_title_away(const Work& work, const std::string& database) {
  // A hand-over that old has seen is not one that arrived here.
  CHECK_OK(work.run(database, fmt::format(MIDSTREAM_QUIET_DDL "TRUNCATE midstream.handover; UPDATE midstream.owner SET state = 'standby', turn = 0, began "
                                                              "= NULL, since = now(); ALTER DATABASE {} CONNECTION LIMIT 0; {} COMMIT",
                                          ident(database), members_sql(work.plan, database, true))));
  return {};
}

}  // namespace

Result<> adopt_copy(const Work& work) {
  // In all databases at once; what they were is the operator's to begin again, on the side that owns.
  CHECK_OK(work.run_cluster("UPDATE pg_catalog.pg_subscription SET subenabled = false WHERE subenabled"));
  CHECK_OK(roll_prepared_back(work, "postgres"));
  for (const auto& database : work.plan.databases) {
    CHECK_OK(roll_prepared_back(work, database));
    CHECK_OK(drop_own_subscriptions(work, database));
  }
  CHECK_OK(make_own_roles(work));
  work.at("seed.roles");
  for (const auto& database : work.plan.databases) {
    CHECK_OK(take_title_away(work, database));
    CHECK_OK(make_triggers(work, database));  // tables that old has got since its side was set up
  }
  return {};
}

Result<> copy_is_fenced(const Work& work) {
  std::vector<std::string> faults;
  const auto subscriptions = TRY(work.run_cluster(fmt::format("SELECT count(*) FROM pg_subscription WHERE subenabled AND subname NOT IN ({})",
                                                              own_subscriptions(work.plan))))
                                 .number(0, 0);
  if (subscriptions > 0) faults.push_back(fmt::format("{} subscriptions are on", subscriptions));
  for (const auto& database : work.plan.databases) {
    const auto title = TRY(read_title(work, database));
    if (title.state != "standby" || title.turn != 0 || title.arrived != 0)
      faults.push_back(fmt::format("the title of {} is '{}', turn {}, arrived {}", database, title.state, title.turn, title.arrived));
    const auto open = TRY(work.run(
        database, fmt::format("SELECT (SELECT datconnlimit FROM pg_database WHERE datname = current_database()), (SELECT count(*) FROM pg_roles WHERE "
                              "rolsuper AND rolcanlogin AND rolname NOT IN ({0}, {1}) AND NOT EXISTS (SELECT FROM pg_auth_members m WHERE m.member = "
                              "pg_roles.oid AND m.roleid = {2}::regrole)), (SELECT count(*) FROM ({3}) AS t (name, kind, persistence, oid) WHERE NOT "
                              "EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = t.oid AND g.tgname = 'midstream_deny' AND g.tgenabled = 'A')), ({4})",
                              quote(work.plan.agent_role()), quote(work.plan.gate_role()), quote(ident(work.plan.fence_role(database))), kTablesSql,
                              missing_event_triggers_sql(work.plan))));
    if (open.number(0, 0) != 0) faults.push_back(fmt::format("{} takes {} connections", database, open.number(0, 0)));
    if (open.number(0, 1) != 0) faults.push_back(fmt::format("{} superusers are not fenced off from {}", open.number(0, 1), database));
    if (open.number(0, 2) != 0) faults.push_back(fmt::format("{} tables of {} have no deny trigger", open.number(0, 2), database));
    if (open.number(0, 3) != 0) faults.push_back(fmt::format("{} has not its event triggers", database));
  }
  if (faults.empty()) return {};
  return corrupt(fmt::format("the copy on {} is not fenced: {}", work.context.host, join(faults, "; ")), "roll back, and tell the authors: nobody was let in");
}

}  // namespace midstream::postgres
