#include "movers/postgres/physical_follow.h"

#include <fmt/format.h>

#include "base/text.h"
#include "movers/postgres/as_user.h"
#include "movers/postgres/fence.h"
#include "movers/postgres/physical_side.h"
#include "movers/postgres/seed_backup.h"
#include "movers/postgres/wal.h"
#include "sys/child.h"
#include "sys/file.h"

namespace midstream::postgres {

namespace {

constexpr std::int64_t kCaughtUpBytes = 1 << 20;
constexpr std::int64_t kCaughtUpMs = 1'000;
constexpr Millis kCompare{6ll * 3'600'000};  // reads the whole copy once

// Of every file but the log, which replay checks record by record.
Result<> as_it_was_sent(const SeedPlace& place, int major) {
  auto argv = as_server_user(place.os_user);
  for (const auto& word : std::vector<std::string>{TRY(server_programs(major)) / "pg_verifybackup", "--no-parse-wal", "--quiet", "--ignore=midstream.seed", place.cluster()}) argv.push_back(word);
  const auto exit = TRY(run_child(argv, "", Deadline::in(kCompare)));
  if (exit.code == 0) return {};
  return corrupt(fmt::format("the base backup is not what old sent: {}", printable(trim(exit.err).substr(0, 300))), "roll back, look at new's disk, then run again");
}

}  // namespace

Result<> prepare_standby(const Work& work, const SeedPlace& place, int major) {
  std::error_code ignored;
  // From here on files are changed: it is compared before the first of them is.
  if (!std::filesystem::exists(place.cluster() / "standby.signal", ignored)) CHECK_OK(as_it_was_sent(place, major));
  work.at("seed.compared");
  {
    const auto as = TRY(AsUser::enter(place.os_user));
    CHECK_OK(write_file_durably(place.cluster() / "standby.signal", "", 0600));
  }
  CHECK_OK(settle_files(place));
  const auto own = read_file(place.cluster() / "postgresql.auto.conf").value_or("");
  const auto lines = TRY(standby_lines(work));
  const auto as = TRY(AsUser::enter(place.os_user));
  return write_file_durably(place.cluster() / "postgresql.auto.conf", own + lines, 0600);
}

Result<> is_standby(const Work& work) {
  const auto look = TRY(look_at_side(work));
  if (!look.recovering) return corrupt(fmt::format("the copy on {} came up as no standby", work.context.host), "roll back, and tell the authors");
  return holds(TRY(prove_standby(work)), work.context.host, only_database(work.plan));
}

Result<Json> observe_standby(const Work& work) {
  const auto& database = only_database(work.plan);
  Json out = observation(true, "");
  const auto look = TRY(look_at_side(work));
  const auto wait = [&](std::string why) {
    out["reached"] = false;
    out["why"] = std::move(why);
  };
  const auto bytes = TRY(work.run_cluster("SELECT sum(pg_database_size(oid))::bigint FROM pg_database")).number(0, 0);
  SideLook source;
  if (!look.owns(false)) {  // switched: it is followed from here
    source = side_look_from_json(TRY(work.ask("physical_look", Json::object())));
    const auto room = wal_room_from_json(TRY(work.ask("seed_room", Json::object())));
    if (!room.given_up.empty()) return refused(fmt::format("{} is not followed any more: {}", database, room.given_up));
    out["wal"][database] = to_json(room);
    if (const auto alarm = alarm_of(room, work.theirs().host); !alarm.empty()) out["alarm"] = alarm;
    if (!look.recovering) wait(fmt::format("the cluster on {} is no standby", work.context.host));
    else if (!look.streaming || !source.streaming) wait(fmt::format("the standby on {} is not connected", work.context.host));
    else if (work.plan.until == "caught-up" && (source.lag_bytes > kCaughtUpBytes || source.lag_ms > kCaughtUpMs))
      wait(fmt::format("{} is {} bytes and {} ms behind", database, source.lag_bytes, source.lag_ms));
  }
  out.update({{"tables", 0}, {"tables_ready", 0}, {"copied_bytes", bytes}, {"lag_bytes", source.lag_bytes}, {"lag_ms", source.lag_ms}});
  if (out.contains("alarm") && !get_bool_or(out, "reached", false)) out["why"] = get_string_or(out, "why", "") + "; " + get_string_or(out, "alarm", "");
  out["phase"] = get_bool_or(out, "reached", false) ? "following" : "stalled";
  return out;
}

Result<Json> observe_physical_verify(const Work& work) {
  const auto look = TRY(look_at_side(work));
  Json out = observation(true, "");
  out.update({{"rows", 0}, {"tables", 0}, {"ms", 0}});
  if (look.owns(false) || (look.recovering && look.streaming)) return out;
  out["reached"] = false;
  out["why"] = fmt::format("the standby on {} is not connected", work.context.host);
  return out;
}

}  // namespace midstream::postgres
