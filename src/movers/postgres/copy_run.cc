#include "movers/postgres/copy_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <set>
#include <thread>

#include "base/text.h"
#include "movers/postgres/ddl.h"
#include "movers/postgres/late_checks.h"
#include "movers/postgres/schema_sql.h"

namespace midstream::postgres {

namespace {

// Handed on at once: old sends rows in pieces of 8 KiB, and to wake new for each of them costs both.
constexpr std::size_t kBatch = 128 << 10;
constexpr Millis kStuck{600'000};  // one worker that has not got on for so long
constexpr Millis kMeasure{1'500};
constexpr std::int64_t kAllThere = -1;  // the note of no table's first page: all rows are there

// The publication's tables, with what a copy may fill, but for our own: a row of an earlier hand-over would pass for one
// that has arrived. What regclass and its like hold, and arrays of what is made anew in every cluster, is another number on
// each server, and some types have no binary form: such tables go as text.
constexpr const char* kSourceSql =
    "SELECT format('%I.%I', p.schemaname, p.tablename), coalesce(a.names, ''), coalesce(a.builtin, true), "
    "pg_relation_size(c.oid) / current_setting('block_size')::int, c.oid FROM pg_publication_tables p JOIN pg_class c ON "
    "c.oid = format('%I.%I', p.schemaname, p.tablename)::regclass, LATERAL (SELECT string_agg(quote_ident(attname), ', ' "
    "ORDER BY attnum) AS names, bool_and(t.oid < 12000 AND t.typsend <> 0 AND coalesce(e.typsend, 1) <> 0 AND coalesce(e.typtype, "
    "t.typtype) IN ('b', 'r', 'm') AND coalesce(e.typname, t.typname) NOT LIKE 'reg%') AS builtin "
    "FROM pg_attribute JOIN pg_type t ON t.oid = atttypid LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = "
    "'A' WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = '') a WHERE p.pubname = $1 AND "
    "p.schemaname <> 'midstream' ORDER BY 1";

// Whether the table is still in the file that it was in when the snapshot was taken: the row of pg_class is seen as of the
// snapshot, the function answers for now. Asked after the rows were read, while the table is still locked. After VACUUM
// FULL rows are on other pages, and after an ALTER TABLE that rewrites an older snapshot sees none at all.
constexpr const char* kSameFileSql =
    "SELECT coalesce((SELECT relfilenode = pg_relation_filenode(oid) FROM pg_class WHERE oid = $1::oid), false)";

// Written in the transaction that writes the rows: the two are kept, or lost in a crash, together.
constexpr const char* kNotesSql =
    "SET midstream.allow = 'on'; SET session_replication_role = replica; CREATE TABLE IF NOT EXISTS midstream.copied (cut "
    "text, relation text, first bigint, PRIMARY KEY (cut, relation, first))";

std::string copy_origin(const Work& work, const std::string& database, const std::string& worker) {
  return fmt::format("midstream_copy_{}_{}_{}", work.plan.move, work.plan.number(database), worker);
}

// Text goes as it is stored: new's database has old's encoding, and not all that is stored can be said in another.
constexpr const char* kAsStored = "SELECT set_config('client_encoding', current_setting('server_encoding'), false)";

// First in every transaction that writes: this side owns nothing, and cannot come to own it before the transaction is over.
constexpr const char* kStandbySql =
    "DO $body$ BEGIN PERFORM FROM midstream.owner WHERE state = 'standby' AND turn = 0 FOR SHARE; IF NOT FOUND THEN RAISE "
    "EXCEPTION 'midstream: this side has owned the database, it is not copied over'; END IF; END $body$";

// One copy's queue and what its workers share.
class Run {
 public:
  Run(const Work& work, const std::string& database, const Session::Target& source, const Snapshot& snapshot,
      CopyFigures& figures)
      : work_(work), database_(database), source_(source), snapshot_(snapshot), figures_(figures),
        cut_(fmt::format("{} {}", snapshot.name, work.options.copy_chunk)), manners_(source, work.plan.commit_latency_ms, figures.manners) {}

  Result<> plan() {
    auto old_side = TRY(reader());
    CHECK_OK(old_side.run(see_snapshot(), {}, Deadline::in(Millis(10'000)), work_.context.stop));
    const auto threshold = TRY(old_side.run("SELECT coalesce(current_setting('old_snapshot_threshold', true), '-1')", {},
                                            Deadline::in(Millis(10'000)), work_.context.stop));
    if (threshold.text(0, 0) != "-1")
      return refused(fmt::format("old_snapshot_threshold is {} on {}: it would remove rows that are still to be copied",
                                 threshold.text(0, 0), work_.theirs().host),
                     "set it to -1 and restart that server, or wait with the move");
    // DDL between new's schema and the snapshot; what comes after the snapshot is in the stream.
    auto repeater = TRY(writer());
    CHECK_OK(repeat_before_copy(work_, repeater, TRY(ddl_rows(old_side, Deadline::in(Millis(10'000)), work_.context.stop)), kStandbySql));
    const auto rows = TRY(old_side.run(kSourceSql, {work_.plan.publication()}, Deadline::in(kStuck), work_.context.stop));
    std::vector<SourceTable> tables;
    for (int i = 0; i < rows.size(); ++i)
      tables.push_back({rows.text(i, 0), rows.text(i, 1), rows.truth(i, 2), rows.number(i, 3), rows.text(i, 4)});
    const auto done = TRY(noted());
    for (const auto& table : tables) tables_[table.name] = table;
    figures_.tables = static_cast<int>(tables.size());
    const auto large = queue_up(cut_into_chunks(tables, work_.options.copy_chunk), done);
    auto new_side = TRY(writer());
    CHECK_OK(set_checks_aside(new_side, kStandbySql, work_.context.stop));
    return set_indexes_aside(new_side, large, kStandbySql, work_.context.stop);
  }

  // Durable when it returns: the snapshot may go then.
  Result<> note_all_there() {
    auto new_side = TRY(writer());
    CHECK_OK(new_side.run(fmt::format("BEGIN; SET LOCAL midstream.allow = 'on'; SET LOCAL session_replication_role = replica; SET "
                                      "LOCAL synchronous_commit = on; INSERT INTO midstream.copied VALUES ({}, '', {}) ON CONFLICT "
                                      "DO NOTHING; COMMIT",
                                      quote(cut_), kAllThere),
                          {}, Deadline::in(kStuck), work_.context.stop));
    return {};
  }

  Result<> copy_all(int most, const std::function<void()>& alive) {
    // One worker keeps a core of new busy, and a part of another with its own thread.
    Climb climb(std::clamp(static_cast<int>(std::thread::hardware_concurrency()) / 2, 1, most), most);
    std::vector<std::jthread> workers;
    auto before = figures_.bytes_sent.load();
    auto since = boot_now();
    while (!over()) {
      wanted_ = climb.workers();
      while (static_cast<int>(workers.size()) < wanted_)
        workers.emplace_back([this, number = static_cast<int>(workers.size())] { work_on(number); });
      figures_.workers = std::min<int>(wanted_, static_cast<int>(workers.size()));
      pause_for(Millis(20), work_.context.stop);
      if (boot_now() - since < kMeasure) continue;
      alive();
      const auto now = figures_.bytes_sent.load();
      // What is read while old is spared says nothing about workers.
      if (!manners_.throttled()) {
        const auto speed = static_cast<double>(now - before) / std::chrono::duration<double>(boot_now() - since).count();
        climb.measured(speed);
        manners_.free_speed(speed);
      }
      before = now;
      since = boot_now();
    }
    workers.clear();  // joined
    figures_.workers = 0;
    const std::lock_guard lock(mutex_);
    if (failed_) return std::unexpected(*failed_);
    if (work_.context.stop.stop_requested()) return failure(ErrorKind::cancelled, "the copy was stopped");
    return {};
  }

 private:
  Result<Session> reader() {
    auto source = source_;
    source.options = "-c synchronize_seqscans=off ";
    source.options += kNoticedGone;
    auto session = TRY(Session::connect(source, Deadline::in(Millis(10'000)), work_.context.stop));
    CHECK_OK(session.run(kAsStored, {}, Deadline::in(Millis(10'000)), work_.context.stop));
    return session;
  }
  // A transaction on old that sees what the snapshot saw. One for each part: whoever must lock a table that is being
  // copied waits for a part, not for the copy.
  std::string see_snapshot() const {
    return fmt::format("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT {}",
                       quote(snapshot_.name));
  }
  Result<Session> writer() {
    return Session::connect(work_.target(database_, work_.plan.agent_role()), Deadline::in(Millis(10'000)),
                            work_.context.stop);
  }
  // What it commits is marked as come from elsewhere. An origin is for one session at a time: each worker has its own.
  Result<Session> marked_writer(int number) {
    auto session = TRY(writer());
    CHECK_OK(session.run(kAsStored, {}, Deadline::in(Millis(10'000)), work_.context.stop));
    const auto name = quote(copy_origin(work_, database_, std::to_string(number)));
    CHECK_OK(session.run(fmt::format("SELECT pg_replication_origin_create({0}) WHERE NOT EXISTS (SELECT FROM "
                                     "pg_replication_origin WHERE roname = {0}); SELECT "
                                     "pg_replication_origin_session_setup({0})",
                                     name),
                         {}, Deadline::in(Millis(10'000)), work_.context.stop));
    return session;
  }

  using Noted = std::set<std::pair<std::string, std::int64_t>>;

  // The tables of several parts of which one is still to come: the others have their indexes, or wait for them.
  std::vector<std::string> queue_up(std::vector<Chunk> chunks, const Noted& done) {
    std::map<std::string, int> parts;
    std::set<std::string> unfinished;
    for (auto& chunk : chunks) {
      ++parts[chunk.table];
      ++figures_.chunks;
      figures_.bytes_total += chunk.bytes;
      if (done.contains({chunk.table, chunk.first})) {
        ++figures_.chunks_done;
        figures_.bytes_done += chunk.bytes;
      } else {
        unfinished.insert(chunk.table);
        queue_.push_back(std::move(chunk));
      }
    }
    std::ranges::reverse(queue_);  // taken from the end
    std::vector<std::string> large;
    std::ranges::copy_if(unfinished, std::back_inserter(large), [&](const auto& table) { return parts[table] > 1; });
    return large;
  }

  Result<Noted> noted() {
    auto new_side = TRY(writer());
    CHECK_OK(new_side.run(kNotesSql, {}, Deadline::in(Millis(10'000)), work_.context.stop));
    const auto rows = TRY(new_side.run("SELECT relation, first, cut FROM midstream.copied", {},
                                       Deadline::in(Millis(10'000)), work_.context.stop));
    Noted done;
    for (int i = 0; i < rows.size(); ++i) {
      if (rows.text(i, 2) != cut_)
        return failure(ErrorKind::corrupt, "rows of another snapshot, or cut otherwise, are in the tables");
      done.emplace(rows.text(i, 0), rows.number(i, 1));
    }
    return done;
  }

  bool over() {
    const std::lock_guard lock(mutex_);
    return failed_ || work_.context.stop.stop_requested() || (queue_.empty() && busy_ == 0);
  }

  std::optional<Chunk> next() {
    const std::lock_guard lock(mutex_);
    if (failed_ || work_.context.stop.stop_requested() || queue_.empty()) return std::nullopt;
    auto chunk = std::move(queue_.back());
    queue_.pop_back();
    ++busy_;
    return chunk;
  }

  void finished(const Chunk& chunk, const Result<>& how) {
    const std::lock_guard lock(mutex_);
    --busy_;
    if (!how && !failed_) failed_ = how.error();
    if (!how) return;
    ++figures_.chunks_done;
    figures_.bytes_done += chunk.bytes;
  }

  void work_on(int number) {
    std::optional<Session> from, to;
    while (!over()) {
      if (number >= wanted_) {
        pause_for(Millis(50), work_.context.stop);
        continue;
      }
      auto chunk = next();
      if (!chunk) {
        pause_for(Millis(5), work_.context.stop);
        continue;
      }
      finished(*chunk, one(*chunk, number, from, to));
    }
  }

  Result<> one(const Chunk& chunk, int number, std::optional<Session>& from, std::optional<Session>& to) {
    if (!from) from.emplace(TRY(reader()));
    if (!to) to.emplace(TRY(marked_writer(number)));
    const auto doing = fmt::format("copying {} from page {}", chunk.table, chunk.first);
    const auto moved = transfer(chunk, *from, *to);
    if (!moved) return std::unexpected(to_error(moved.error(), doing));
    if (!*moved)
      return failure(ErrorKind::corrupt, fmt::format("{} was rewritten on old, or altered, after the snapshot was taken", chunk.table));
    return {};
  }

  // False: the table is not in the file any more that the snapshot knows; nothing was written.
  std::expected<bool, SqlError> transfer(const Chunk& chunk, Session& from, Session& to) {
    const auto& stop = work_.context.stop;
    const auto& table = tables_.at(chunk.table);
    const auto limit = [] { return Deadline::in(kStuck); };
    const auto begun = to.query(fmt::format("BEGIN; SET LOCAL midstream.allow = 'on'; SET LOCAL session_replication_role = "
                                            "replica; SET LOCAL synchronous_commit = off; {}",
                                            kStandbySql),
                                {}, limit(), stop);
    if (!begun) return std::unexpected(begun.error());
    if (auto seen = from.query(see_snapshot(), {}, limit(), stop); !seen) return std::unexpected(seen.error());
    if (auto out = from.begin_copy(copy_out_sql(table, chunk), limit(), stop); !out) {
      // The table, or a column of it, is gone or has another name.
      if (out.error().sqlstate == "42P01" || out.error().sqlstate == "42703") return false;
      return std::unexpected(out.error());
    }
    if (auto in = to.begin_copy(copy_in_sql(table), limit(), stop); !in) return std::unexpected(in.error());
    std::string buffer;
    for (bool more = true; more;) {
      const auto asked = boot_now();
      const auto came = from.read_copy(buffer, kBatch, limit(), stop);
      if (!came) return std::unexpected(came.error());
      more = *came;
      if (auto put = to.put_copy(buffer, limit(), stop); !put) return std::unexpected(put.error());
      const auto bytes = buffer.size();
      figures_.bytes_sent += static_cast<std::int64_t>(bytes);
      buffer.clear();
      pause_for(std::chrono::ceil<Millis>(manners_.rest_after(boot_now() - asked, bytes, figures_.workers)), stop);
    }
    const auto rows = to.end_copy(limit(), stop);
    if (!rows) return std::unexpected(rows.error());
    const auto same = from.query(kSameFileSql, {table.oid}, limit(), stop);
    if (!same) return std::unexpected(same.error());
    if (!same->truth(0, 0)) return false;  // the sessions are given up with the run, and with them what they wrote
    if (auto seen = from.query("COMMIT", {}, limit(), stop); !seen) return std::unexpected(seen.error());
    figures_.rows += *rows;
    const auto noted = to.query("INSERT INTO midstream.copied VALUES ($1, $2, $3)",
                                {cut_, chunk.table, std::to_string(chunk.first)}, limit(), stop);
    if (!noted) return std::unexpected(noted.error());
    const auto kept = to.query("COMMIT", {}, limit(), stop);
    if (!kept) return std::unexpected(kept.error());
    return true;
  }

  const Work& work_;
  const std::string& database_;
  const Session::Target& source_;
  const Snapshot& snapshot_;
  CopyFigures& figures_;
  const std::string cut_;  // what the notes speak of: parts of this size, under this snapshot
  Manners manners_;
  std::map<std::string, SourceTable> tables_;
  std::atomic<int> wanted_ = 0;
  std::mutex mutex_;  // guards what follows
  std::vector<Chunk> queue_;
  int busy_ = 0;
  std::optional<Error> failed_;
};

}  // namespace

Session::Target source_of(const Work& work, const std::string& database, const std::string& password) {
  Session::Target target;
  target.host = work.theirs().address;
  target.port = work.theirs().port;
  target.database = database;
  target.user = work.plan.replication_role();
  target.password = password;
  target.application = work.incoming(database);
  target.quiet = false;  // what it takes to be quiet is a superuser's
  return target;
}

Result<> empty_tables(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  auto tables =
      TRY(session->run(fmt::format("SELECT name FROM ({}) AS t (name, kind, persistence, oid)", kTablesSql), {},
                       work.context.deadline, work.context.stop))
          .column(0);
  tables.push_back("midstream.handover");
  CHECK_OK(session->run(fmt::format("BEGIN; SET LOCAL midstream.allow = 'on'; SET LOCAL session_replication_role = "
                                    "replica; {}; DROP TABLE IF EXISTS midstream.copied; TRUNCATE {}; COMMIT",
                                    kStandbySql, join(tables, ", ")),
                        {}, work.context.deadline, work.context.stop));
  return {};
}

Result<> run_copy(const Work& work, const std::string& database, const Session::Target& source, const Snapshot& snapshot,
                  int most_workers, CopyFigures& figures, const std::function<void()>& alive) {
  figures.began_ms = std::chrono::duration_cast<Millis>(boot_now()).count();
  Run run(work, database, source, snapshot, figures);
  CHECK_OK(run.plan());
  CHECK_OK(run.copy_all(most_workers, alive));
  return run.note_all_there();
}

Result<bool> rows_are_there(const Work& work, const std::string& database) {
  if (TRY(work.run(database, "SELECT to_regclass('midstream.copied') IS NULL")).truth(0, 0)) return false;
  return TRY(work.run(database, "SELECT 1 FROM midstream.copied WHERE first = $1", {std::to_string(kAllThere)})).size() > 0;
}

Result<> forget_copy_notes(const Work& work, const std::string& database) {
  CHECK_OK(work.run(database, "SELECT pg_replication_origin_drop(roname) FROM pg_replication_origin WHERE roname ~ $1",
                    {fmt::format("^{}[0-9]+$", copy_origin(work, database, ""))}));
  CHECK_OK(work.run(database, "BEGIN; SET LOCAL midstream.allow = 'on'; SET LOCAL session_replication_role = replica; DROP TABLE "
                              "IF EXISTS midstream.copied; COMMIT"));
  return {};
}

}  // namespace midstream::postgres
