#include "movers/postgres/fence.h"

#include <fmt/format.h>

#include <thread>

#include "base/text.h"
#include "movers/postgres/schema_sql.h"
#include "movers/postgres/title.h"

namespace midstream::postgres {

namespace {

constexpr Millis kRehearsal{5000};

// Ends what the fence must not leave: everything but ourselves, walsenders, apply workers, the server's own housekeeping, and
// those of $1 that are at rest. Not by the view pg_stat_activity: clients wait, and with hundreds of backends its joins cost
// more than the list itself. Where a backend does not say what it does (track_activities = off), it is at rest if it holds no
// virtual transaction; that list is read once, and only then.
std::string end_strangers_sql(const Plan& plan) {
  return fmt::format(
      "SELECT pid, coalesce(pg_get_userbyid(nullif(usesysid, 0)), ''), coalesce(application_name, ''), backend_type = 'client backend', "
      "pg_terminate_backend(pid) FROM pg_stat_get_activity(NULL) WHERE datid = (SELECT oid FROM pg_database WHERE datname = current_database()) "
      "AND pid <> pg_backend_pid() AND NOT (usesysid IS NOT DISTINCT FROM (SELECT oid FROM pg_roles WHERE rolname = {}) AND application_name = "
      "'midstream') AND backend_type NOT LIKE 'logical replication%' AND backend_type NOT IN ('walsender', 'autovacuum worker', "
      "'parallel worker') AND usesysid IS DISTINCT FROM coalesce((SELECT oid FROM pg_roles WHERE rolname = {}), 0) AND NOT (pid = ANY "
      "($1::int[]) AND (state IS NOT DISTINCT FROM 'idle' AND xact_start IS NULL OR state IS NOT DISTINCT FROM 'disabled' AND pid <> ALL "
      "(ARRAY(SELECT l.pid FROM pg_locks l WHERE l.locktype = 'virtualxid' AND l.pid IS NOT NULL))))",
      quote(plan.agent_role()), quote(plan.gate_role()));
}

// A backend that is still starting holds a lock on the database's own entry until it is in the list of activity; it may have read
// the connection limit before our commit.
constexpr const char* kStarting =
    "SELECT count(*) FROM pg_locks WHERE locktype = 'object' AND classid = 'pg_database'::regclass AND objid "
    "= "
    "(SELECT oid FROM pg_database WHERE datname = current_database()) AND pid <> pg_backend_pid()";

Json attempt(std::string name, bool refused, std::string error) {
  return {{"attempt", std::move(name)}, {"refused", refused}, {"error", std::move(error)}};
}

Json judged(std::string name, const SqlError& error, std::initializer_list<std::string_view> expected) {
  const bool refused = std::ranges::any_of(expected, [&](auto state) {
    return state == "lost" ? error.connection_lost && error.sqlstate.empty() && !error.out_of_time
                           : error.sqlstate == state;
  });
  return attempt(std::move(name), refused, error.message);
}

// A login over the socket or TCP that must be turned away; what it would do if it were not is never done.
Json login_attempt(const Work& work, std::string name, Session::Target target,
                   std::initializer_list<std::string_view> expected) {
  target.application = "midstream proof";
  auto session = Session::login(target, work.context.deadline.sooner(Millis(3000)), work.context.stop);
  if (session) return attempt(std::move(name), false, "");
  return judged(std::move(name), session.error(), expected);
}

Json statement_attempt(const Work& work, Session& session, std::string name, const std::string& sql) {
  auto rows = session.query(sql, {}, work.context.deadline.sooner(Millis(3000)), work.context.stop);
  (void)session.query("ROLLBACK", {}, work.context.deadline, work.context.stop);
  if (rows) return attempt(std::move(name), false, "");
  return judged(std::move(name), rows.error(), {"25006"});
}

Result<> prove_logins(const Work& work, const std::string& database, bool quick, Json& proof) {
  const auto record = TRY(Record::load(work.context, work.plan.move));
  auto ordinary = work.target(database, work.plan.probe_role());
  ordinary.password = get_string_or(record, "probe_password", "");
  ordinary.quiet = false;
  const auto super = work.target(database, work.options.superuser);
  Json as_super;
  std::jthread beside([&] { as_super = login_attempt(work, "new login, superuser, nextval and lo_create", super, {"28000"}); });
  proof.push_back(login_attempt(work, "new login, ordinary role", ordinary, {"53300", "28000"}));
  beside.join();
  proof.push_back(std::move(as_super));
  if (quick) return {};
  auto far = super;
  far.host = work.mine().address;
  far.os_user = "";
  proof.push_back(login_attempt(work, "new login over TCP, superuser", far, {"28000", "lost"}));
  return {};
}

Result<> prove_statements(const Work& work, const std::string& database, bool quick, Json& proof) {
  auto session = TRY(work.session(database));
  const auto& context = work.context;
  const auto bare = TRY(session->run(
      fmt::format("SELECT name FROM ({}) AS t (name, kind, persistence, oid) WHERE NOT EXISTS (SELECT FROM "
                  "pg_trigger g "
                  "WHERE g.tgrelid = t.oid AND g.tgname = 'midstream_deny' AND g.tgenabled = 'A') LIMIT 5",
                  kTablesSql),
      {}, context.deadline, context.stop));
  proof.push_back(
      attempt("a table without the deny trigger", bare.size() == 0, bare.size() == 0 ? "every table has it" : ""));
  const auto tables = TRY(session->run(fmt::format("SELECT t.name, pg_get_userbyid(c.relowner) FROM ({}) AS "
                                                   "t (name, kind, persistence, oid) JOIN pg_class "
                                                   "c ON c.oid = t.oid WHERE kind = 'r' LIMIT 1",
                                                   kTablesSql),
                                       {}, context.deadline, context.stop));
  const auto table = tables.size() > 0 ? tables.text(0, 0) : "midstream.proof";
  const auto owner = tables.size() > 0 ? tables.text(0, 1) : work.options.superuser;
  const auto add = [&](std::string name, const std::string& sql) {
    proof.push_back(statement_attempt(work, *session, std::move(name), sql));
  };
  // None of these changes a row even where it is let through.
  add("BEGIN READ WRITE, superuser", fmt::format("BEGIN READ WRITE; DELETE FROM {} WHERE false", table));
  add("owner of the table", fmt::format("BEGIN READ WRITE; SET LOCAL SESSION AUTHORIZATION {}; DELETE FROM {} WHERE "
                                        "false",
                                        ident(owner), table));
  add("session_replication_role=replica",
      fmt::format("BEGIN; SET LOCAL session_replication_role = replica; DELETE FROM {} WHERE false", table));
  add("TRUNCATE", "BEGIN; TRUNCATE midstream.proof");
  add("COPY", "BEGIN; COPY midstream.proof FROM '/dev/null'");
  add("DDL", "BEGIN; CREATE TABLE midstream.proof_table (n int)");
  // The way by which a side that does not own lets the gate make temporary tables.
  if (!quick)
    add("DDL, as the gate begins it", "BEGIN; SET LOCAL midstream.temporary = 'on'; DO 'BEGIN CREATE TABLE midstream.proof_table (n int); END'");
  return {};
}

}  // namespace

std::string members_sql(const Plan& plan, const std::string& database, bool fenced) {
  const auto role = plan.fence_role(database);
  const auto members =
      fenced ? fmt::format("SELECT rolname FROM pg_roles WHERE rolsuper AND rolcanlogin AND rolname NOT IN ({}, {})",
                           quote(plan.agent_role()), quote(plan.gate_role()))
             : fmt::format(
                   "SELECT m.rolname FROM pg_auth_members a JOIN pg_roles r ON r.oid = a.roleid JOIN pg_roles "
                   "m ON m.oid = a.member WHERE r.rolname = {}",
                   quote(role));
  return fmt::format(
      "DO $body$ DECLARE who text; BEGIN FOR who IN {} LOOP EXECUTE format('{} {} {} %I', who); END LOOP; "
      "END $body$;",
      members, fenced ? "GRANT" : "REVOKE", ident(role), fenced ? "TO" : "FROM");
}

std::string lift_sql(const Plan& plan, const std::string& database) {
  return fmt::format(
             "DO $body$ BEGIN EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT %s', current_database(), "
             "(SELECT "
             "connection_limit FROM midstream.owner)); END $body$;") +
         members_sql(plan, database, false);
}

std::string closing_sql(const Work& work, const std::string& database) {
  return fmt::format(
      "BEGIN; SET LOCAL synchronous_commit = 'on'; {0} UPDATE midstream.owner SET state = 'closing', since = "
      "now(), "
      "connection_limit = (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) WHERE "
      "state = "
      "'owner'; ALTER DATABASE {1} CONNECTION LIMIT 0; {2} "
      "DO $body$ BEGIN IF (SELECT state FROM midstream.owner) <> 'closing' THEN RAISE EXCEPTION 'midstream: "
      "the title "
      "is not owner' USING ERRCODE = 'MS001'; END IF; END $body$; ",
      adopt_sql(work), ident(database), members_sql(work.plan, database, true));
}

Result<> set_closing(const Work& work, Session& session, const std::string& database) {
  const auto& context = work.context;
  auto done = session.query(closing_sql(work, database) + "COMMIT", {}, context.deadline, context.stop);
  if (done) return {};
  (void)session.query("ROLLBACK", {}, context.deadline, context.stop);
  return std::unexpected(title_error(done.error(), fmt::format("cannot close {} for the switch", database)));
}

Result<bool> reopen(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  // Not bound to the caller's deadline or stop request: a database left closed is the worse end.
  const auto deadline = Deadline::in(Millis(5000));
  auto done = session->query(
      fmt::format("BEGIN; SET LOCAL synchronous_commit = 'on'; UPDATE midstream.owner SET state = 'owner', since = "
                  "now() WHERE state = 'closing'; DO $body$ BEGIN IF (SELECT state FROM midstream.owner) <> 'owner' "
                  "THEN RAISE EXCEPTION 'midstream: the title is not closing' USING ERRCODE = 'MS002'; END IF; END "
                  "$body$; {} COMMIT",
                  lift_sql(work.plan, database)),
      {}, deadline, {});
  if (done) return true;
  (void)session->query("ROLLBACK", {}, deadline, {});
  if (done.error().sqlstate == "MS002") return false;
  return std::unexpected(title_error(done.error(), fmt::format("cannot open {} again", database)));
}

Result<std::set<int>> end_sessions(const Work& work, Session& session, Deadline deadline, const std::set<int>& spared) {
  std::string left = "{";
  for (const auto pid : spared) left += (left.size() > 1 ? "," : "") + std::to_string(pid);
  left += '}';
  std::set<int> clients;
  std::string stayed = "one that is starting";
  const auto sql = end_strangers_sql(work.plan);
  for (;;) {
    // In this order: who is seen starting no more is on the list.
    const auto starting = TRY(session.run(kStarting, {}, deadline, work.context.stop)).number(0, 0);
    const auto rows = TRY(session.run(sql, {left}, deadline, work.context.stop));
    for (int i = 0; i < rows.size(); ++i)
      if (rows.truth(i, 3)) clients.insert(static_cast<int>(rows.number(i, 0)));
    if (rows.size() > 0)
      stayed = fmt::format("{} sessions, one of role {} ({}, pid {})", rows.size(), printable(rows.text(0, 1)),
                           printable(rows.text(0, 2)), rows.number(0, 0));
    if (rows.size() == 0 && starting == 0) return clients;
    CHECK_OK(wait_a_bit(Millis(1), deadline, work.context.stop, "sessions to end: " + stayed));
  }
}

Result<> rehearse_fence(const Work& work, Session& session, const std::string& database, const std::string& last) {
  const auto& context = work.context;
  const auto deadline = context.deadline.sooner(kRehearsal);
  auto done = session.query(closing_sql(work, database) + last + "ROLLBACK", {}, deadline, context.stop);
  if (!done) {
    (void)session.query("ROLLBACK", {}, Deadline::in(Millis(2000)), {});
    return std::unexpected(title_error(done.error(), fmt::format("the switch of {} failed when it was rehearsed", database)));
  }
  CHECK_OK(session.run(kStarting, {}, deadline, context.stop));
  CHECK_OK(session.run(end_strangers_sql(work.plan) + " AND pid = -1", {"{}"}, deadline, context.stop));
  // Nothing is fenced yet, so these are let through: they change no row, and are rolled back.
  Json ignored = Json::array();
  return prove_statements(work, database, true, ignored);
}

Result<Witnesses> open_witnesses(const Work& work, const std::string& database) {
  struct Kind {
    const char* attempt;
    std::string before;
    const char* sql;
  };
  const auto ordinary = fmt::format("SET SESSION AUTHORIZATION {};", ident(work.plan.probe_role()));
  const std::vector<Kind> kinds{
      {"open REPEATABLE READ writer",
       ordinary + "BEGIN ISOLATION LEVEL REPEATABLE READ; INSERT INTO midstream.proof VALUES (1)",
       "INSERT INTO midstream.proof VALUES (2); COMMIT"},
      {"open session, BEGIN READ WRITE", ordinary,
       "BEGIN READ WRITE; INSERT INTO midstream.proof VALUES (3); ROLLBACK"},
      {"open session, superuser in replica role", "SET session_replication_role = replica",
       "BEGIN; INSERT INTO midstream.proof VALUES (4); ROLLBACK"},
      {"open session, nextval", "SELECT 1", "SELECT nextval('midstream.proof_numbers')"},
      {"open session, lo_create", "SELECT 1", "BEGIN; SELECT lo_create(0); ROLLBACK"},
  };
  Witnesses witnesses;
  for (const auto& kind : kinds) {
    auto target = work.target(database, work.plan.agent_role());
    target.application = "midstream proof";
    auto session = TRY(Session::connect(target, work.context.deadline, work.context.stop));
    CHECK_OK(session.run(kind.before, {}, work.context.deadline, work.context.stop));
    witnesses.open.push_back({kind.attempt, std::move(session), kind.sql});
  }
  return witnesses;
}

Result<Json> prove_fence(const Work& work, const std::string& database, Witnesses* witnesses) {
  Json proof = Json::array();
  // While clients wait, the logins are tried beside the rest.
  Json logins = Json::array();
  Result<> tried;
  std::jthread beside([&] { tried = prove_logins(work, database, witnesses != nullptr, logins); });
  if (witnesses != nullptr) {
    for (auto& witness : witnesses->open) {
      auto rows = witness.session.query(witness.sql, {}, work.context.deadline.sooner(Millis(3000)), work.context.stop);
      proof.push_back(rows ? attempt(witness.attempt, false, "")
                           : judged(witness.attempt, rows.error(), {"57P01", "57P02", "lost"}));
    }
  }
  CHECK_OK(prove_statements(work, database, witnesses != nullptr, proof));
  beside.join();
  CHECK_OK(tried);
  for (const auto& one : logins) proof.push_back(one);
  for (auto& one : proof) {
    one["host"] = work.context.host;
    one["database"] = database;
  }
  return proof;
}

Result<> holds(const Json& proof, const std::string& host, const std::string& database) {
  std::vector<std::string> through, open;
  for (const auto& one : proof) {
    if (get_bool_or(one, "refused", false)) continue;
    const auto error = get_string_or(one, "error", "");
    auto& list = error.empty() ? through : open;
    list.push_back(get_string_or(one, "attempt", "?") + (error.empty() ? "" : " (" + error + ")"));
  }
  if (!through.empty())
    return refused(fmt::format("the fence of {} on {} does not hold against: {}", database, host, join(through, "; ")),
                   "nothing was handed over; see what let this through before the next try");
  // Failed, but not for the fence's reason: that proves nothing.
  if (!open.empty())
    return retry(fmt::format("the fence of {} on {} could not be proven: {}", database, host, join(open, "; ")));
  return {};
}

}  // namespace midstream::postgres
