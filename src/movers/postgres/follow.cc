#include "movers/postgres/follow.h"

#include <fmt/format.h>

#include "base/text.h"
#include "movers/postgres/ddl.h"
#include "movers/postgres/schema_sql.h"
#include "movers/postgres/stream.h"
#include "movers/postgres/title.h"

namespace midstream::postgres {

namespace {

constexpr std::int64_t kCaughtUpBytes = 1 << 20;
constexpr std::int64_t kCaughtUpMs = 1000;

// A copy under way, in words.
std::string words_of(const std::string& database, const CopyLook& look) {
  auto text = fmt::format("copying {}", database);
  if (look.figures) text += ": " + words_of(*look.figures, std::chrono::duration_cast<Millis>(boot_now()).count());
  if (look.round > 1) text += fmt::format("; begun again (round {}): {}", look.round, look.why);
  if (!look.trouble.empty()) text += "; " + look.trouble;
  return text;
}

}  // namespace

Result<Json> apply_follow(const Work& work, Copier& copier) {
  for (const auto& database : work.plan.databases) {
    const auto title = TRY(read_title(work, database));
    if (title.state.empty())
      return refused(fmt::format("{} is not prepared on {}", database, work.context.host), "run target first");
    const auto arrival = TRY(look_at_subscription(work, database));
    if (arrival.present || TRY(copier.under_way(work, database))) continue;
    if (title.state != "standby" || title.turn != 0)
      return refused(fmt::format("{} on {} is '{}' and has its own history: it is not copied over", database,
                                 work.context.host, title.state));
    CHECK_OK(copier.begin(work, database));
  }
  copier.go_on(work);
  return Json{{"databases", work.plan.databases.size()}};
}

Result<Json> observe_follow(const Work& work, const Copier& copier) {
  Json out = observation(true, "");
  bool copying = false;
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
    const auto copy = copier.look(work, database);
    copying = copying || copy.under_way;
    if (copy.under_way && copy.figures) {
      tables += copy.figures->tables;
      bytes += copy.figures->bytes_done;
    }
    const auto arrival = TRY(look_at_subscription(work, database));
    tables += arrival.tables;
    ready += arrival.ready;
    bytes += arrival.copied_bytes;
    if (title.state == "owner") continue;  // switched: it is followed from here
    if (!arrival.present && !copy.under_way) {
      wait(fmt::format("{} has no subscription on {}", database, work.context.host));
      continue;
    }
    const auto lag = lag_from_json(TRY(work.ask("lag", {{"database", database}})));
    if (!lag.wal.given_up.empty()) return refused(fmt::format("{} is not followed any more: {}", database, lag.wal.given_up));
    out["wal"][database] = to_json(lag.wal);
    if (const auto alarm = alarm_of(lag.wal, work.theirs().host); !alarm.empty()) out["alarm"] = alarm;
    if (copy.under_way) {
      wait(words_of(database, copy));
      continue;
    }
    lag_bytes += lag.bytes;
    lag_ms = std::max(lag_ms, lag.ms);
    const auto way = lag.bytes > 0 ? TRY(ddl_in_the_way(work, database, true)) : std::string();
    if (!way.empty()) out["alarm"] = way;
    if (!way.empty())
      wait(way);
    else if (arrival.ready < arrival.tables || arrival.tables == 0)
      wait(fmt::format("{} of {} tables of {} are followed", arrival.ready, arrival.tables, database));
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
  if (out.contains("alarm") && !get_bool_or(out, "reached", false) && out["why"] != out["alarm"])
    out["why"] = get_string_or(out, "why", "") + "; " + get_string_or(out, "alarm", "");
  out["phase"] = copying ? "copying" : get_bool_or(out, "reached", false) ? "following" : "stalled";
  return out;
}

Result<Json> undo_follow(const Work& work, Copier& copier) {
  for (const auto& database : work.plan.databases) {
    CHECK_OK(copier.stop(work, database));
    const auto title = TRY(read_title(work, database));
    if (title.state.empty()) continue;
    if (title.state == "owner" || title.state == "closing" || title.arrived > title.turn)
      return refused(fmt::format("{} is owned by {}", database, work.context.host), "undo the switch first");
    CHECK_OK(copier.give_up(work, database));
    CHECK_OK(drop_subscription(work, database));
  }
  CHECK_OK(work.ask("forget_streams", Json::object()));
  for (const auto& database : work.plan.databases) CHECK_OK(drop_slot(work, work.outgoing(database)));
  return Json::object();
}

}  // namespace midstream::postgres
