#include "movers/postgres/seed_run.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "movers/postgres/access.h"
#include "movers/postgres/copy_run.h"
#include "movers/postgres/fence.h"
#include "movers/postgres/physical_follow.h"
#include "movers/postgres/physical_side.h"
#include "movers/postgres/seed_adopt.h"
#include "movers/postgres/seed_backup.h"
#include "movers/postgres/seed_pace.h"
#include "movers/postgres/seed_server.h"
#include "movers/postgres/setup.h"
#include "movers/postgres/snapshot_holder.h"
#include "movers/postgres/stream.h"
#include "movers/postgres/title.h"
#include "sys/file.h"
#include "sys/log.h"

namespace midstream::postgres {

namespace {

constexpr Millis kStuck{60'000};      // one statement on old
constexpr Millis kOpenWriters{30'000};  // a slot waits for who has written and not committed
constexpr Millis kLook{50};
constexpr Millis kSlowLook{10};  // between two rests, where old is spared
constexpr int kMostStarts = 5;

// "16/B374D848"
std::uint64_t position(const std::string& text) {
  const auto slash = text.find('/');
  if (slash == std::string::npos) return 0;
  return std::strtoull(text.c_str(), nullptr, 16) << 32 | std::strtoull(text.c_str() + slash + 1, nullptr, 16);
}

std::int64_t now_ms() { return std::chrono::duration_cast<Millis>(boot_now()).count(); }

class Seed {
 public:
  Seed(const Work& work, SeedNote note, SeedFigures& figures)
      : work_(work), note_(std::move(note)), place_(note_.place(work)), figures_(figures) {}

  Result<> run() {
    if (!note_.lost.empty()) return refused(note_.lost, "roll back, then run again");
    if (note_.stage == "backup") CHECK_OK(back_up());
    if (note_.stage == "copied") CHECK_OK(work_.plan.physical() ? become_standby() : make_slots());
    if (note_.stage == "pointed") CHECK_OK(recover_and_adopt());
    if (note_.stage == "adopted") CHECK_OK(swap());
    return work_.plan.physical() ? follow_as_standby() : follow();
  }

 private:
  Result<> reach(std::string stage) {
    note_.stage = std::move(stage);
    return note_.save(work_);
  }

  // ---- what is asked of old, as the replication role: it may make and drop slots
  Result<Session::Target> old_side(const std::string& database) {
    const auto record = TRY(Record::load(work_.context, work_.plan.move));
    auto source = source_of(work_, database, get_string_or(record, "peer_password", ""));
    source.options = kNoticedGone;
    return source;
  }
  Result<Session> at_old(const std::string& database) {
    return Session::connect(TRY(old_side(database)), Deadline::in(Millis(10'000)), work_.context.stop);
  }
  Result<Rows> ask(Session& session, const std::string& sql, const Params& params) {
    return session.run(sql, params, Deadline::in(kStuck), work_.context.stop);
  }
  // The log that recovery needs is kept for it.
  Result<bool> log_is_kept() {
    auto session = TRY(at_old(work_.plan.databases.front()));
    return TRY(ask(session, "SELECT 1 FROM pg_replication_slots WHERE slot_name = $1 AND coalesce(wal_status, 'lost') <> 'lost'",
                   {work_.plan.seed_slot()}))
               .size() > 0;
  }
  Result<> drop_slot_at(Session& session, const std::string& name) {
    for (const auto deadline = Deadline::in(kStuck);;) {
      const auto found = TRY(ask(session, "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1", {name}));
      if (found.size() == 0) return {};
      const auto dropped = session.query("SELECT pg_drop_replication_slot($1)", {name}, Deadline::in(kStuck), work_.context.stop);
      if (dropped) return {};
      if (dropped.error().sqlstate != "55006" && dropped.error().sqlstate != "42704")
        return std::unexpected(to_error(dropped.error(), fmt::format("cannot drop slot {}", name)));
      CHECK_OK(wait_a_bit(Millis(50), deadline, work_.context.stop, fmt::format("slot {} to be free", name)));
    }
  }

  // Gives up by itself: somebody has to look, and another try would do the same to old's disk.
  Result<> lose(std::string why) {
    note_.lost = std::move(why);
    CHECK_OK(note_.save(work_));
    CHECK_OK(kill_seed_server(place_));  // nobody goes on with it
    return refused(note_.lost, "roll back, then run again");
  }

  // From nothing, unless old has given the log up: then its disk is full.
  Result<> begin_again(const std::string& why) {
    if (!TRY(log_is_kept())) return lose(fmt::format("old does not keep its log for the seed any more ({})", why));
    log_warn("postgres", "move {}: the seed begins again: {}", work_.plan.move, why);
    note_.round += 1;
    note_.why = why;
    note_.starts = 0;
    note_.point.clear();
    CHECK_OK(reach("backup"));
    CHECK_OK(kill_seed_server(place_));
    CHECK_OK(end_backup(place_));
    CHECK_OK(remove_copy(place_));
    CHECK_OK(clear_box(place_));
    return retry(why);
  }

  // ---- backup -> copied
  Result<> begin_backup() {
    auto session = TRY(at_old(work_.plan.databases.front()));
    CHECK_OK(drop_slot_at(session, work_.plan.seed_slot()));
    CHECK_OK(ask(session, "SELECT pg_create_physical_replication_slot($1, true)", {work_.plan.seed_slot()}));
    CHECK_OK(remove_copy(place_));
    work_.at("seed.slot");
    return start_backup(work_, place_, note_.major);
  }

  Result<> back_up() {
    std::error_code ignored;
    if (!TRY(look_at_backup(place_)).running && !std::filesystem::exists(place_.box / "backup.log", ignored)) CHECK_OK(begin_backup());
    work_.at("seed.backup");
    auto look = TRY(look_at_backup(place_));
    figures_.began_done = look.bytes_done;
    figures_.began_ms = now_ms();
    BackupPace pace(place_);
    CHECK_OK(pace.go_on());
    Manners manners(TRY(old_side(work_.plan.databases.front())), work_.plan.commit_latency_ms, figures_.manners);
    const auto forever = Deadline::in(Millis(30ll * 86'400'000));
    for (; look.running; look = TRY(look_at_backup(place_))) {
      figures_.bytes_done = look.bytes_done;
      figures_.bytes_total = look.bytes_total;
      const auto share = manners.share();
      const auto rest = TRY(pace.at(share));
      CHECK_OK(wait_a_bit(share < 1 ? rest + kSlowLook : kLook, forever, work_.context.stop, "the base backup"));
    }
    if (!look.ended_well) return begin_again("the base backup ended: " + look.last_words);
    figures_.bytes_done = figures_.bytes_total.load();
    CHECK_OK(mark_copy(place_, work_.plan.move));
    CHECK_OK(reach("copied"));
    work_.at("seed.copied");
    return {};
  }

  // ---- copied -> pointed. Only now, behind everything that the base backup has: one that has replayed past a slot's point cannot
  // end there.
  Result<std::string> make_slot_at(const std::string& database) {
    auto session = TRY(at_old(database));
    const auto name = work_.plan.stream(database, true);
    CHECK_OK(drop_slot_at(session, name));
    CHECK_OK(ask(session, fmt::format("SET statement_timeout = {}", kOpenWriters.count()), {}));
    const auto made = session.query("SELECT lsn FROM pg_create_logical_replication_slot($1, 'pgoutput')", {name}, Deadline::in(kStuck), work_.context.stop);
    if (made) return made->text(0, 0);
    auto error = to_error(made.error(), fmt::format("cannot make slot {} on old", name));
    if (made.error().sqlstate == "57014") error.what += "; it waits for every transaction that has written: see which is open on old";
    return std::unexpected(std::move(error));
  }

  Result<> make_slots() {
    if (!TRY(log_is_kept())) return lose("old does not keep its log for the seed any more");
    note_.point.clear();
    for (const auto& database : work_.plan.databases) {
      const auto point = TRY(make_slot_at(database));
      if (position(point) > position(note_.point)) note_.point = point;
      work_.at("seed.slots");
    }
    // A record that begins behind the point, without which an idle old would never reach it.
    auto session = TRY(at_old(work_.plan.databases.front()));
    CHECK_OK(ask(session, "SELECT pg_logical_emit_message(true, 'midstream', 'seed')", {}));
    CHECK_OK(prepare_seed_server(work_, place_, note_.point));
    work_.at("seed.prepared");
    CHECK_OK(reach("pointed"));
    work_.at("seed.pointed");
    return {};
  }

  // ---- copied -> adopted, on the physical road
  Result<> become_standby() {
    if (!TRY(log_is_kept())) return lose("old does not keep its log for the copy any more");
    if (auto done = prepare_standby(work_, place_, note_.major); !done) return done.error().kind == ErrorKind::corrupt ? lose(done.error().what) : done;
    CHECK_OK(access_is_closed());
    CHECK_OK(reach("adopted"));
    work_.at("seed.adopted");
    return {};
  }

  // ---- pointed -> adopted
  // It runs and answers: it has reached the point. Begins the seed again where it cannot.
  Result<> recovered(const Work& inside) {
    auto looked = boot_now();
    while (true) {
      if (!seed_server_runs(place_)) {
        // What is left of one that was killed takes a moment to go.
        pause_for(Millis(1'000) * note_.starts, work_.context.stop);
        if (note_.starts >= kMostStarts) return begin_again("the copy does not recover: " + seed_server_trouble(place_));
        note_.starts += 1;
        CHECK_OK(note_.save(work_));
        CHECK_OK(start_seed_server(place_, note_.major));
        work_.at("seed.started");
      }
      auto session = Session::connect(inside.target("postgres", inside.options.superuser), Deadline::in(Millis(5'000)), work_.context.stop);
      if (session) {
        const auto writable = TRY(session->run("SELECT NOT pg_is_in_recovery() AND timeline_id > 1 FROM pg_control_checkpoint()", {}, Deadline::in(kStuck), work_.context.stop));
        if (writable.truth(0, 0)) return {};
        return lose("the copy answers before it has become writable at the slots' point");
      }
      if (work_.context.stop.stop_requested()) return failure(ErrorKind::cancelled, "the seed was stopped");
      pause_for(Millis(20), work_.context.stop);
      if (boot_now() - looked < Millis(2'000)) continue;
      looked = boot_now();
      const auto kept = log_is_kept();
      if (kept && !*kept) return lose("old does not keep its log for the seed any more");
    }
  }

  // What will be read once the copy is in its place lets in nobody but us.
  Result<> access_is_closed() {
    const auto path = std::filesystem::path(TRY(work_.run_cluster("SHOW hba_file")).text(0, 0));
    const auto inside = path.lexically_relative(place_.data);
    const bool in_data = !inside.empty() && !inside.native().starts_with("..");
    const auto file = in_data ? place_.cluster() / inside : path;
    const std::set<std::string> all(work_.plan.databases.begin(), work_.plan.databases.end());
    if (find_block(TRY(read_file(file)), work_.plan.move).lines == hba_lines(work_.plan, work_.theirs().address, all)) return {};
    return retry(fmt::format("{} does not have the move's block in it: the copy stays where nobody reaches it", file.native()),
                 "repeat the target step");
  }

  Result<> recover_and_adopt() {
    const auto options = seed_server_options(work_, place_);
    {
      Pool pool;
      const Work inside{work_.context, options, work_.plan, false, pool, work_.titles, true};
      CHECK_OK(recovered(inside));
      work_.at("seed.recovered");
      CHECK_OK(adopt_copy(inside));
      work_.at("seed.fenced");
      if (auto fenced = copy_is_fenced(inside); !fenced) return fenced.error().kind == ErrorKind::corrupt ? lose(fenced.error().what) : fenced;
      CHECK_OK(inside.run_cluster("CHECKPOINT"));
    }
    CHECK_OK(stop_seed_server(place_, note_.major));
    work_.at("seed.ended");
    CHECK_OK(settle_files(place_));
    CHECK_OK(access_is_closed());
    CHECK_OK(reach("adopted"));
    work_.at("seed.adopted");
    return {};
  }

  // ---- adopted -> swapped
  Result<> swap() {
    CHECK_OK(stop_server(work_, note_.unit, place_.data));
    work_.at("seed.stopped");
    CHECK_OK(swap_in(place_));
    work_.at("seed.exchanged");
    CHECK_OK(start_server(work_, note_.unit, place_.data));
    CHECK_OK(reach("swapped"));
    work_.at("seed.swapped");
    return {};
  }

  // ---- swapped -> followed
  Result<> follow() {
    work_.pool.drop_all();
    if (auto fenced = copy_is_fenced(work_); !fenced) {
      if (fenced.error().kind != ErrorKind::corrupt) return fenced;
      CHECK_OK(stop_server(work_, note_.unit, place_.data));  // at once: the question who owns has two answers
      return lose(fenced.error().what);
    }
    for (const auto& database : work_.plan.databases) {
      const auto proof = TRY(prove_fence(work_, database, nullptr));
      CHECK_OK(holds(proof, work_.context.host, database));
      CHECK_OK(make_subscription(work_, database));
      CHECK_OK(enable_subscription(work_, database, note_.point));
      work_.at("seed.subscribed");
    }
    auto session = TRY(at_old(work_.plan.databases.front()));
    CHECK_OK(drop_slot_at(session, work_.plan.seed_slot()));
    CHECK_OK(clear_box(place_));
    work_.at("seed.followed");
    return SeedNote::remove(work_);
  }

  // ---- swapped -> followed, on the physical road: the slot stays, it is the standby's
  Result<> follow_as_standby() {
    work_.pool.drop_all();
    CHECK_OK(remember_server(work_));
    if (auto fenced = is_standby(work_); !fenced) {
      if (fenced.error().kind != ErrorKind::corrupt && fenced.error().kind != ErrorKind::refused) return fenced;
      CHECK_OK(stop_server(work_, note_.unit, place_.data));
      return lose(fenced.error().what);
    }
    CHECK_OK(clear_box(place_));
    work_.at("seed.followed");
    return SeedNote::remove(work_);
  }

  const Work& work_;
  SeedNote note_;
  const SeedPlace place_;
  SeedFigures& figures_;
};

}  // namespace

Result<> run_seed(const Work& work, SeedFigures& figures) {
  auto note = TRY(SeedNote::load(work));
  if (!note) return {};
  if (note->stage == "undo") return put_back(work, std::move(*note));
  return Seed(work, std::move(*note), figures).run();
}

Result<> put_back(const Work& work, SeedNote note) {
  const auto place = note.place(work);
  CHECK_OK(end_backup(place));
  CHECK_OK(kill_seed_server(place));
  if (is_copy(place.data)) {
    CHECK_OK(stop_server(work, note.unit, place.data));
    work.at("undo.seed.stopped");
  }
  CHECK_OK(swap_back(place));
  work.at("undo.seed.exchanged");
  CHECK_OK(start_server(work, note.unit, place.data));
  work.at("undo.seed.started");
  work.pool.drop_all();
  // The cluster that was there knows of the copy's later access blocks nothing.
  CHECK_OK(set_access(work, "", Access::refused));
  CHECK_OK(remove_copy(place));
  work.at("undo.seed.removed");
  CHECK_OK(clear_box(place));
  return SeedNote::remove(work);
}

}  // namespace midstream::postgres
