#include "movers/postgres/seed_follow.h"

#include <fmt/format.h>

#include "movers/postgres/follow.h"
#include "movers/postgres/physical_follow.h"
#include "movers/postgres/stream.h"
#include "movers/postgres/wal.h"

namespace midstream::postgres {

namespace {

Result<Json> observe_seed(const Work& work, const SeedLook& look) {
  if (!look.lost.empty()) return refused(fmt::format("new's cluster does not become a copy: {}", look.lost), "`midstream rollback`, then `midstream run`");
  Json out = observation(false, "seeding: " + look.words);
  out.update({{"phase", "copying"}, {"tables", 0}, {"tables_ready", 0}, {"copied_bytes", look.bytes_done}, {"total_bytes", look.bytes_total}, {"lag_bytes", 0}, {"lag_ms", 0}});
  const auto asked = work.ask("seed_room", Json::object());
  if (!asked) {  // the seed does not need it
    out["why"] = fmt::format("{}; {} does not answer: {}", get_string_or(out, "why", ""), work.theirs().host, asked.error().what);
    return out;
  }
  const auto room = wal_room_from_json(*asked);
  if (!room.given_up.empty()) return refused(fmt::format("new's cluster does not become a copy: {}", room.given_up));
  out["wal"]["cluster"] = to_json(room);
  const auto alarm = alarm_of(room, work.theirs().host);
  if (alarm.empty()) return out;
  out["alarm"] = alarm;
  out["why"] = get_string_or(out, "why", "") + "; " + alarm;
  return out;
}

}  // namespace

Result<Json> apply_seeded_follow(const Work& work, Seeder& seeder) {
  if (!TRY(seeder.under_way(work)) && !TRY(runs_on_copy(work))) CHECK_OK(seeder.begin(work));
  if (TRY(seeder.under_way(work))) {
    seeder.go_on(work);
    return Json{{"databases", work.plan.databases.size()}};
  }
  if (work.plan.physical()) return Json{{"databases", work.plan.databases.size()}};
  for (const auto& database : work.plan.databases)
    if (!TRY(look_at_subscription(work, database)).present)
      return refused(fmt::format("the copy on {} follows {} no more: its subscription is gone", work.context.host, database), "undo the follow step and run it again");
  return Json{{"databases", work.plan.databases.size()}};
}

Result<Json> observe_seeded_follow(const Work& work, const Seeder& seeder, const Copier& copier) {
  if (const auto look = seeder.look(work); look.under_way) return observe_seed(work, look);
  if (!TRY(runs_on_copy(work))) return observation(false, fmt::format("the cluster on {} is not a copy of old's", work.context.host));
  return work.plan.physical() ? observe_standby(work) : observe_follow(work, copier);
}

Result<Json> undo_seeded_follow(const Work& work, Seeder& seeder) {
  CHECK_OK(seeder.undo(work));
  CHECK_OK(work.ask("forget_streams", Json::object()));
  return Json::object();
}

}  // namespace midstream::postgres
