#include "movers/postgres/stream.h"

#include <fmt/format.h>

#include "base/text.h"
#include "movers/postgres/as_user.h"
#include "movers/postgres/identity.h"
#include "movers/postgres/schema_sql.h"
#include "movers/postgres/title.h"
#include "sys/file.h"

namespace midstream::postgres {

namespace {

// Past our own deny trigger, and without the event triggers of the application: they are users' code, and would write.
#define MIDSTREAM_OUR_DDL "BEGIN; SET LOCAL midstream.allow = 'on'; SET LOCAL session_replication_role = replica; "

std::string libpq_value(std::string_view text) {
  std::string out = "'";
  for (const char c : text) {
    if (c == '\'' || c == '\\') out += '\\';
    out += c;
  }
  return out + "'";
}

Result<std::filesystem::path> pass_directory(const Work& work) {
  const auto data = TRY(work.run_cluster("SHOW data_directory")).text(0, 0);
  return our_directory(work, data);
}

Result<std::string> conninfo(const Work& work, const std::string& database) {
  const auto path = TRY(pass_directory(work)) / "pgpass";
  return fmt::format(
      "host={} port={} dbname={} user={} passfile={} application_name={} connect_timeout=5 "
      "keepalives_idle=10 keepalives_interval=5 keepalives_count=3",
      work.theirs().address, work.theirs().port, libpq_value(database), work.plan.replication_role(),
      libpq_value(path.native()), work.incoming(database));
}

}  // namespace

std::filesystem::path our_directory(const Work& work, const std::filesystem::path& data) {
  return data.parent_path() / fmt::format(".midstream-{}-{}", work.plan.move, work.mine().port);
}

Result<std::vector<std::string>> tables_not_followed(const Work& work, Session& session) {
  const auto rows = TRY(session.run(
      fmt::format("SELECT name FROM ({}) AS t (name, kind, persistence, oid) WHERE kind = 'r' AND persistence = 'p' AND "
                  "NOT EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE r.prrelid "
                  "= t.oid AND p.pubname = $1)",
                  kTablesSql),
      {work.plan.publication()}, work.context.deadline, work.context.stop));
  return rows.column(0);
}

Result<> make_publication(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  const auto& context = work.context;
  CHECK_OK(give_identities(work, database));
  const auto name = work.plan.publication();
  const auto present =
      TRY(session->run("SELECT 1 FROM pg_publication WHERE pubname = $1", {name}, context.deadline, context.stop));
  if (present.size() > 0) return {};
  auto tables = TRY(session->run(fmt::format("SELECT name FROM ({}) AS t (name, kind, persistence, oid) WHERE kind = "
                                             "'r' AND persistence = 'p'",
                                             kTablesSql),
                                 {}, context.deadline, context.stop))
                    .column(0);
  // One that was made in between waits outside, and is named before the switch.
  for (const auto& bare : TRY(tables_without_identity(work, *session))) std::erase(tables, bare.table);
  tables.push_back("midstream.handover");
  tables.push_back("midstream.ddl");
  CHECK_OK(session->run(fmt::format("BEGIN; SET LOCAL midstream.allow = 'on'; SET LOCAL lock_timeout = '2s'; CREATE "
                                    "PUBLICATION {} FOR TABLE {}; COMMIT",
                                    ident(name), join(tables, ", ")),
                        {}, context.deadline, context.stop));
  return {};
}

Result<> drop_slot(const Work& work, const std::string& name) {
  CHECK_OK(drop_slot_alone(work, name));
  return forget_given_up(work, name);
}

Result<> drop_slot_alone(const Work& work, const std::string& name) {
  auto session = TRY(work.maintenance());
  const auto& context = work.context;
  for (;;) {
    const auto rows = TRY(session.run("SELECT active_pid FROM pg_replication_slots WHERE slot_name = $1", {name},
                                      context.deadline, context.stop));
    if (rows.size() == 0) return {};
    if (!rows.is_null(0, 0))
      CHECK_OK(session.run("SELECT pg_terminate_backend($1::int)", {rows.text(0, 0)}, context.deadline, context.stop));
    const auto dropped = session.query("SELECT pg_drop_replication_slot($1)", {name}, context.deadline, context.stop);
    if (dropped) return {};
    if (dropped.error().sqlstate != "55006" && dropped.error().sqlstate != "42704")
      return std::unexpected(to_error(dropped.error(), fmt::format("cannot drop slot {}", name)));
    CHECK_OK(wait_a_bit(Millis(20), context.deadline, context.stop, fmt::format("slot {} to be free", name)));
  }
}

Result<> make_slot(const Work& work, const std::string& database, const std::string& name, bool fresh) {
  if (fresh) CHECK_OK(drop_slot(work, name));
  auto session = TRY(work.session(database));
  const auto& context = work.context;
  const auto present = TRY(
      session->run("SELECT 1 FROM pg_replication_slots WHERE slot_name = $1", {name}, context.deadline, context.stop));
  if (present.size() > 0) return {};
  CHECK_OK(forget_given_up(work, name));
  // Waits for every transaction that has written; a server left waiting would make the slot after we gave up.
  const auto limit = std::clamp<std::int64_t>(context.deadline.remaining().count() - 500, 200, 30'000);
  CHECK_OK(session->run(fmt::format("SET statement_timeout = {}", limit), {}, context.deadline, context.stop));
  const auto made = session->query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", {name},
                                   context.deadline, context.stop);
  (void)session->query("SET statement_timeout = 0", {}, context.deadline, context.stop);
  if (made) return {};
  auto error = to_error(made.error(), fmt::format("cannot make slot {}", name));
  const auto who = TRY(oldest_writer(work));
  if (!who.empty()) error.what += "; " + who;
  return std::unexpected(std::move(error));
}

Result<std::string> oldest_writer(const Work& work) {
  const auto who = TRY(work.run_cluster("SELECT usename, pid FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid "
                                        "<> pg_backend_pid() ORDER BY xact_start LIMIT 1"));
  if (who.size() == 0) return std::string();
  return fmt::format("a transaction of role {} (pid {}) is open", who.text(0, 0), who.text(0, 1));
}

Result<std::string> write_pass_file(const Work& work, const std::string& password) {
  const auto directory = TRY(pass_directory(work));
  const auto as = TRY(AsUser::enter(work.options.os_user));
  CHECK_OK(make_directories(directory, 0700));
  const auto path = directory / "pgpass";
  CHECK_OK(write_file_durably(path, fmt::format("*:*:*:{}:{}\n", work.plan.replication_role(), password), 0600));
  return path.native();
}

Result<> remove_pass_file(const Work& work) {
  const auto directory = TRY(pass_directory(work));
  const auto as = TRY(AsUser::enter(work.options.os_user));
  std::error_code ignored;
  if (!std::filesystem::exists(directory, ignored)) return {};
  CHECK_OK(remove_file_durably(directory / "pgpass"));
  std::filesystem::remove(directory, ignored);
  return {};
}

Result<> make_subscription(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  const auto& context = work.context;
  const auto name = work.incoming(database);
  const auto present =
      TRY(session->run("SELECT 1 FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE "
                       "subname = $1 AND datname = current_database()",
                       {name}, context.deadline, context.stop));
  if (present.size() > 0) return {};
  // connect stays true: without it the list of tables stays empty and every row is silently dropped.
  CHECK_OK(session->run(
      fmt::format(MIDSTREAM_OUR_DDL "CREATE SUBSCRIPTION {} CONNECTION {} PUBLICATION {} WITH "
                  "(create_slot = false, slot_name = {}, copy_data = false, enabled = false); COMMIT",
                  ident(name), quote(TRY(conninfo(work, database))), ident(work.plan.publication()), quote(name)),
      {}, context.deadline, context.stop));
  return {};
}

Result<> start_subscription(const Work& work, const std::string& database) {
  CHECK_OK(work.run(database, fmt::format(MIDSTREAM_OUR_DDL "SET LOCAL synchronous_commit = 'on'; "
                                          "ALTER SUBSCRIPTION {} ENABLE; COMMIT",
                                          ident(work.incoming(database)))));
  return {};
}

Result<> enable_subscription(const Work& work, const std::string& database, const std::string& from) {
  const auto name = work.incoming(database);
  // The worker asks for what follows its origin's position, and the server sends from there or from the slot's
  // position, whichever is later. The origin's is durable with this commit; an advanced slot's is not before the next
  // checkpoint of its server.
  const auto begin =
      from.empty()
          ? ""
          : fmt::format(
                "DO $body$ DECLARE origin text; BEGIN SELECT 'pg_' || s.oid INTO origin FROM pg_subscription s JOIN "
                "pg_database d ON d.oid = s.subdbid WHERE subname = {0} AND datname = current_database() AND NOT "
                "subenabled; IF origin IS NOT NULL AND coalesce(pg_replication_origin_progress(origin, false), '0/0') "
                "< {1}::pg_lsn THEN PERFORM pg_replication_origin_advance(origin, {1}::pg_lsn); END IF; END $body$; ",
                quote(name), quote(from));
  CHECK_OK(work.run(
      database, fmt::format(MIDSTREAM_OUR_DDL "SET LOCAL synchronous_commit = 'on'; {1}ALTER "
                            "SUBSCRIPTION {0} SET (synchronous_commit = on); ALTER SUBSCRIPTION {0} ENABLE; COMMIT",
                            ident(name), begin)));
  return {};
}

Result<> disable_subscription(const Work& work, Session& session, const std::string& database) {
  const auto& context = work.context;
  const auto name = work.incoming(database);
  const auto present =
      TRY(session.run("SELECT subenabled FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid "
                      "WHERE subname = $1 AND datname = current_database()",
                      {name}, context.deadline, context.stop));
  if (present.size() == 0) return {};
  if (present.truth(0, 0))
    CHECK_OK(session.run(
        fmt::format(MIDSTREAM_OUR_DDL "ALTER SUBSCRIPTION {} DISABLE; COMMIT", ident(name)), {},
        context.deadline, context.stop));
  for (;;) {
    // An idle worker looks at its subscription once a second; ending it is quicker and as safe.
    const auto workers = TRY(
        session.run("SELECT pg_terminate_backend(pid) FROM pg_stat_subscription WHERE subname = $1 AND pid IS NOT NULL",
                    {name}, context.deadline, context.stop));
    if (workers.size() == 0) return {};
    CHECK_OK(wait_a_bit(Millis(1), context.deadline, context.stop, "the apply worker to end"));
  }
}

Result<> drop_subscription(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  const auto& context = work.context;
  const auto name = work.incoming(database);
  const auto present =
      TRY(session->run("SELECT 1 FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE "
                       "subname = $1 AND datname = current_database()",
                       {name}, context.deadline, context.stop));
  if (present.size() == 0) return {};
  CHECK_OK(disable_subscription(work, *session, database));
  CHECK_OK(session->run(fmt::format(MIDSTREAM_OUR_DDL "ALTER SUBSCRIPTION {0} SET (slot_name = "
                                    "NONE); DROP SUBSCRIPTION {0}; COMMIT",
                                    ident(name)),
                        {}, context.deadline, context.stop));
  return {};
}

Result<Arrival> look_at_subscription(const Work& work, const std::string& database) {
  const auto rows =
      TRY(work.run(database,
                   "SELECT s.subenabled, EXISTS (SELECT FROM pg_stat_subscription w WHERE w.subid = s.oid "
                   "AND w.relid IS NULL AND "
                   "w.pid IS NOT NULL), (SELECT count(*) FROM pg_subscription_rel r WHERE r.srsubid = "
                   "s.oid), (SELECT count(*) FROM "
                   "pg_subscription_rel r WHERE r.srsubid = s.oid AND srsubstate = 'r'), (SELECT "
                   "coalesce(sum(pg_relation_size("
                   "srrelid)), 0)::bigint FROM pg_subscription_rel r WHERE r.srsubid = s.oid) FROM "
                   "pg_subscription s JOIN pg_database "
                   "d ON d.oid = s.subdbid WHERE s.subname = $1 AND d.datname = current_database()",
                   {work.incoming(database)}));
  Arrival arrival;
  if (rows.size() == 0) return arrival;
  arrival.present = true;
  arrival.enabled = rows.truth(0, 0);
  arrival.running = rows.truth(0, 1);
  arrival.tables = static_cast<int>(rows.number(0, 2));
  arrival.ready = static_cast<int>(rows.number(0, 3));
  arrival.copied_bytes = rows.number(0, 4);
  return arrival;
}

Result<Lag> look_at_slot(const Work& work, const std::string& name) {
  const auto rows =
      TRY(work.run_cluster("SELECT s.active, greatest(pg_current_wal_flush_lsn() - s.confirmed_flush_lsn, "
                           "0)::bigint, coalesce(extract(epoch "
                           "FROM r.flush_lag) * 1000, 0)::bigint FROM pg_replication_slots s LEFT JOIN "
                           "pg_stat_replication r ON r.pid = "
                           "s.active_pid WHERE s.slot_name = $1",
                           {name}));
  auto wal = TRY(look_at_wal(work, name));
  if (rows.size() == 0) return Lag{.wal = std::move(wal)};
  return Lag{true, rows.truth(0, 0), rows.number(0, 1), rows.number(0, 2), std::move(wal)};
}

Json to_json(const Lag& lag) {
  return {{"slot", lag.slot}, {"active", lag.active}, {"bytes", lag.bytes}, {"ms", lag.ms}, {"wal", to_json(lag.wal)}};
}

Lag lag_from_json(const Json& value) {
  return Lag{get_bool_or(value, "slot", false), get_bool_or(value, "active", false), get_int_or(value, "bytes", 0),
             get_int_or(value, "ms", 0), wal_room_from_json(value.value("wal", Json::object()))};
}

Result<std::string> barrier_position(const Work& work, Session& session) {
  const auto& context = work.context;
  CHECK_OK(session.run("SET synchronous_commit = 'on'", {}, context.deadline, context.stop));
  CHECK_OK(
      session.run("SELECT pg_logical_emit_message(true, 'midstream', 'barrier')", {}, context.deadline, context.stop));
  return TRY(session.run("SELECT pg_current_wal_flush_lsn()", {}, context.deadline, context.stop)).text(0, 0);
}

Result<> wait_confirmed(const Work& work, Session& session, const std::string& slot, const std::string& position,
                        Deadline deadline) {
  for (;;) {
    const auto rows =
        TRY(session.run("SELECT confirmed_flush_lsn >= $2::pg_lsn, active FROM pg_replication_slots WHERE "
                        "slot_name = $1",
                        {slot, position}, deadline, work.context.stop));
    if (rows.size() == 0) return refused(fmt::format("slot {} is gone", slot), "undo the follow step and run it again");
    if (rows.truth(0, 0)) return {};
    CHECK_OK(wait_a_bit(Millis(1), deadline, work.context.stop,
                        fmt::format("the other side to confirm {} ({})", position,
                                    rows.truth(0, 1) ? "it is connected" : "it is not connected")));
  }
}

}  // namespace midstream::postgres
