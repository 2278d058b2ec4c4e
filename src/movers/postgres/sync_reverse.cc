#include "movers/postgres/sync_reverse.h"

#include <fmt/format.h>

#include "base/text.h"

namespace midstream::postgres {

namespace {

constexpr Millis kPatience{10'000};

// Subscriptions make themselves known by their names.
std::string names_of(const Plan& plan) {
  std::vector<std::string> names;
  for (const auto& database : plan.databases) names.push_back(plan.stream(database, false));
  return fmt::format("FIRST {} ({})", names.size(), join(names, ", "));
}

// Every session of the server goes by it from some moment on; looked at in a session that has read it.
Result<> wait_in_force(const Work& work, const std::string& value) {
  CHECK_OK(work.run_cluster("SELECT pg_reload_conf()"));
  for (const auto deadline = work.context.deadline.sooner(kPatience);;) {
    if (TRY(work.run_cluster("SHOW synchronous_standby_names")).text(0, 0) == value) return {};
    CHECK_OK(wait_a_bit(Millis(10), deadline, work.context.stop, "synchronous_standby_names to be in force"));
  }
}

Result<bool> all_are(const Work& work, std::string_view column, std::string_view state) {
  for (const auto& database : work.plan.databases) {
    const auto found = TRY(work.run_cluster(fmt::format("SELECT 1 FROM pg_stat_replication WHERE application_name = $1 AND {} = $2", column),
                                            {work.plan.stream(database, false), std::string(state)}));
    if (found.size() == 0) return false;
  }
  return true;
}

}  // namespace

Result<SyncReverse> look_at_sync_reverse(const Work& work) {
  SyncReverse look;
  look.ours = TRY(work.run_cluster("SHOW synchronous_standby_names")).text(0, 0) == names_of(work.plan);
  if (!look.ours) return look;
  look.present = TRY(all_are(work, "sync_state", "sync"));
  look.waiting = static_cast<int>(TRY(work.run_cluster("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")).number(0, 0));
  return look;
}

Result<> begin_sync_reverse(const Work& work) {
  const auto wanted = names_of(work.plan);
  const auto there = TRY(work.run_cluster("SHOW synchronous_standby_names")).text(0, 0);
  if (there == wanted) return {};
  if (!there.empty())
    return refused(fmt::format("{} has synchronous standbys of its own ({}): its commits cannot wait for old as well", work.context.host, printable(there)),
                   "roll back and leave `reverse` out of the manifest, or do without those standbys");
  // Before that whoever commits would wait for nobody.
  for (const auto deadline = work.context.deadline.sooner(kPatience); !TRY(all_are(work, "state", "streaming"));)
    CHECK_OK(wait_a_bit(Millis(20), deadline, work.context.stop, "the streams back to old, which commits shall wait for"));
  work.at("sync.begin");
  CHECK_OK(work.run_cluster(fmt::format("ALTER SYSTEM SET synchronous_standby_names = {}", quote(wanted))));
  return wait_in_force(work, wanted);
}

Result<> end_sync_reverse(const Work& work) {
  if (TRY(work.run_cluster("SHOW synchronous_standby_names")).text(0, 0) != names_of(work.plan)) return {};
  CHECK_OK(work.run_cluster("ALTER SYSTEM RESET synchronous_standby_names"));
  return wait_in_force(work, "");
}

std::string words_of_waiting(const SyncReverse& look) {
  return fmt::format("commits on new wait for old, which does not answer ({} wait now): bring old back, or have new go on without it, and nothing written from then on "
                     "is safe with old: ALTER SYSTEM RESET synchronous_standby_names; SELECT pg_reload_conf(); on new",
                     look.waiting);
}

}  // namespace midstream::postgres
