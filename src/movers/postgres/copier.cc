#include "movers/postgres/copier.h"

#include <fmt/format.h>

#include <algorithm>

#include "movers/postgres/late_checks.h"
#include "movers/postgres/stream.h"
#include "movers/postgres/title.h"
#include "sys/file.h"
#include "sys/log.h"

namespace midstream::postgres {

namespace {

namespace fs = std::filesystem;

constexpr Millis kForever{30ll * 86'400'000};
constexpr Millis kAgain{2'000};
constexpr Millis kHolderPatience{40'000};

fs::path path_of(const Work& work, const std::string& database, std::string_view suffix) {
  return work.context.state / fmt::format("{}-{}.{}", work.plan.move, work.plan.number(database), suffix);
}
fs::path note_of(const Work& work, const std::string& database) { return path_of(work, database, "copy"); }
fs::path snapshot_of(const Work& work, const std::string& database) { return path_of(work, database, "snapshot"); }

Result<> save_note(const Work& work, const std::string& database, std::int64_t round, const std::string& why) {
  return write_file_durably(note_of(work, database), Json{{"round", round}, {"why", why}}.dump(), 0600);
}

Result<Json> load_note(const Work& work, const std::string& database) {
  return parse_json(TRY(read_file(note_of(work, database))));
}

Result<Session::Target> source_with_password(const Work& work, const std::string& database) {
  const auto record = TRY(Record::load(work.context, work.plan.move));
  const auto password = get_string_or(record, "peer_password", "");
  if (password.empty()) return refused("the password of the replication role is not known here", "run target first");
  return source_of(work, database, password);
}

Result<Snapshot> hold_new_snapshot(const Work& work, const std::string& database, Deadline deadline) {
  SnapshotOrder order;
  order.source = TRY(source_with_password(work, database));
  order.slot = work.plan.stream(database, true);
  order.file = snapshot_of(work, database);
  order.patience = std::clamp(deadline.remaining() - Millis(1'000), Millis(200), Millis(30'000));
  return start_snapshot_holder(work.options.holder, order, deadline, work.context.stop);
}

// Follows from the slot's point, which is where the copied snapshot ends.
Result<> follow_on(const Work& work, const std::string& database) {
  CHECK_OK(make_subscription(work, database));
  work.at("copy.subscribed");
  return start_subscription(work, database);
}

}  // namespace

std::string words_of(const CopyFigures& figures, std::int64_t now_ms) {
  const auto total = figures.bytes_total.load();
  const auto done = figures.bytes_done.load();
  const auto span = std::max<std::int64_t>(now_ms - figures.began_ms.load(), 1);
  const auto rate = static_cast<double>(figures.bytes_sent.load()) * 1000 / static_cast<double>(span);
  auto text = fmt::format("{} % of {:.1f} MiB in {} tables", total > 0 ? done * 100 / total : 100,
                          static_cast<double>(total) / (1 << 20), figures.tables.load());
  if (rate > 0 && done < total) text += fmt::format(", {:.1f} MiB/s by {}", rate / (1 << 20), figures.workers.load());
  if (const auto indexes = figures.indexes.all.load(); indexes > 0)
    text += fmt::format(", {} of {} indexes built", figures.indexes.built.load(), indexes);
  if (rate > 0 && done < total) text += fmt::format(", about {:.0f} s left", static_cast<double>(total - done) / rate);
  if (const auto spared = words_of(figures.manners); !spared.empty()) text += "; " + spared;
  return text;
}

Result<> Copier::begin(const Work& work, const std::string& database) {
  CHECK_OK(give_up(work, database));
  CHECK_OK(empty_tables(work, database));
  CHECK_OK(work.ask("drop_slot", {{"database", database}}));
  auto snapshot = hold_new_snapshot(work, database, work.context.deadline.sooner(kHolderPatience));
  if (!snapshot) {
    // A slot waits for every transaction that has written.
    const auto who = work.ask("oldest_writer", Json::object());
    const auto words = who ? get_string_or(*who, "words", "") : "";
    if (!words.empty()) return with_context(snapshot.error(), words);
    return std::unexpected(snapshot.error());
  }
  work.at("follow.slot");
  return save_note(work, database, 1, "");
}

Result<bool> Copier::under_way(const Work& work, const std::string& database) const {
  std::error_code error;
  const bool there = fs::exists(note_of(work, database), error);
  if (error) return errno_failure("cannot look at the notes of the copy", error.value());
  return there;
}

void Copier::go_on(const Work& work) {
  for (const auto& database : work.plan.databases) {
    const Key key{work.plan.move, database};
    const std::lock_guard lock(mutex_);
    std::error_code ignored;
    if (work.on_old || !fs::exists(note_of(work, database), ignored)) continue;
    (void)held_snapshot(snapshot_of(work, database));  // it lives as long as somebody looks at it
    auto& slot = threads_[key];
    if (slot && !slot->ended) continue;
    slot = std::make_unique<Thread>();
    slot->thread = std::jthread([this, desired = work.plan.raw, key, host = work.context.host, state = work.context.state,
                                 thread = slot.get()](const std::stop_token& stop) {
      run(desired, key, host, state, *thread, stop);
    });
  }
}

Result<> Copier::give_up(const Work& work, const std::string& database) {
  CHECK_OK(stop(work, database));
  return forget_copy_notes(work, database);
}

Result<> Copier::stop(const Work& work, const std::string& database) {
  std::unique_ptr<Thread> thread;
  {
    const std::lock_guard lock(mutex_);
    CHECK_OK(remove_file_durably(note_of(work, database)));  // first: nobody begins it again
    if (const auto found = threads_.find({work.plan.move, database}); found != threads_.end()) {
      thread = std::move(found->second);
      threads_.erase(found);
    }
  }
  thread.reset();
  return let_snapshot_go(snapshot_of(work, database), work.context.deadline, work.context.stop);
}

CopyLook Copier::look(const Work& work, const std::string& database) const {
  CopyLook look;
  const auto note = load_note(work, database);
  if (!note) return look;
  look.under_way = true;
  look.round = static_cast<int>(get_int_or(*note, "round", 1));
  look.why = get_string_or(*note, "why", "");
  const std::lock_guard lock(mutex_);
  const auto found = threads_.find({work.plan.move, database});
  if (found == threads_.end()) return look;
  look.trouble = found->second->trouble;
  if (found->second->figures->began_ms > 0) look.figures = found->second->figures;
  return look;
}

void Copier::run(const Json& desired, const Key& key, const std::string& host, const fs::path& state, Thread& thread,
                 const std::stop_token& stop) {
  NoPeers nobody;  // what is needed of the other side comes over PostgreSQL
  const Context context{Task{key.first, "copy", 0}, host, state, nobody, Deadline::in(kForever), stop};
  for (bool again = true; again; again = pause_for(kAgain, stop)) {
    const auto work = make_work(context, options_, pool_, titles_, desired);
    const auto done =
        work ? copy_to_the_end(*work, key.second, *thread.figures) : Result<>(std::unexpected(work.error()));
    if (done || stop.stop_requested()) break;
    const std::lock_guard lock(mutex_);
    const auto trouble = done.error().text();
    if (thread.trouble != trouble) log_warn("postgres", "move {}: the copy of {}: {}", key.first, key.second, trouble);
    thread.trouble = trouble;
    thread.figures = std::make_shared<CopyFigures>();
  }
  pool_.drop_all();  // the roles of these sessions may go before they are too old
  const std::lock_guard lock(mutex_);
  thread.ended = true;
}

Result<Snapshot> Copier::begin_again(const Work& work, const std::string& database, const std::string& why) {
  const auto note = TRY(load_note(work, database));
  const auto round = get_int_or(note, "round", 1) + 1;
  log_warn("postgres", "move {}: the copy of {} begins again: {}", work.plan.move, database, why);
  CHECK_OK(empty_tables(work, database));
  {
    const std::lock_guard lock(mutex_);
    if (!TRY(under_way(work, database))) return failure(ErrorKind::cancelled, "the copy was given up meanwhile");
    CHECK_OK(save_note(work, database, round, why));
  }
  return hold_new_snapshot(work, database, Deadline::in(kHolderPatience));
}

Result<> Copier::copy_rows(const Work& work, const std::string& database, CopyFigures& figures) {
  auto snapshot = TRY(held_snapshot(snapshot_of(work, database)));
  if (!snapshot)
    snapshot = TRY(begin_again(work, database, "its snapshot ended with the process that held it, or with old's server"));
  const auto source = TRY(source_with_password(work, database));
  const auto copied = run_copy(work, database, source, *snapshot, kCopyWorkers, figures,
                               [&] { (void)held_snapshot(snapshot_of(work, database)); });
  if (copied || copied.error().kind != ErrorKind::corrupt) return copied;
  CHECK_OK(begin_again(work, database, copied.error().what));
  return retry(copied.error().what);
}

Result<> Copier::copy_to_the_end(const Work& work, const std::string& database, CopyFigures& figures) {
  const auto title = TRY(read_title(work, database));
  if (title.state != "standby" || title.turn != 0)
    return refused(fmt::format("{} on {} is '{}' and has its own history: it is not copied over", database,
                               work.context.host, title.state));
  if (!TRY(look_at_subscription(work, database)).present) {
    if (!TRY(rows_are_there(work, database))) CHECK_OK(copy_rows(work, database, figures));
    work.at("copy.rows");
    // From here on old may remove dead rows again.
    CHECK_OK(let_snapshot_go(snapshot_of(work, database), Deadline::in(kHolderPatience), work.context.stop));
    CHECK_OK(put_checks_back(work, database));
    work.at("copy.checks");
    CHECK_OK(build_indexes(work, database, kCopyWorkers, figures.indexes));
    CHECK_OK(follow_on(work, database));
  } else {
    CHECK_OK(start_subscription(work, database));
  }
  CHECK_OK(let_snapshot_go(snapshot_of(work, database), Deadline::in(kHolderPatience), work.context.stop));
  CHECK_OK(forget_copy_notes(work, database));
  return remove_file_durably(note_of(work, database));
}

}  // namespace midstream::postgres
