#include "movers/postgres/verify.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "movers/postgres/comparison.h"
#include "movers/postgres/copy_run.h"
#include "movers/postgres/stream.h"
#include "movers/postgres/switch.h"
#include "movers/postgres/title.h"
#include "sys/file.h"
#include "sys/log.h"

namespace midstream::postgres {

namespace {

namespace fs = std::filesystem;

constexpr Millis kCall{60'000};
constexpr Millis kAgain{2'000};
constexpr std::int64_t kAge = 24 * 3'600'000;  // where the plan says nothing

fs::path note_of(const Context& context, const Plan& plan, const std::string& database) {
  return context.state / fmt::format("{}-{}.verify", plan.move, plan.number(database));
}

Result<Progress> load(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return Progress{};
  return progress_from_json(TRY(parse_json(TRY(read_file(path)))));
}

Result<> save(const fs::path& path, const Progress& progress) { return write_file_durably(path, to_json(progress).dump(), 0600); }

std::int64_t age_of(const Plan& plan) { return get_int_or(plan.raw, "age_ms", kAge); }

// What was compared is worth nothing for another copy, another owner, or once the title has changed sides.
std::string cut_of(const Title& here, const std::string& subscription) {
  return fmt::format("{} {} {}", subscription, here.turn, here.state == "owner" ? "new" : "old");
}

Result<std::string> cut_now(const Work& work, const std::string& database) {
  const auto title = TRY(read_title(work, database));
  const auto subscription =
      TRY(work.run(database, "SELECT s.oid FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE subname = $1 AND "
                             "datname = current_database()",
                   {work.incoming(database)}));
  return cut_of(title, subscription.size() > 0 ? subscription.text(0, 0) : "none");
}

}  // namespace

std::string words_of(const VerifyFigures& figures, std::int64_t now_ms) {
  const auto done = figures.rows_done.load();
  const auto total = std::max(figures.rows_total.load(), done);
  const auto span = std::max<std::int64_t>(now_ms - figures.began_ms.load(), 1);
  const auto rate = figures.rows_now.load() * 1000 / span;
  auto text = fmt::format("{} of {} tables, {} % of {} rows", figures.tables_done.load(), figures.tables.load(),
                          total > 0 ? done * 100 / total : 100, total);
  if (rate > 0) text += fmt::format(", {} rows/s", rate);
  if (rate > 0 && done < total) text += fmt::format(", about {} s left", (total - done) / rate);
  if (figures.looked_again > 0) text += fmt::format(", {} rows looked at again", figures.looked_again.load());
  if (const auto spared = words_of(figures.manners); !spared.empty()) text += "; " + spared;
  return text;
}

bool Verifier::enter(std::uint64_t generation) {
  const std::lock_guard lock(mutex_);
  if (paused_ > 0 || generation != generation_) return false;
  ++asking_;
  return true;
}

void Verifier::leave() {
  {
    const std::lock_guard lock(mutex_);
    --asking_;
  }
  idle_.notify_all();
}

std::uint64_t Verifier::generation() const {
  const std::lock_guard lock(mutex_);
  return generation_;
}

Verifier::Pause::~Pause() {
  if (verifier_ == nullptr) return;
  const std::lock_guard lock(verifier_->mutex_);
  --verifier_->paused_;
}

Result<Verifier::Pause> Verifier::pause(Deadline deadline, const std::stop_token& stop) {
  {
    const std::lock_guard lock(mutex_);
    ++paused_;
    ++generation_;
  }
  Pause pause(*this);
  std::unique_lock lock(mutex_);
  while (asking_ > 0) {
    if (stop.stop_requested()) break;
    if (deadline.expired()) break;
    idle_.wait_for(lock, Millis(20));
  }
  const bool quiet = asking_ == 0;
  lock.unlock();
  if (!quiet) return retry("a comparison of both sides does not come to rest");
  return pause;
}

Result<Json> Verifier::begin(const Work& work) {
  for (const auto& database : work.plan.databases) {
    const auto path = note_of(work.context, work.plan, database);
    auto progress = TRY(load(path));
    const auto cut = TRY(cut_now(work, database));
    if (progress.running && progress.cut == cut) continue;
    if (progress.fresh(cut, wall_now_ms(), age_of(work.plan) / 2)) continue;
    progress.age_ms = age_of(work.plan);
    progress.begin(cut, wall_now_ms());
    CHECK_OK(save(path, progress));
  }
  go_on(work);
  return Json{{"databases", work.plan.databases.size()}};
}

Result<Json> Verifier::observe(const Work& work) {
  auto out = observation(true, "");
  std::vector<std::string> bad, waits;
  std::int64_t rows = 0, tables = 0, ms = 0;
  for (const auto& database : work.plan.databases) {
    const auto progress = TRY(load(note_of(work.context, work.plan, database)));
    rows += progress.rows;
    tables += progress.tables;
    ms += progress.took_ms;
    if (!progress.findings.empty() && !progress.running) bad.push_back(words_of(progress.findings));
    if (progress.fresh(TRY(cut_now(work, database)), wall_now_ms(), age_of(work.plan))) continue;
    auto why = fmt::format("{} is being compared", database);
    const std::lock_guard lock(mutex_);
    if (const auto found = threads_.find(work.plan.move); found != threads_.end()) {
      if (const auto& figures = found->second->figures.at(database); figures.began_ms > 0)
        why += ": " + words_of(figures, std::chrono::duration_cast<Millis>(boot_now()).count());
      if (!progress.findings.empty()) why += "; so far both sides differ in " + words_of(progress.findings);
      if (const auto& trouble = found->second->trouble[database]; !trouble.empty()) why += "; " + trouble;
    }
    waits.push_back(std::move(why));
  }
  if (!bad.empty())
    return refused("both sides differ in " + join(bad, "; "), "undo follow and run it again, and find who wrote on new");
  out["reached"] = waits.empty();
  out["why"] = join(waits, "; ");
  out.update({{"rows", rows}, {"tables", tables}, {"ms", ms}});
  return out;
}

void Verifier::go_on(const Work& work) {
  std::error_code ignored;
  const bool noted = std::ranges::any_of(work.plan.databases, [&](const auto& database) { return fs::exists(note_of(work.context, work.plan, database), ignored); });
  if (work.on_old || !noted || peers_ == nullptr) return;
  const std::lock_guard lock(mutex_);
  auto& slot = threads_[work.plan.move];
  if (slot) return;
  slot = std::make_unique<Thread>();
  for (const auto& database : work.plan.databases) slot->figures[database], slot->trouble[database];
  slot->thread = std::jthread([this, desired = work.plan.raw, task = Task{work.plan.move, "verify", 0}, host = work.context.host,
                               state = work.context.state, thread = slot.get()](const std::stop_token& stop) {
    run(desired, task, host, state, *thread, stop);
  });
}

Result<> Verifier::forget(const Work& work) {
  std::unique_ptr<Thread> thread;
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = threads_.find(work.plan.move); found != threads_.end()) {
      thread = std::move(found->second);
      threads_.erase(found);
    }
  }
  thread.reset();
  for (const auto& database : work.plan.databases) CHECK_OK(remove_file_durably(note_of(work.context, work.plan, database)));
  return {};
}

Result<> Verifier::recently_clean(const Work& work, std::int64_t age_ms) const {
  for (const auto& database : work.plan.databases) {
    const auto progress = TRY(load(note_of(work.context, work.plan, database)));
    if (progress.fresh(TRY(cut_now(work, database)), wall_now_ms(), age_ms)) continue;
    return retry(fmt::format("both sides of {} were not found equal within the last {} s", database, age_ms / 1000),
                 "they are compared again by themselves; what differs is told by step 'verified'");
  }
  return {};
}

// One database's turn: nothing to do, or a comparison to its end.
class Turn {
 public:
  Turn(const Work& work, const std::string& database, Comparison::Ask ask, VerifyFigures& figures)
      : work_(work), database_(database), ask_(std::move(ask)), figures_(figures), path_(note_of(work.context, work.plan, database)) {}

