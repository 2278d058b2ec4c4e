#include "movers/postgres/follow.h"

#include <fmt/format.h>

#include "base/text.h"
#include "movers/postgres/schema_sql.h"
#include "movers/postgres/stream.h"
#include "movers/postgres/title.h"

namespace midstream::postgres {

namespace {

constexpr std::int64_t kCaughtUpBytes = 1 << 20;
constexpr std::int64_t kCaughtUpMs = 1000;

// Empties what an earlier copy left: only while this side has never owned anything.
Result<> empty_tables(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  auto tables =
      TRY(session->run(fmt::format("SELECT name FROM ({}) AS t (name, kind, persistence, oid) WHERE persistence = 'p' "
                                   "AND kind = 'r'",
                                   kTablesSql),
                       {}, work.context.deadline, work.context.stop))
          .column(0);
  tables.push_back("midstream.handover");
  CHECK_OK(
      session->run(fmt::format("BEGIN; SET LOCAL midstream.allow = 'on'; SET LOCAL session_replication_role = replica; "
                               "TRUNCATE {}; COMMIT",
                               join(tables, ", ")),
                   {}, work.context.deadline, work.context.stop));
  return {};
}

std::string again(const LostCopies& lost) {
  if (lost.empty()) return "";
  std::vector<std::string> names;
  for (const auto& one : lost) names.push_back(one.name);
  return fmt::format("; the copy of {} has lost its slot, and begins again", join(names, ", "));
}

}  // namespace

Result<Json> apply_follow(const Work& work) {
  for (const auto& database : work.plan.databases) {
    const auto title = TRY(read_title(work, database));
    if (title.state.empty())
      return refused(fmt::format("{} is not prepared on {}", database, work.context.host), "run target first");
    const auto arrival = TRY(look_at_subscription(work, database));
    if (arrival.present) continue;
    if (title.state != "standby" || title.turn != 0)
      return refused(fmt::format("{} on {} is '{}' and has its own history: it is not copied over", database,
                                 work.context.host, title.state));
    CHECK_OK(empty_tables(work, database));
    CHECK_OK(work.ask("make_slot", {{"database", database}}));
    work.at("follow.slot");
    CHECK_OK(make_subscription(work, database, true));
  }
  return Json{{"databases", work.plan.databases.size()}};
}

Result<Json> observe_follow(const Work& work, LostCopyNotes& notes) {
  Json out = observation(true, "");
  std::int64_t tables = 0, ready = 0, bytes = 0, lag_bytes = 0, lag_ms = 0;
  const auto wait = [&](std::string why) {
    out["reached"] = false;
    out["why"] = std::move(why);
  };
  for (const auto& database : work.plan.databases) {
    const auto title = TRY(read_title(work, database));
    if (title.state.empty()) {
      wait(fmt::format("{} is not prepared on {}", database, work.context.host));
      continue;
    }
    const auto arrival = TRY(look_at_subscription(work, database));
    tables += arrival.tables;
    ready += arrival.ready;
    bytes += arrival.copied_bytes;
    if (title.state == "owner") continue;  // switched: it is followed from here
    if (!arrival.present) {
      wait(fmt::format("{} has no subscription on {}", database, work.context.host));
      continue;
    }
    const auto lag = lag_from_json(TRY(work.ask("lag", {{"database", database}})));
    if (!lag.wal.given_up.empty()) return refused(fmt::format("{} is not followed any more: {}", database, lag.wal.given_up));
    out["wal"][database] = to_json(lag.wal);
    if (const auto alarm = alarm_of(lag.wal, work.theirs().host); !alarm.empty()) out["alarm"] = alarm;
    lag_bytes += lag.bytes;
    lag_ms = std::max(lag_ms, lag.ms);
    const auto lost = TRY(find_lost_copies(work, database));
    notes.put(work.plan.move, database, lost);
    if (arrival.ready < arrival.tables || arrival.tables == 0)
      wait(fmt::format("copying {}: {} of {} tables{}", database, arrival.ready, arrival.tables, again(lost)));
    else if (!arrival.running || !lag.active)
      wait(fmt::format("the stream of {} is not connected", database));
    else if (work.plan.until == "caught-up" && (lag.bytes > kCaughtUpBytes || lag.ms > kCaughtUpMs))
      wait(fmt::format("{} is {} bytes and {} ms behind", database, lag.bytes, lag.ms));
  }
  out.update({{"tables", tables},
              {"tables_ready", ready},
              {"copied_bytes", bytes},
              {"lag_bytes", lag_bytes},
              {"lag_ms", lag_ms}});
  if (out.contains("alarm") && !get_bool_or(out, "reached", false))
    out["why"] = get_string_or(out, "why", "") + "; " + get_string_or(out, "alarm", "");
  out["phase"] = ready < tables ? "copying" : get_bool_or(out, "reached", false) ? "following" : "stalled";
  return out;
}

Result<Json> undo_follow(const Work& work) {
  for (const auto& database : work.plan.databases) {
    const auto title = TRY(read_title(work, database));
    if (title.state.empty()) continue;
    if (title.state == "owner" || title.state == "closing" || title.arrived > title.turn)
      return refused(fmt::format("{} is owned by {}", database, work.context.host), "undo the switch first");
    CHECK_OK(drop_subscription(work, database));
  }
  CHECK_OK(work.ask("forget_streams", Json::object()));
  for (const auto& database : work.plan.databases) CHECK_OK(drop_slot(work, work.outgoing(database)));
  return Json::object();
}

}  // namespace midstream::postgres
