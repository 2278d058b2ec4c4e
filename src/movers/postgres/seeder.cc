#include "movers/postgres/seeder.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "movers/postgres/roads.h"
#include "movers/postgres/seed_run.h"
#include "movers/postgres/stream.h"
#include "movers/postgres/title.h"
#include "sys/log.h"

namespace midstream::postgres {

namespace {

constexpr Millis kForever{30ll * 86'400'000};
constexpr Millis kAgain{2'000};
constexpr int kMostPatience = 15;  // times kAgain

std::string size_words(std::int64_t bytes) { return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20)); }

std::string backup_words(const SeedFigures& figures, std::int64_t limit) {
  const auto total = figures.bytes_total.load();
  const auto done = figures.bytes_done.load();
  if (total == 0) return "the base backup waits for old's checkpoint";
  const auto span = std::max<std::int64_t>(std::chrono::duration_cast<Millis>(boot_now()).count() - figures.began_ms.load(), 1);
  const auto rate = static_cast<double>(done - figures.began_done.load()) * 1000 / static_cast<double>(span);
  auto text = fmt::format("base backup, {} % of {}", done * 100 / total, size_words(total));
  if (rate > 0) text += fmt::format(", {}/s", size_words(static_cast<std::int64_t>(rate)));
  if (limit > 0) text += fmt::format(" (limited to {}/s)", size_words(limit));
  if (rate > 0 && done < total) text += fmt::format(", about {:.0f} s left", static_cast<double>(total - done) / rate);
  if (const auto spared = words_of(figures.manners); !spared.empty()) text += "; " + spared;
  return text;
}

std::string stage_words(const SeedNote& note, const SeedFigures& figures, std::int64_t limit, bool physical) {
  if (note.stage == "backup") return backup_words(figures, limit);
  if (note.stage == "copied" && physical) return "the copy is compared with what old sent";
  if (note.stage == "copied") return "old makes the slots that the copy will follow from";
  if (note.stage == "pointed") return fmt::format("the copy recovers up to {}, and is fenced", note.point);
  if (note.stage == "adopted") return "the copy takes the place of new's cluster, whose server is restarted";
  if (note.stage == "swapped") return "the copy begins to follow";
  return "new's own cluster is put back";
}

}  // namespace

Result<bool> runs_on_copy(const Work& work) { return is_copy(TRY(work.run_cluster("SHOW data_directory")).text(0, 0)); }

Result<> settle_copy(const Work& work) {
  const std::filesystem::path data = TRY(work.run_cluster("SHOW data_directory")).text(0, 0);
  return unmark_copy(seed_place(work.options.os_user, data, our_directory(work, data), work.plan.move));
}

Result<> Seeder::begin(const Work& work) {
  CHECK_OK(road_is_open(work));
  SeedNote note;
  note.data = TRY(work.run_cluster("SHOW data_directory")).text(0, 0);
  if (is_copy(note.data)) return refused(fmt::format("{} is a copy already that is not followed", note.data.native()), "undo the follow step and run it again");
  note.major = static_cast<int>(TRY(work.run_cluster("SHOW server_version_num")).number(0, 0) / 10000);
  note.unit = TRY(find_server_unit(work, note.data));
  CHECK_OK(work.ask("forget_seed", Json::object()));
  work.at("follow.seed");
  return note.save(work);
}

Result<bool> Seeder::under_way(const Work& work) const { return TRY(SeedNote::load(work)).has_value(); }

void Seeder::go_on(const Work& work) {
  if (work.on_old || !work.plan.copies_cluster()) return;
  const std::lock_guard lock(mutex_);
  std::error_code ignored;
  if (undone_.contains(work.plan.move) || !std::filesystem::exists(SeedNote::path(work), ignored)) return;
  auto& slot = threads_[work.plan.move];
  if (slot && !slot->ended) return;
  slot = std::make_unique<Thread>();
  slot->thread = std::jthread([this, desired = work.plan.raw, move = work.plan.move, host = work.context.host, state = work.context.state,
                               thread = slot.get()](const std::stop_token& stop) { run(desired, move, host, state, *thread, stop); });
}

