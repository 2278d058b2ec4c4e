#include "movers/postgres/physical_give.h"

#include <fmt/format.h>

#include "base/text.h"
#include "movers/postgres/fence.h"
#include "movers/postgres/gate_hold.h"
#include "movers/postgres/handover.h"
#include "movers/postgres/schema_sql.h"
#include "movers/postgres/setup.h"
#include "movers/postgres/stream.h"
#include "movers/postgres/title.h"

namespace midstream::postgres {

namespace {

constexpr std::int64_t kMostLag = 4 << 20;  // bytes; more is not close
constexpr std::int64_t kMostRows = 1000;    // of an unlogged table: replay does not bring them
constexpr Millis kArrival{3'000};           // of a shutdown checkpoint that was sent

std::int64_t ms_since(std::chrono::nanoseconds start) { return std::chrono::duration_cast<Millis>(boot_now() - start).count(); }

Result<> unlogged_is_small(const Work& work, Session& session, const std::string& database) {
  const auto unlogged = TRY(session.run(fmt::format("SELECT name FROM ({}) AS t (name, kind, persistence, oid) WHERE kind = 'r' AND persistence = 'u'", kTablesSql),
                                        {}, work.context.deadline, work.context.stop));
  for (const auto& table : unlogged.column(0)) {
    const auto rows = TRY(session.run(fmt::format("SELECT count(*) FROM (SELECT FROM ONLY {} LIMIT {}) x", table, kMostRows + 1), {}, work.context.deadline,
                                      work.context.stop));
    if (rows.number(0, 0) > kMostRows)
      return refused(fmt::format("unlogged table {} of {} has more than {} rows, which no standby has", table, database, kMostRows),
                     "ALTER TABLE ... SET LOGGED, or empty it");
  }
  return {};
}

// All that was written before has been replayed at the other side.
Result<> wait_replayed(const Work& work, Session& session, const std::string& position, Deadline deadline) {
  for (;;) {
    const auto rows = TRY(session.run("SELECT replay_lsn >= $2::pg_lsn FROM pg_stat_replication WHERE application_name = $1 AND state = 'streaming'",
                                      {work.plan.seed_slot(), position}, deadline, work.context.stop));
    if (rows.size() > 0 && rows.truth(0, 0)) return {};
    CHECK_OK(wait_a_bit(Millis(1), deadline, work.context.stop,
                        fmt::format("the standby to replay up to {} ({})", position, rows.size() > 0 ? "it is connected" : "it is not connected")));
  }
}

// The last commit of this side. What the stop behind it takes away must come along: rows of unlogged tables.
Result<std::int64_t> yield(const Work& work, Session& session, const std::string& database) {
  const auto sql = fmt::format(
      "BEGIN; SET LOCAL synchronous_commit = 'on'; {} DO $body$ BEGIN UPDATE midstream.owner SET state = 'yielded', turn = turn + 1, since = now() WHERE "
      "state = 'closing'; IF NOT FOUND THEN RAISE EXCEPTION 'midstream: the lease ended' USING ERRCODE = 'MS002'; END IF; INSERT INTO midstream.handover "
      "(turn, epoch, sequences, extras) SELECT turn, epoch, '[]', jsonb_build_object('unlogged', midstream.extras()->'unlogged') FROM midstream.owner; END "
      "$body$; COMMIT",
      adopt_sql(work));
  auto done = session.query(sql, {}, work.context.deadline, work.context.stop);
  if (!done) {
    const auto error = done.error();
    (void)session.query("ROLLBACK", {}, Deadline::in(Millis(2000)), {});
    auto out = title_error(error, fmt::format("{} could not be yielded", database));
    if (error.sqlstate == "MS002") out.kind = ErrorKind::retry;
    return std::unexpected(std::move(out));
  }
  return TRY(session.run("SELECT turn FROM midstream.owner", {}, Deadline::in(Millis(2000)), {})).number(0, 0);
}

Result<Json> close_and_yield(const Work& work, Session& session, Witnesses& witnesses, const std::set<int>& spared, bool gate_gone) {
  const auto& database = only_database(work.plan);
  const auto deadline = work.context.deadline;
  const auto start = boot_now();
  CHECK_OK(set_closing(work, session, database));
  work.at("give.closing");
  const auto cut = TRY(end_sessions(work, session, deadline, spared));
  const auto position = TRY(barrier_position(work, session));
  const auto closed = boot_now();
  work.at("give.fenced");
  auto proof = TRY(prove_fence(work, database, &witnesses));
  CHECK_OK(holds(proof, work.context.host, database));
  CHECK_OK(wait_replayed(work, session, position, deadline));
  const auto barrier_ms = ms_since(closed);
  work.at("give.barrier");
  const auto late = TRY(end_sessions(work, session, deadline, spared));
  CHECK_OK(nobody_in_the_way(work, session, database));
  CHECK_OK(gate_keeps(work, database, gate_gone));
  work.at("give.kept");
  if (deadline.expired()) return retry(fmt::format("{} missed the switch's deadline before it was yielded", database));
  const auto turn = TRY(yield(work, session, database));
  work.at("give.yielded");
  const auto own = static_cast<int>(witnesses.open.size());
  return Json{{"turn", turn},
              {"fence_ms", std::chrono::duration_cast<Millis>(closed - start).count()},
              {"barrier_ms", barrier_ms},
              {"sessions_cut", std::max(0, static_cast<int>(cut.size() + late.size()) - own)},
              {"proof", std::move(proof)}};
}

// Yielded, or open again with the reason why not.
Result<Json> yield_or_open(const Work& work, const Json& args) {
  const auto& database = only_database(work.plan);
  auto witnesses = TRY(open_witnesses(work, database));
  auto session = TRY(work.session(database));
  const auto span = std::min<std::int64_t>(get_int_or(args, "deadline_ms", 1000), work.options.lease.count() / 2);
  CHECK_OK(write_lease(work, database));
  const auto& outer = work.context;
  const Context bounded{outer.task, outer.host, outer.state, outer.peers, outer.deadline.sooner(Millis(span)), outer.stop};
  const Work inside{bounded, work.options, work.plan, work.on_old, work.pool, work.titles, false};
  const bool gate_gone = get_bool_or(args, "gate_gone", false);
  const auto spared = gate_gone ? Result<std::set<int>>(std::set<int>{}) : GateHold(inside, database).close(work.on_old);
  if (!spared) {
    CHECK_OK(clear_lease(work, database));
    return std::unexpected(spared.error());
  }
  work.at("give.held");
  auto done = close_and_yield(inside, *session, witnesses, *spared, gate_gone);
  if (done) {
    CHECK_OK(clear_lease(work, database));
    return done;
  }
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

Result<> promoted(const Work& work, Session& session) {
  CHECK_OK(session.run("SELECT pg_promote(false)", {}, work.context.deadline, work.context.stop));
  while (TRY(session.run("SELECT pg_is_in_recovery()", {}, work.context.deadline, work.context.stop)).truth(0, 0))
    CHECK_OK(wait_a_bit(Millis(2), work.context.deadline, work.context.stop, fmt::format("the standby on {} to be promoted", work.context.host)));
  return {};
}

// By what it has replayed: the giver's `yielded`, and behind it the record at `lsn`, which is its shutdown checkpoint.
Result<> wait_arrived(const Work& work, Session& session, std::int64_t turn, const std::string& lsn) {
  for (const auto deadline = work.context.deadline.sooner(kArrival);;) {
    const auto rows = TRY(session.run("SELECT state = 'yielded' AND turn = $1::bigint AND pg_last_wal_replay_lsn() > $2::pg_lsn, pg_last_wal_replay_lsn() FROM "
                                      "midstream.owner",
                                      {std::to_string(turn), lsn}, work.context.deadline, work.context.stop));
    if (rows.size() > 0 && rows.truth(0, 0)) return {};
    CHECK_OK(wait_a_bit(Millis(2), deadline, work.context.stop,
                        fmt::format("the shutdown checkpoint at {} to be replayed on {} (which is at {})", lsn, work.context.host, rows.size() > 0 ? rows.text(0, 1) : "?")));
  }
}

}  // namespace

Result<Json> physical_prepare_take(const Work& work) {
  const auto& database = only_database(work.plan);
  const auto look = TRY(look_at_side(work));
  if (!look.up || !look.recovering) return refused(fmt::format("{} on {} is no standby, it cannot take over", database, work.context.host));
  if (!look.streaming) return retry(fmt::format("the standby on {} is not connected", work.context.host));
  // An earlier try let the gate in and died.
  CHECK_OK(set_access(work, database, Access::refused));
  CHECK_OK(remember_server(work));
  CHECK_OK(drop_slot(work, work.plan.seed_slot()));
  CHECK_OK(work.run_cluster("SELECT pg_create_physical_replication_slot($1, true)", {work.plan.seed_slot()}));
  auto proof = TRY(prove_standby(work));
  CHECK_OK(holds(proof, work.context.host, database));
  if (work.plan.gate.present()) CHECK_OK(set_access(work, database, Access::gated));
  return Json{{"proof", std::move(proof)}};
}

Result<Json> physical_prepare_give(const Work& work) {
  const auto& database = only_database(work.plan);
  const auto look = TRY(look_at_side(work));
  if (!look.owns(work.on_old)) return refused(fmt::format("{} is '{}' on {}, it cannot give it away", database, look.state, work.context.host));
  CHECK_OK(remember_server(work));
  CHECK_OK(point_at_other(work));
  CHECK_OK(make_triggers(work, database));
  auto session = TRY(work.session(database));
  CHECK_OK(unlogged_is_small(work, *session, database));
  CHECK_OK(nobody_in_the_way(work, *session, database));
  // Twice: the first may take long, and what was written meanwhile is little.
  CHECK_OK(work.run_cluster("CHECKPOINT"));
  CHECK_OK(work.run_cluster("CHECKPOINT"));
  const auto after = TRY(look_at_side(work));
  if (!after.streaming || after.lag_bytes > kMostLag)
    return retry(fmt::format("the standby of {} is {} bytes behind and is {}connected", database, after.lag_bytes, after.streaming ? "" : "not "));
  return Json{{"lag_bytes", after.lag_bytes}};
}

Result<Json> physical_give(const Work& work, const Json& args) {
  const auto start = boot_now();
  auto figures = TRY(yield_or_open(work, args));
  const auto yielded = boot_now();
  const auto given = TRY(stop_for_good(work, get_int_or(figures, "turn", 0)));
  figures["lsn"] = given.lsn;
  figures["stop_ms"] = ms_since(yielded);
  figures["give_ms"] = ms_since(start);
  return figures;
}

Result<Json> physical_take(const Work& work, const Json& args) {
  const auto start = boot_now();
  const auto& database = only_database(work.plan);
  const auto turn = TRY(get_int(args, "turn"));
  const auto lsn = TRY(get_string(args, "lsn"));
  if ((turn % 2 != 0) == work.on_old) return refused(fmt::format("turn {} is not one in which {} takes over", turn, work.context.host));
  auto session = TRY(work.session(database));
  const auto look = TRY(look_at_side(work));
  if (look.owns(work.on_old) && look.turn >= turn) return Json{{"took_ms", 0}};
  if (look.recovering) {
    CHECK_OK(wait_arrived(work, *session, turn, lsn));
    work.at("take.arrived");
    // Its rows fence it by now, as the giver's did: what the files let in, they keep out.
    if (!work.plan.gate.present()) CHECK_OK(set_access(work, database, Access::soft));
    work.at("take.access");
    CHECK_OK(promoted(work, *session));
    work.at("take.promoted");
  }
  const auto promoted_ms = ms_since(start);
  const auto sql = fmt::format(
      "BEGIN; SET LOCAL synchronous_commit = 'on'; SET LOCAL midstream.allow = 'on'; SET LOCAL session_replication_role = replica; {} DO $body$ DECLARE h "
      "midstream.handover; BEGIN SELECT * FROM midstream.handover ORDER BY turn DESC LIMIT 1 INTO h; UPDATE midstream.owner SET state = 'owner', began = "
      "pg_current_wal_insert_lsn(), since = now() WHERE state = 'yielded' AND turn = {} AND turn = h.turn; IF NOT FOUND THEN RAISE EXCEPTION 'midstream: "
      "nothing was yielded to this side' USING ERRCODE = 'MS003'; END IF; PERFORM midstream.take_extras(h.extras); END $body$; {} COMMIT",
      adopt_sql(work), turn, lift_sql(work.plan, database));
  auto done = session->query(sql, {}, work.context.deadline, work.context.stop);
  if (!done) {
    (void)session->query("ROLLBACK", {}, Deadline::in(Millis(2000)), {});
    return std::unexpected(title_error(done.error(), fmt::format("{} cannot take over {}", work.context.host, database)));
  }
  work.at("take.owner");
  return Json{{"took_ms", ms_since(start)}, {"promote_ms", promoted_ms}};
}

Result<Json> physical_refuse(const Work& work) {
  const auto look = TRY(look_at_side(work));
  if (!look.recovering) return Json::object();
  CHECK_OK(set_access(work, "", Access::refused));
  CHECK_OK(drop_slot(work, work.plan.seed_slot()));
  return Json::object();
}

Result<Json> physical_rejoin(const Work& work) {
  CHECK_OK(start_again(work));
  work.at("rejoin.started");
  const auto look = TRY(look_at_side(work));
  if (!look.recovering) return refused(fmt::format("the server on {} came up as no standby; it is '{}'", work.context.host, look.state));
  CHECK_OK(set_access(work, "", Access::refused));
  // As a primary it kept the log for its standby.
  CHECK_OK(drop_slot(work, work.plan.seed_slot()));
  auto proof = TRY(prove_standby(work));
  CHECK_OK(holds(proof, work.context.host, only_database(work.plan)));
  return Json{{"proof", std::move(proof)}};
}

}  // namespace midstream::postgres