  Result<> take() {
    auto progress = TRY(load(path_));
    if (progress.cut.empty()) return {};
    const auto cut = TRY(cut_now(work_, database_));
    const bool same = cut == progress.cut;
    if (!progress.running && same && !progress.due(wall_now_ms())) return {};
    const bool old_owns = TRY(owner_is_old());
    if (!progress.running && !old_owns) return {};  // done again by itself only before the switch
    if (!progress.running || !same) progress.begin(cut, wall_now_ms());
    Comparison comparison(ask_, [&](const Progress& now) { return save(path_, now); }, work_.options.verify_rows, progress, figures_);
    return comparison.run();
  }

 private:
  Result<bool> owner_is_old() const {
    const auto here = TRY(read_title(work_, database_));
    const auto there = title_from_json(TRY(work_.ask("title", {{"database", database_}})));
    if ((here.state == "owner") == (there.state == "owner")) return retry(fmt::format("{} has no owner just now", database_));
    return there.state == "owner";
  }

  const Work& work_;
  const std::string& database_;
  Comparison::Ask ask_;
  VerifyFigures& figures_;
  fs::path path_;
};

namespace {

bool reads_in_bulk(std::string_view verb) { return verb == "walk" || verb.starts_with("digest"); }

// Once, by whoever comes first.
Result<> watch_old(const Work& work, const std::string& database, MannersFigures& figures, std::mutex& mutex, std::optional<Manners>& manners) {
  const std::lock_guard lock(mutex);
  if (manners) return {};
  const auto record = TRY(Record::load(work.context, work.plan.move));
  manners.emplace(source_of(work, database, get_string_or(record, "peer_password", "")), work.plan.commit_latency_ms, figures);
  return {};
}

}  // namespace

void Verifier::run(const Json& desired, const Task& task, const std::string& host, const fs::path& state, Thread& thread,
                   const std::stop_token& stop) {
  const auto with_work = [&](auto act) -> decltype(act(std::declval<const Work&>())) {
    const Context context{task, host, state, *peers_, Deadline::in(kCall), stop};
    const auto work = TRY(make_work(context, options_, pool_, titles_, desired));
    return act(work);
  };
  const auto databases = get_strings(desired, "databases").value_or(std::vector<std::string>{});
  for (bool again = true; again; again = pause_for(kAgain, stop)) {
    for (const auto& database : databases) {
      const auto begun = generation();
      const auto turn = with_work([&](const Work& here) -> Result<> {
        bool new_owns = TRY(read_title(here, database)).state == "owner";
        std::optional<Manners> manners;  // from the first rows on
        std::mutex manners_mutex;
        const auto ask = [&](bool owner, std::string_view verb, Json args) -> Result<Json> {
          const bool rests = here.plan.commit_latency_ms > 0 && owner && !new_owns && reads_in_bulk(verb);
          if (rests) CHECK_OK(watch_old(here, database, thread.figures.at(database).manners, manners_mutex, manners));
          if (!enter(begun)) return retry(fmt::format("{} is being handed over: nothing is compared meanwhile", database));
          args["database"] = database;
          const auto asked = boot_now();
          auto answered = with_work([&](const Work& work) -> Result<Json> {
            return owner == new_owns ? answer(work, verb, args) : work.ask(verb, std::move(args));
          });
          leave();
          if (rests) pause_for(std::chrono::ceil<Millis>(manners->rest_after(boot_now() - asked)), stop);
          return answered;
        };
        return Turn(here, database, ask, thread.figures.at(database)).take();
      });
      if (stop.stop_requested()) break;
      const auto trouble = turn ? "" : turn.error().text();
      const std::lock_guard lock(mutex_);
      if (!trouble.empty() && thread.trouble[database] != trouble)
        log_warn("postgres", "move {}: the comparison of {}: {}", task.move, database, trouble);
      thread.trouble[database] = trouble;
    }
  }
  pool_.drop_all();  // the roles of these sessions may go before they are too old
}

}  // namespace midstream::postgres