void Seeder::run(const Json& desired, const std::string& move, const std::string& host, const std::filesystem::path& state, Thread& thread,
                 const std::stop_token& stop) {
  NoPeers nobody;  // what is needed of the other side comes over PostgreSQL
  const Context context{Task{move, "seed", 0}, host, state, nobody, Deadline::in(kForever), stop};
  Pool pool;
  std::string logged;
  int tries = 0;
  for (bool again = true; again; again = pause_for(kAgain * std::min(tries, kMostPatience), stop)) {
    const auto done = try_once(context, pool, desired, thread.figures);
    if (done || stop.stop_requested() || done.error().kind == ErrorKind::fenced) break;
    ++tries;
    const auto trouble = done.error().text();
    if (logged != trouble) log_warn("postgres", "move {}: the seed: {}", move, trouble);
    logged = trouble;
    const std::lock_guard lock(mutex_);
    thread.trouble = trouble;
  }
  const std::lock_guard lock(mutex_);
  thread.ended = true;
}

Result<> Seeder::try_once(const Context& context, Pool& pool, const Json& desired, SeedFigures& figures) {
  auto work = TRY(make_work(context, options_, pool, titles_, desired));
  work.keeping = true;
  try {
    return run_seed(work, figures);
  } catch (...) {  // a test's checkpoint, which stands for the death of this agent: nothing more is done
    return failure(ErrorKind::fenced, "the seed's thread was cut off");
  }
}

void Seeder::end_thread(const std::string& move) {
  std::unique_ptr<Thread> thread;
  const std::lock_guard lock(mutex_);
  if (const auto found = threads_.find(move); found != threads_.end()) {
    thread = std::move(found->second);
    threads_.erase(found);
  }
}

Result<> Seeder::undo(const Work& work) {
  {
    const std::lock_guard lock(mutex_);
    undone_.insert(work.plan.move);
  }
  end_thread(work.plan.move);  // from here on nobody but this call writes the note
  auto done = undo_here(work);
  const std::lock_guard lock(mutex_);
  undone_.erase(work.plan.move);
  return done;
}

Result<> Seeder::undo_here(const Work& work) {
  auto note = TRY(SeedNote::load(work));
  if (!note) {
    // It was followed once: only the title knows whether anything was written here.
    if (!TRY(runs_on_copy(work))) return {};
    for (const auto& database : work.plan.databases) {
      const auto title = TRY(read_title(work, database));
      if (title.state == "owner" || title.state == "closing" || title.arrived > title.turn)
        return refused(fmt::format("{} is owned by {}", database, work.context.host), "undo the switch first");
    }
    note.emplace();
    note->data = TRY(work.run_cluster("SHOW data_directory")).text(0, 0);
    note->unit = TRY(find_server_unit(work, note->data));
  }
  note->stage = "undo";
  note->lost.clear();
  CHECK_OK(note->save(work));
  work.at("undo.seed.noted");
  return put_back(work, std::move(*note));
}

SeedLook Seeder::look(const Work& work) const {
  SeedLook look;
  const auto note = SeedNote::load(work);
  if (!note || !*note) return look;
  look.under_way = true;
  look.lost = (*note)->lost;
  const std::lock_guard lock(mutex_);
  const auto found = threads_.find(work.plan.move);
  static const SeedFigures kNone;
  const auto& figures = found == threads_.end() ? kNone : found->second->figures;
  look.bytes_done = figures.bytes_done;
  look.bytes_total = figures.bytes_total;
  look.words = stage_words(**note, figures, work.plan.limit, work.plan.physical());
  if ((*note)->round > 1) look.words += fmt::format("; begun again (round {}): {}", (*note)->round, (*note)->why);
  if (found != threads_.end() && !found->second->trouble.empty()) look.words += "; " + found->second->trouble;
  return look;
}

}  // namespace midstream::postgres
