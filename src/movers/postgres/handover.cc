#include "movers/postgres/handover.h"

#include <fmt/format.h>

#include <set>

#include "base/text.h"
#include "movers/postgres/ddl.h"
#include "movers/postgres/fence.h"
#include "movers/postgres/gate_hold.h"
#include "movers/postgres/prewarm.h"
#include "movers/postgres/schema_sql.h"
#include "movers/postgres/setup.h"
#include "movers/postgres/stream.h"
#include "movers/postgres/sync_reverse.h"
#include "movers/postgres/title.h"
#include "sys/file.h"
#include "sys/log.h"

namespace midstream::postgres {

namespace {

constexpr std::int64_t kMostLag = 4 << 20;     // bytes; more is not caught up
constexpr std::int64_t kMostExtraRows = 1000;  // unlogged rows and large objects, each
constexpr std::int64_t kMostExtraBytes = 8 << 20;
constexpr Millis kSettle{40};

std::int64_t ms_since(std::chrono::nanoseconds start) {
  return std::chrono::duration_cast<Millis>(boot_now() - start).count();
}

std::filesystem::path lease_path(const Context& context, const std::string& move, int number) {
  return context.state / fmt::format("{}-{}.lease", move, number);
}

}  // namespace

Result<> nobody_in_the_way(const Work& work, Session& session, const std::string& database) {
  const auto& context = work.context;
  const auto prepared = TRY(session.run("SELECT gid FROM pg_prepared_xacts WHERE database = $1 LIMIT 1", {database},
                                        context.deadline, context.stop));
  if (prepared.size() > 0)
    return retry(fmt::format("{} has a prepared transaction ({})", database, printable(prepared.text(0, 0))),
                 "COMMIT PREPARED or ROLLBACK PREPARED it");
  const auto open = TRY(session.run(
      "SELECT pid, coalesce(usename, ''), coalesce(application_name, ''), (extract(epoch FROM "
      "clock_timestamp() - "
      "xact_start) * 1000)::bigint FROM pg_stat_activity WHERE datname = $1 AND backend_xid IS NOT NULL AND "
      "pid <> "
      "pg_backend_pid() AND backend_type = 'client backend' AND clock_timestamp() - xact_start > $2::bigint "
      "* interval "
      "'1 ms' ORDER BY xact_start LIMIT 1",
      {database, std::to_string(work.options.old_transaction.count())}, context.deadline, context.stop));
  if (open.size() == 0) return {};
  return retry(fmt::format("a write transaction of role {} ({}, pid {}) has been open for {} ms in {}",
                           printable(open.text(0, 1)), printable(open.text(0, 2)), open.number(0, 0), open.number(0, 3),
                           database),
               "wait for it, or end it");
}

namespace {

Result<> extras_are_small(Session& session, const Work& work, const std::string& database) {
  const auto& context = work.context;
  const auto unlogged =
      TRY(session.run(fmt::format("SELECT name, pg_total_relation_size(oid) FROM ({}) AS t (name, kind, "
                                  "persistence, oid) WHERE kind = 'r' AND persistence = 'u'",
                                  kTablesSql),
                      {}, context.deadline, context.stop));
  for (int i = 0; i < unlogged.size(); ++i) {
    const auto rows = TRY(session.run(
        fmt::format("SELECT count(*) FROM (SELECT FROM ONLY {} LIMIT {}) x", unlogged.text(i, 0), kMostExtraRows + 1),
        {}, context.deadline, context.stop));
    if (rows.number(0, 0) > kMostExtraRows)
      return refused(fmt::format("unlogged table {} of {} has more than {} rows, which no stream carries",
                                 unlogged.text(i, 0), database, kMostExtraRows),
                     "ALTER TABLE ... SET LOGGED, or empty it");
  }
  const auto objects =
      TRY(session.run("SELECT (SELECT count(*) FROM pg_largeobject_metadata), "
                      "pg_relation_size('pg_catalog.pg_largeobject')",
                      {}, context.deadline, context.stop));
  if (objects.number(0, 0) > kMostExtraRows || objects.number(0, 1) > kMostExtraBytes)
    return refused(fmt::format("{} has {} large objects ({} bytes), too many to carry inside the switch", database,
                               objects.number(0, 0), objects.number(0, 1)),
                   "move them into a bytea column, or remove what is not needed (vacuumlo)");
  return {};
}

constexpr const char* kYieldSql =
    "DO $body$ BEGIN UPDATE midstream.owner SET state = 'yielded', turn = turn + 1, since = now() WHERE state = 'closing'; IF NOT FOUND "
    "THEN RAISE EXCEPTION 'midstream: the lease ended' USING ERRCODE = 'MS002'; END IF; INSERT INTO midstream.handover (turn, epoch, "
    "sequences, extras) SELECT turn, epoch, midstream.sequences(), midstream.extras() FROM midstream.owner; END $body$; ";

// The commit that gives the database away. Nothing of the giver's can follow it.
Result<std::int64_t> yield(const Work& work, Session& session, const std::string& database) {
  const auto& context = work.context;
  const auto sql = fmt::format("BEGIN; SET LOCAL synchronous_commit = 'on'; {}{} COMMIT", adopt_sql(work), kYieldSql);
  auto done = session.query(sql, {}, context.deadline, context.stop);
  if (!done) {
    const auto error = done.error();
    (void)session.query("ROLLBACK", {}, Deadline::in(Millis(2000)), {});
    auto out = title_error(error, fmt::format("{} could not be yielded", database));
    if (error.sqlstate == "MS002") out.kind = ErrorKind::retry;
    return std::unexpected(std::move(out));
  }
  return TRY(session.run("SELECT turn FROM midstream.owner", {}, Deadline::in(Millis(2000)), {})).number(0, 0);
}

}  // namespace

Result<> gate_keeps(const Work& work, const std::string& database, bool gone) {
  if (!work.plan.gate.present() || gone) return {};
  CHECK_OK(work.ask_gate("keep", database, work.on_old ? "new" : "old"));
  return {};
}

namespace {

Result<Json> close_and_yield(const Work& work, Session& session, const std::string& database, Witnesses& witnesses,
                             const std::set<int>& spared, bool gate_gone, Deadline deadline) {
  const auto start = boot_now();
  CHECK_OK(set_closing(work, session, database));
  work.at("give.closing");
  const auto cut = TRY(end_sessions(work, session, deadline, spared));
  const auto position = TRY(barrier_position(work, session));
  const auto closed = boot_now();
  work.at("give.fenced");
  // The marker travels while the proof is made.
  auto proof = TRY(prove_fence(work, database, &witnesses));
  CHECK_OK(holds(proof, work.context.host, database));
  const auto proven = boot_now();
  CHECK_OK(wait_confirmed(work, session, work.outgoing(database), position, deadline));
  const auto barrier_ms = ms_since(closed);
  work.at("give.barrier");
  // Whoever slipped in between the list and the limit was denied by the triggers; nobody may be left now.
  const auto late = TRY(end_sessions(work, session, deadline, spared));
  // A transaction prepared before the fence outlives its session and would stay behind.
  const auto prepared = TRY(session.run("SELECT gid FROM pg_prepared_xacts WHERE database = $1 LIMIT 1", {database},
                                        deadline, work.context.stop));
  if (prepared.size() > 0)
    return retry(fmt::format("{} has a prepared transaction ({})", database, printable(prepared.text(0, 0))),
                 "COMMIT PREPARED or ROLLBACK PREPARED it");
  CHECK_OK(gate_keeps(work, database, gate_gone));
  work.at("give.kept");
  if (deadline.expired()) return retry(fmt::format("{} missed the switch's deadline before it was yielded", database));
  const auto turn = TRY(yield(work, session, database));
  work.at("give.yielded");
  const auto own = static_cast<int>(witnesses.open.size());
  const auto clients = static_cast<int>(cut.size() + late.size());
  return Json{{"turn", turn},
              {"fence_ms", std::chrono::duration_cast<Millis>(closed - start).count()},
              {"proof_ms", std::chrono::duration_cast<Millis>(proven - closed).count()},
              {"barrier_ms", barrier_ms},
              {"give_ms", ms_since(start)},
              {"sessions_cut", std::max(0, clients - own)},
              {"proof", std::move(proof)}};
}

}  // namespace

Result<> write_lease(const Work& work, const std::string& database) {
  const auto until = boot_now() + work.options.lease;
  return write_file_durably(
      lease_path(work.context, work.plan.move, work.plan.number(database)),
      Json{{"boot", boot_id()}, {"until_ns", until.count()}, {"restore", "closing -> owner"}}.dump());
}

Result<> clear_lease(const Work& work, const std::string& database) {
  return remove_file_durably(lease_path(work.context, work.plan.move, work.plan.number(database)));
}

Result<bool> lease_expired(const Context& context, const std::string& move, int number) {
  const auto path = lease_path(context, move, number);
  if (!std::filesystem::exists(path)) return false;
  const auto lease = TRY(parse_json(TRY(read_file(path))));
  return get_string_or(lease, "boot", "") != boot_id() || boot_now().count() >= get_int_or(lease, "until_ns", 0);
}

namespace {

// The gate's host, and nobody else, may log in: it makes its sessions ready. What it would write is denied by the title.
Result<> admit_gate(const Work& work, const std::string& database) {
  CHECK_OK(work.run(database, "DO $body$ BEGIN EXECUTE format('ALTER DATABASE %I CONNECTION LIMIT %s', current_database(), "
                              "(SELECT connection_limit FROM midstream.owner)); END $body$"));
  return {};
}

}  // namespace

Result<Json> refuse_gate(const Work& work, const std::string& database) {
  const auto title = TRY(read_title(work, database));
  if (title.state == "owner" || title.state == "closing") return Json::object();
  // The files last: by them whoever dies, or runs out of time, between the two is seen to have let the gate in.
  CHECK_OK(work.run(database, fmt::format("ALTER DATABASE {} CONNECTION LIMIT 0", ident(database))));
  CHECK_OK(set_access(work, database, Access::refused));
  auto session = TRY(work.session(database));
  CHECK_OK(end_sessions(work, *session, work.context.deadline));
  return Json::object();
}

Result<Json> admit_all(const Work& work, const std::string& database) {
  const auto title = TRY(read_title(work, database));
  if (title.state != "owner") return refused(fmt::format("{} is '{}' on {}: nobody is let in", database, title.state, work.context.host));
  CHECK_OK(set_access(work, database, Access::soft));
  return Json::object();
}

namespace {

// Whatever it cannot read is read by whoever needs it.
std::int64_t warm(const Work& work, Session& session, const Json& hot) {
  if (!hot.contains("relations")) return 0;
  const auto warmed = prewarm(work, session, hot);
  if (!warmed) log_warn("postgres", "move {}: what is hot on {} is not read ahead: {}", work.plan.move, work.theirs().host, warmed.error().text());
  return warmed.value_or(0);
}

// What `take` will do, done once and rolled back; sequences are only read, since setval() is not undone.
Result<> rehearse_take(const Work& work, Session& session, const std::string& database) {
  const auto& context = work.context;
  const auto sql = fmt::format(
      "BEGIN; SET LOCAL midstream.allow = 'on'; SET LOCAL session_replication_role = replica; SET LOCAL synchronous_commit = 'on'; {} ALTER SUBSCRIPTION {} DISABLE; "
      "DO $body$ DECLARE h midstream.handover; BEGIN SELECT * FROM midstream.handover ORDER BY turn DESC LIMIT 1 INTO h; PERFORM "
      "midstream.sequences(); UPDATE midstream.owner SET state = 'owner', began = pg_current_wal_insert_lsn(), since = now() WHERE state IN "
      "('standby', 'yielded'); END $body$; {} ROLLBACK",
      adopt_sql(work), ident(work.incoming(database)), lift_sql(work.plan, database));
  auto done = session.query(sql, {}, context.deadline.sooner(Millis(5000)), context.stop);
  if (done) return {};
  (void)session.query("ROLLBACK", {}, Deadline::in(Millis(2000)), {});
  return std::unexpected(title_error(done.error(), fmt::format("taking {} over on {} failed when it was rehearsed", database, context.host)));
}

}  // namespace

Result<Json> filled_views(const Work& work, const std::string& database) {
  return Json(TRY(work.run(database, "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE "
                                     "c.relkind = 'm' AND c.relispopulated ORDER BY c.oid"))
                  .column(0));
}

namespace {

// One that reads another comes after it, whatever the order of their numbers: in this round, or in a later one.
Result<> refresh_views(const Work& work, Session& session, std::vector<std::string> views) {
  const auto& context = work.context;
  while (!views.empty()) {
    std::vector<std::string> left;
    std::optional<Error> why;
    for (const auto& view : views) {
      const auto done = session.query("REFRESH MATERIALIZED VIEW " + view, {}, context.deadline, context.stop);
      if (done) continue;
      auto error = to_error(done.error(), "cannot refresh materialized view " + view);
      if (done.error().sqlstate != "55000") return std::unexpected(std::move(error));  // but for: it reads one that is not populated
      left.push_back(view);
      why = std::move(error);
    }
    if (left.size() == views.size()) return std::unexpected(std::move(*why));
    views = std::move(left);
  }
  return {};
}

}  // namespace

Result<Json> prepare_take(const Work& work, const std::string& database, const Json& args) {
  const auto title = TRY(read_title(work, database));
  if (title.state != "standby" && title.state != "yielded")
    return refused(fmt::format("{} is '{}' on {}, it cannot take over", database, title.state, work.context.host));
  // An earlier try let the gate in and died: the fence is proven as it is for everybody.
  if (TRY(is_gated(work, database))) CHECK_OK(refuse_gate(work, database));
  const auto arrival = TRY(look_at_subscription(work, database));
  if (!arrival.present || !arrival.enabled || arrival.ready < arrival.tables)
    return retry(fmt::format("{} on {} does not follow yet: {} of {} tables are ready", database, work.context.host,
                             arrival.ready, arrival.tables));
  CHECK_OK(enable_subscription(work, database));
  auto session = TRY(work.session(database));
  const auto& context = work.context;
  CHECK_OK(session->run("SET midstream.allow = 'on'", {}, context.deadline, context.stop));
  CHECK_OK(refresh_views(work, *session, args.value("views", std::vector<std::string>{})));
  CHECK_OK(session->run("ANALYZE", {}, context.deadline, context.stop));
  CHECK_OK(session->run("RESET midstream.allow", {}, context.deadline, context.stop));
  const auto warmed = warm(work, *session, args.value("hot", Json::object()));
  work.at("prepare.analyzed");
  CHECK_OK(make_slot(work, database, work.outgoing(database), true));
  auto proof = TRY(prove_fence(work, database, nullptr));
  CHECK_OK(holds(proof, context.host, database));
  // From hard to soft, so that becoming owner needs no file: still fenced.
  CHECK_OK(set_access(work, database, work.plan.gate.present() ? Access::gated : Access::soft));
  if (work.plan.gate.present()) CHECK_OK(admit_gate(work, database));
  CHECK_OK(rehearse_take(work, *session, database));
  return Json{{"proof", std::move(proof)}, {"fingerprint", TRY(fingerprint(work, database))}, {"warmed_bytes", warmed}};
}

namespace {

Result<bool> changed_lately(const Work& work, const std::string& database) {
  return TRY(work.run(database, "SELECT EXISTS (SELECT FROM midstream.ddl WHERE at > clock_timestamp() - interval '1 minute')")).truth(0, 0);
}

}  // namespace

Result<Json> prepare_give(const Work& work, const std::string& database, const Json& args) {
  const auto title = TRY(read_title(work, database));
  if (title.state != "owner")
    return refused(fmt::format("{} is '{}' on {}, it cannot give it away", database, title.state, work.context.host));
  const auto mine = TRY(fingerprint(work, database));
  const auto theirs = get_string_or(args, "fingerprint", "");
  if (mine != theirs) {
    const auto ours = split(mine, '\n');
    const auto other = split(theirs, '\n');
    const std::set<std::string> known(other.begin(), other.end());
    std::string first = "something is only on the other side";
    for (const auto& line : ours)
      if (!known.contains(line)) {
        first = line;
        break;
      }
    // What was done just now is on its way.
    if (TRY(changed_lately(work, database))) return retry(fmt::format("the schema of {} is changing: {}", database, printable(first.substr(0, 200))));
    return refused(
        fmt::format("the schemas of {} differ: {}", database, printable(first.substr(0, 200))),
        "make the same change on the other side (as our role, by undoing and repeating target and follow)");
  }
  CHECK_OK(make_triggers(work, database));
  auto session = TRY(work.session(database));
  CHECK_OK(extras_are_small(*session, work, database));
  CHECK_OK(make_subscription(work, database));
  CHECK_OK(disable_subscription(work, *session, database));
  const auto unknown = TRY(tables_not_followed(work, *session));
  if (!unknown.empty())
    return refused(fmt::format("tables of {} were made on {} since the move began, and are not carried over: {}", database,
                               work.context.host, join(unknown, ", ")),
                   "drop them on both sides, or roll back and run again");
  CHECK_OK(nobody_in_the_way(work, *session, database));
  const auto lag = TRY(look_at_slot(work, work.outgoing(database)));
  if (!lag.wal.given_up.empty()) return refused(fmt::format("{} stays on {}: {}", database, work.context.host, lag.wal.given_up));
  if (!lag.active || lag.bytes > kMostLag)
    return retry(
        fmt::format("{} lags {} bytes behind and is {}connected", database, lag.bytes, lag.active ? "" : "not "));
  return Json{{"lag_bytes", lag.bytes}};
}

Result<Json> give(const Work& work, const std::string& database, const Json& args) {
  auto session = TRY(work.session(database));
  CHECK_OK(rehearse_fence(work, *session, database, kYieldSql));
  auto witnesses = TRY(open_witnesses(work, database));
  const auto span = std::min<std::int64_t>(get_int_or(args, "deadline_ms", 1000), work.options.lease.count() / 2);
  // What this stirred up is not to lengthen the hold.
  if (!pause_for(kSettle, work.context.stop)) return retry(fmt::format("the switch of {} was called off", database));
  CHECK_OK(write_lease(work, database));
  // Nothing inside may wait longer than the switch may take: the database is shut meanwhile.
  const auto& outer = work.context;
  const Context bounded{outer.task, outer.host, outer.state, outer.peers, outer.deadline.sooner(Millis(span)),
                        outer.stop};
  const Work inside{bounded, work.options, work.plan, work.on_old, work.pool, work.titles, false};
  const bool gate_gone = get_bool_or(args, "gate_gone", false);
  // The last thing before the title: from here on clients wait.
  const auto asked = boot_now();
  const auto spared = gate_gone ? Result<std::set<int>>(std::set<int>{}) : GateHold(inside, database).close(work.on_old);
  if (!spared) {
    CHECK_OK(clear_lease(work, database));
    return std::unexpected(spared.error());
  }
  const auto held_ms = ms_since(asked);
  work.at("give.held");
  auto done = close_and_yield(inside, *session, database, witnesses, *spared, gate_gone, bounded.deadline);
  if (done) {
    CHECK_OK(clear_lease(work, database));
    if (work.plan.gate.present()) (*done)["held_ms"] = held_ms;
    return done;
  }
  // Where the last word is not known, the title is: it either is yielded, or opens again here.
  const auto opened = reopen(work, database);
  if (!opened) return with_context(done.error(), opened.error().what + "; the lease opens it");
  CHECK_OK(clear_lease(work, database));
  const auto title = TRY(read_title(work, database));
  if (title.state == "yielded") return Json{{"turn", title.turn}};
  auto error = done.error();
  if (error.kind == ErrorKind::unknown) error.kind = ErrorKind::retry;
  error.what = fmt::format("{} stays on {}: {}", database, work.context.host, error.what);
  return std::unexpected(std::move(error));
}

Result<Json> take(const Work& work, const std::string& database, const Json& args) {
  const auto start = boot_now();
  const auto& context = work.context;
  auto session = TRY(work.session(database));
  const auto wanted = get_int_or(args, "turn", 0);
  for (;;) {
    const auto title = TRY(read_title(work, database));
    if (title.state == "owner" && title.turn >= std::max<std::int64_t>(wanted, title.arrived))
      return Json{{"took_ms", 0}};
    if (title.state != "standby" && title.state != "yielded" && title.state != "owner")
      return refused(fmt::format("{} is '{}' on {}, it cannot take over", database, title.state, context.host));
    if (title.arrived > title.turn && title.arrived >= wanted) break;
    if (wanted == 0) return retry(fmt::format("nothing was handed over to {} on {}", database, context.host));
    CHECK_OK(wait_a_bit(Millis(1), context.deadline, context.stop,
                        fmt::format("hand-over {} of {} to arrive on {}", wanted, database, context.host)));
  }
  const auto arrived_ms = ms_since(start);
  work.at("take.arrived");
  CHECK_OK(disable_subscription(work, *session, database));
  work.at("take.stream-off");
  CHECK_OK(make_slot(work, database, work.outgoing(database), false));
  work.at("take.slot");
  const auto sql = fmt::format(
      "BEGIN; SET LOCAL synchronous_commit = 'on'; SET LOCAL midstream.allow = 'on'; SET LOCAL "
      "session_replication_role = "
      "replica; {} DO $body$ DECLARE h midstream.handover; s jsonb; BEGIN SELECT * FROM midstream.handover "
      "ORDER BY turn DESC "
      "LIMIT 1 INTO h; FOR s IN SELECT * FROM jsonb_array_elements(h.sequences) LOOP PERFORM "
      "setval((s->>0)::regclass, "
      "(s->>1)::bigint, (s->>2)::boolean); END LOOP; PERFORM midstream.take_extras(h.extras); UPDATE "
      "midstream.owner SET state "
      "= 'owner', turn = h.turn, began = pg_current_wal_insert_lsn(), since = now() WHERE state IN ('standby', "
      "'yielded') AND turn < h.turn; IF "
      "NOT FOUND THEN "
      "RAISE EXCEPTION 'midstream: already taken' USING ERRCODE = 'MS003'; END IF; END $body$; {} COMMIT",
      adopt_sql(work), lift_sql(work.plan, database));
  auto done = session->query(sql, {}, context.deadline, context.stop);
  if (!done) {
    const auto error = done.error();
    (void)session->query("ROLLBACK", {}, Deadline::in(Millis(2000)), {});
    if (error.sqlstate != "MS003")
      return std::unexpected(title_error(error, fmt::format("{} cannot take over {}", context.host, database)));
  }
  work.at("take.owner");
  return Json{{"took_ms", ms_since(start)}, {"arrived_ms", arrived_ms}};
}

Result<Json> after_give(const Work& work, const std::string& database, const Json& args) {
  const auto title = TRY(read_title(work, database));
  if (title.state != "yielded")
    return refused(fmt::format("{} is '{}' on {}, it has not yielded", database, title.state, work.context.host));
  // First: nobody is there any more that a commit here could wait for.
  if (!work.on_old) CHECK_OK(end_sync_reverse(work));
  const auto began = TRY(get_string(args, "began"));
  CHECK_OK(make_subscription(work, database));
  CHECK_OK(complete_tables(work, database));
  CHECK_OK(enable_subscription(work, database, began));
  work.at("after.reverse");
  CHECK_OK(drop_slot(work, work.outgoing(database)));
  // Where a try to take it back has let the gate in already, more than the files.
  if (TRY(is_gated(work, database))) CHECK_OK(refuse_gate(work, database));
  CHECK_OK(set_access(work, database, Access::refused));
  auto session = TRY(work.session(database));
  CHECK_OK(end_sessions(work, *session, work.context.deadline));
  auto proof = TRY(prove_fence(work, database, nullptr));
  CHECK_OK(holds(proof, work.context.host, database));
  return Json{{"proof", std::move(proof)}};
}

}  // namespace midstream::postgres
