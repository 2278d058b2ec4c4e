#include "movers/postgres/postgres.h"

#include <fmt/format.h>

#include <atomic>
#include <thread>

#include "base/text.h"
#include "movers/postgres/check.h"
#include "movers/postgres/cluster.h"
#include "movers/postgres/drain.h"
#include "movers/postgres/follow.h"
#include "movers/postgres/physical_follow.h"
#include "movers/postgres/physical_switch.h"
#include "movers/postgres/seed_follow.h"
#include "movers/postgres/setup.h"
#include "movers/postgres/switch.h"
#include "movers/postgres/sync_reverse.h"
#include "movers/postgres/title.h"
#include "movers/postgres/verify.h"
#include "movers/postgres/wal.h"
#include "sys/file.h"
#include "sys/log.h"

namespace midstream {

namespace postgres {
namespace {

constexpr Millis kGuardPeriod{1'000};

// This agent's own file; one that was replaced while it ran is named with a suffix.
std::string own_program() {
  std::error_code ignored;
  auto path = std::filesystem::read_symlink("/proc/self/exe", ignored).native();
  if (path.ends_with(" (deleted)")) path.resize(path.size() - 10);
  return path;
}

class PostgresMover : public Mover {
 public:
  explicit PostgresMover(PostgresOptions options) : options_(std::move(options)) {
    if (options_.holder.empty()) options_.holder = {own_program(), "hold-snapshot"};
  }

  ~PostgresMover() override { ending_.request_stop(); }

  std::string_view name() const override { return "postgres"; }

  Result<> start(const Context& base) override {
    verifier_.use(base.peers);
    if (!options_.keeper) return {};
    keeper_ = std::jthread([this, host = base.host, state = base.state, stop = base.stop](const std::stop_token& own) {
      bool fresh = true;
      const std::stop_callback both(stop, [this] { keeper_.request_stop(); });
      while (!own.stop_requested()) {
        if (std::filesystem::exists(state) && keep_all(host, state, fresh, own)) fresh = false;
        pool_.drop_older_than(Millis(60'000));
        pause_for(Millis(250), own);
      }
    });
    return {};
  }

  Result<Json> observe(const Context& context, const Json& desired) override {
    const auto work = TRY(make_work(context, options_, pool_, titles_, desired));
    const auto& kind = work.plan.kind;
    if (kind == "source" || kind == "target") return observe_setup(work);
    if (kind == "follow" && work.plan.copies_cluster()) return observe_seeded_follow(work, seeder_, copier_);
    if (kind == "follow") return observe_follow(work, copier_);
    if (kind == "drain") return observe_drain(work);
    if (kind == "switch") return work.plan.physical() ? observe_physical_switch(work) : observe_switch(work);
    if (kind == "finish") {
      const auto record = TRY(Record::load(context, work.plan.move));
      return observation(record.empty(), record.empty() ? "" : "what midstream set is still there");
    }
    return work.plan.physical() ? observe_physical_verify(work) : verifier_.observe(work);
  }

  Result<Json> apply(const Context& context, const Json& desired) override {
    const auto work = TRY(make_work(context, options_, pool_, titles_, desired));
    CHECK_OK(right_side(work));
    const auto& kind = work.plan.kind;
    if (kind == "source" || kind == "target") return apply_setup(work);
    if (kind == "follow" && work.plan.copies_cluster()) return apply_seeded_follow(work, seeder_);
    if (kind == "follow") return apply_follow(work, copier_);
    if (kind == "verify") return work.plan.physical() ? Result<Json>(Json::object()) : verifier_.begin(work);
    if (kind == "drain") return apply_drain(work);
    if (kind == "switch") return work.plan.physical() ? run_physical_switch(work, true) : run_verified_switch(work);
    CHECK_OK(verifier_.forget(work));
    CHECK_OK(end_sync_reverse(work));
    return apply_finish(work);
  }

  Result<Json> undo(const Context& context, const Json& desired) override {
    const auto work = TRY(make_work(context, options_, pool_, titles_, desired));
    CHECK_OK(right_side(work));
    const auto& kind = work.plan.kind;
    if (kind == "source" || kind == "target") CHECK_OK(remove_file_durably(setup_note(work)));
    if (kind == "target" || kind == "follow" || kind == "verify") CHECK_OK(verifier_.forget(work));
    if (kind == "source") return undo_source(work);
    if (kind == "target") return undo_target(work);
    if (kind == "follow" && work.plan.copies_cluster()) return undo_seeded_follow(work, seeder_);
    if (kind == "follow") return undo_follow(work, copier_);
    if (kind == "switch" && work.plan.physical()) return run_physical_switch(work, false);
    if (kind == "switch") {
      const auto pause = TRY(verifier_.pause(context.deadline, context.stop));
      return run_switch(work, false);
    }
    if (kind == "finish") return refused("finish cannot be undone: the way back was taken down");
    return Json::object();
  }

  Result<Json> observe_undo(const Context& context, const Json& desired) override {
    const auto kind = get_string_or(desired, "kind", "");
    if (kind == "finish") return undo_outlook("the way back was taken down");
    if (kind != "source" && kind != "switch") return undo_outlook("");
    const auto work = TRY(make_work(context, options_, pool_, titles_, desired));
    if (kind == "source") return observe_source(work);
    return work.plan.physical() ? observe_physical_way_back(work) : observe_way_back(work);
  }

  Result<Json> check(const Context& context, const Json& desired) override {
    return run_check(TRY(make_work(context, options_, pool_, titles_, desired)));
  }

  std::string describe(const Json& desired) const override {
    const auto names = get_strings(desired, "databases");
    const auto what = names ? join(*names, ", ") : std::string("?");
    const auto kind = get_string_or(desired, "kind", "");
    if (get_string_or(desired, "road", "") == "seeded") {
      if (kind == "target") return fmt::format("makes new's cluster ready to become a copy of old's with {}; nobody will be let in", what);
      if (kind == "follow")
        return fmt::format("puts a base backup of old's cluster in the place of new's, which is set aside, and follows every commit of {} from old to new", what);
    }
    if (get_string_or(desired, "road", "") == "physical") {
      if (kind == "target") return fmt::format("makes new's cluster ready to become a standby of old's with {}; nobody will be let in", what);
      if (kind == "follow") return fmt::format("puts a base backup of old's cluster in the place of new's, which is set aside, as a standby that replays old's log of {}", what);
      if (kind == "verify") return fmt::format("waits until new is a connected standby that holds {}", what);
      if (kind == "switch") return fmt::format("stops old cleanly with {}, promotes new, and starts old as new's standby; predicted pause 0.3 to 0.8 s", what);
      if (kind == "finish") return fmt::format("takes down the way back of {}; old is left stopped, as a standby", what);
    }
    if (kind == "source") return fmt::format("makes {} on old ready to be followed", what);
    if (kind == "target") return fmt::format("makes {} on new, fenced, with roles and schema", what);
    if (kind == "follow") return fmt::format("copies {} and follows every commit from old to new", what);
    if (kind == "verify") return fmt::format("compares every row, sequence and large object of {} on both sides", what);
    if (kind == "drain") return fmt::format("waits until every session of {} on old comes through the gate", what);
    if (kind == "switch") return fmt::format("hands {} from old to new, and follows back from new to old", what);
    if (kind == "finish") return fmt::format("takes down the way back of {}; old stays closed", what);
    return fmt::format("postgres knows no kind '{}'", kind);
  }

  Result<Json> peer(const Context& context, std::string_view verb, const Json& args) override {
    return answer(TRY(make_work(context, options_, pool_, titles_, TRY(get_object(args, "desired")))), verb, args);
  }

 private:
  static Result<> right_side(const Work& work) {
    if ((work.plan.kind == "source" || work.plan.kind == "drain") == work.on_old) return {};
    return refused(fmt::format("'{}' does not run on host {}", work.plan.kind, work.context.host));
  }

  // Nothing is compared while users wait, and nothing is handed over that was not compared.
  Result<Json> run_verified_switch(const Work& work) {
    const auto pause = TRY(verifier_.pause(work.context.deadline, work.context.stop));
    const auto age = get_int_or(work.plan.raw, "verified_within_ms", 0);
    if (age > 0 && TRY(old_owns_all(work))) CHECK_OK(verifier_.recently_clean(work, age));
    return run_switch(work, true);
  }

  // Once one was handed over there is no way but on.
  static Result<bool> old_owns_all(const Work& work) {
    for (const auto& database : work.plan.databases) {
      const auto old_side = title_from_json(TRY(work.ask("title", {{"database", database}})));
      if (old_side.state != "owner") return false;
    }
    return true;
  }

  // Setting a side up is many small effects; a note on disk says that the last of them was made. Without it apply is
  // called again, which completes what is there.
  static std::filesystem::path setup_note(const Work& work) {
    return work.context.state / fmt::format("{}.{}-done", work.plan.move, work.plan.kind);
  }

  static Result<Json> apply_setup(const Work& work) {
    CHECK_OK(remove_file_durably(setup_note(work)));
    auto figures = TRY(work.plan.kind == "source" ? apply_source(work) : apply_target(work));
    CHECK_OK(write_file_durably(setup_note(work), ""));
    return figures;
  }

  static Result<Json> observe_setup(const Work& work) {
    std::error_code ignored;
    if (!std::filesystem::exists(setup_note(work), ignored)) {
      return observation(false, fmt::format("{} is not set up to its end on {}", work.plan.kind, work.context.host));
    }
    // On the seeded road new has titles once it is a copy.
    if (work.plan.copies_cluster() && !work.on_old && !TRY(runs_on_copy(work))) return observation(true, "");
    for (const auto& database : work.plan.databases) {
      const auto title = TRY(read_title(work, database));
      if (title.state.empty())
        return observation(false, fmt::format("{} has no title on {}", database, work.context.host));
    }
    return observation(true, "");
  }

  // Old's cluster answers, and knows who owns.
  static Result<Json> observe_source(const Work& work) {
    for (const auto& database : work.plan.databases) {
      const auto title = read_title(work, database);
      if (!title) return undo_outlook(fmt::format("{} on old does not answer: {}", database, title.error().what));
      if (title->state.empty()) return undo_outlook(fmt::format("{} has no title on old any more", database));
    }
    return undo_outlook("");
  }

  // Every move that this host has a part in. True when all of them could be looked at.
  bool keep_all(const std::string& host, const std::filesystem::path& state, bool fresh, const std::stop_token& stop) {
    bool all = true;
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(state, ignored)) {
      if (entry.path().extension() != ".json") continue;
      NoPeers nobody;
      const Context context{Task{entry.path().stem(), "keep", 0}, host, state, nobody,
                            Deadline::in(Millis(5000)),           stop};
      const auto done = keep_one(context, fresh);
      if (done && *done)
        log_info("postgres", "move {}: a hand-over that was cut off has been brought to its end", context.task.move);
      const auto trouble = done ? "" : done.error().text();
      if (!trouble.empty() && trouble != trouble_) log_warn("postgres", "move {}: {}", context.task.move, trouble);
      trouble_ = trouble;
      all = all && done.has_value();
    }
    return all;
  }

  Result<bool> keep_one(const Context& context, bool fresh) {
    const auto record = TRY(Record::load(context, context.task.move));
    if (!record.contains("desired")) return false;
    auto work = TRY(make_work(context, options_, pool_, titles_, record.at("desired")));
    work.keeping = true;
    guard(work);
    seeder_.go_on(work);
    if (!work.plan.physical()) copier_.go_on(work);
    const auto kept = TRY(keep(work, fresh));
    if (!work.plan.physical()) verifier_.go_on(work);
    return kept;
  }

  // Its trouble is its own: leases must not count as ended because a disk cannot be looked at.
  void guard(const Work& work) {
    if (boot_now() - guarded_ < kGuardPeriod) return;
    guarded_ = boot_now();
    const auto done = guard_wal(work);
    const auto trouble = done ? "" : done.error().text();
    if (!trouble.empty() && trouble != blind_) log_warn("postgres", "move {}: the log's room is not watched: {}", work.plan.move, trouble);
    blind_ = trouble;
  }

  PostgresOptions options_;
  Pool pool_;
  std::mutex titles_;
  std::chrono::nanoseconds guarded_{0};  // when the log's room was last looked at
  std::string blind_;                    // why it could not be
  std::string trouble_;  // the keeper's last, so that it is told once
  Copier copier_{options_};
  Verifier verifier_{options_};
  Seeder seeder_{options_};
  std::stop_source ending_;
  std::jthread keeper_;  // last: joined before what it uses goes
};

}  // namespace
}  // namespace postgres

std::unique_ptr<Mover> make_postgres_mover() { return make_postgres_mover({}); }
std::unique_ptr<Mover> make_postgres_mover(PostgresOptions options) {
  return std::make_unique<postgres::PostgresMover>(std::move(options));
}

}  // namespace midstream
