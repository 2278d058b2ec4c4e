#include "movers/postgres/wal.h"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include <algorithm>

#include "movers/postgres/stream.h"
#include "movers/postgres/sync_reverse.h"
#include "movers/postgres/title.h"
#include "sys/file.h"
#include "sys/log.h"

namespace midstream::postgres {

namespace {

constexpr std::int64_t kMiB = 1 << 20;
constexpr std::int64_t kLeastFloor = 64 * kMiB;
constexpr std::int64_t kMostFloor = 10'240 * kMiB;

struct Disk {
  std::int64_t free = -1;
  std::int64_t floor = 0;
};

// Of the file system that holds the log (pg_wal is often a link to a disk of its own).
Result<Disk> disk_of_wal(const Work& work) {
  const auto data = TRY(work.run_cluster("SHOW data_directory")).text(0, 0);
  struct statvfs room {};
  if (::statvfs((data + "/pg_wal").c_str(), &room) != 0)
    return errno_failure(fmt::format("cannot see how much room {}/pg_wal has", data), errno);
  const auto block = static_cast<std::int64_t>(room.f_frsize);
  Disk disk{static_cast<std::int64_t>(room.f_bavail) * block, work.options.wal_floor};
  if (disk.floor == 0)
    disk.floor = std::clamp(static_cast<std::int64_t>(room.f_blocks) * block / 10, kLeastFloor, kMostFloor);
  return disk;
}

std::filesystem::path note_path(const Work& work, const std::string& name) {
  return work.context.state / (name + ".given-up");
}

std::string consequence(const Work& work) {
  return work.on_old ? "the copy on new must start again: `midstream rollback`, then `midstream run`"
                     : "old lacks what was written on new since, so going back is not possible any more";
}

Result<std::string> given_up(const Work& work, const std::string& name, const std::string& status) {
  std::error_code ignored;
  if (std::filesystem::exists(note_path(work, name), ignored)) {
    const auto note = TRY(parse_json(TRY(read_file(note_path(work, name)))));
    return fmt::format("{}; {}", get_string_or(note, "why", "?"), consequence(work));
  }
  if (status != "lost") return std::string();
  return fmt::format("PostgreSQL on {} gave slot {} up, for max_slot_wal_keep_size was passed; {}", work.context.host, name,
                     consequence(work));
}

Result<> give_up(const Work& work, const std::string& name, const WalRoom& room) {
  const auto why = fmt::format(
      "the agent on {} dropped slot {}: it kept {} MiB of log, {} MiB were free and the floor is {} MiB", work.context.host,
      name, room.retained / kMiB, room.free / kMiB, room.floor / kMiB);
  // The note first: a slot that is gone without a word would look like a link that is down.
  CHECK_OK(write_file_durably(note_path(work, name), Json{{"why", why}, {"at_ms", wall_now_ms()}}.dump(), 0600));
  work.at("wal.noted");
  CHECK_OK(drop_slot_alone(work, name));
  log_warn("postgres", "move {}: {}; {}", work.plan.move, why, consequence(work));
  CHECK_OK(work.run_cluster("CHECKPOINT"));  // only then are the files removed
  return {};
}

}  // namespace

Result<WalRoom> look_at_wal(const Work& work, const std::string& name) {
  const auto disk = TRY(disk_of_wal(work));
  WalRoom room{.free = disk.free, .floor = disk.floor};
  const auto rows = TRY(work.run_cluster("SELECT coalesce(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END - restart_lsn, 0)::bigint, "
                                         "coalesce(safe_wal_size, -1)::bigint, coalesce(wal_status, 'lost') FROM "
                                         "pg_replication_slots WHERE slot_name = $1",
                                         {name}));
  if (rows.size() > 0) {
    room.retained = rows.number(0, 0);
    room.safe = rows.number(0, 1);
    room.status = rows.text(0, 2);
  }
  room.given_up = TRY(given_up(work, name, room.status));
  return room;
}

Json to_json(const WalRoom& room) {
  return {{"retained_bytes", room.retained}, {"safe_bytes", room.safe},     {"free_bytes", room.free},
          {"floor_bytes", room.floor},       {"status", room.status},       {"given_up", room.given_up}};
}

WalRoom wal_room_from_json(const Json& value) {
  return {get_int_or(value, "retained_bytes", 0), get_int_or(value, "safe_bytes", -1),
          get_int_or(value, "free_bytes", -1),    get_int_or(value, "floor_bytes", 0),
          get_string_or(value, "status", ""),     get_string_or(value, "given_up", "")};
}

std::string alarm_of(const WalRoom& room, const std::string& host) {
  if (!room.given_up.empty()) return room.given_up;
  if (!room.burdens()) return "";
  const bool tight = room.free < 2 * room.floor;
  const bool ending = room.safe >= 0 && room.safe < room.floor;
  if (!tight && !ending) return "";
  return fmt::format("the log kept on {} for the other side grows: {} MiB, {} MiB free, the slot is given up below {} MiB{}",
                     host, room.retained / kMiB, room.free / kMiB, room.floor / kMiB,
                     ending ? fmt::format(" or after {} MiB more (max_slot_wal_keep_size)", room.safe / kMiB) : "");
}

namespace {

// The log that a seed's recovery needs; whatever the titles say, nothing else hangs on it.
Result<> guard_seed(const Work& work) {
  const auto name = work.plan.seed_slot();
  const auto room = TRY(look_at_wal(work, name));
  if (!room.status.empty() && room.burdens() && room.free >= 0 && room.free < room.floor) CHECK_OK(give_up(work, name, room));
  return {};
}

}  // namespace

Result<> guard_wal(const Work& work) {
  if (work.plan.physical()) {
    // What the standby needs; the standby's own was made ahead of a switch, and the next try makes it anew.
    if (!TRY(work.run_cluster("SELECT pg_is_in_recovery()")).truth(0, 0)) return guard_seed(work);
    const auto room = TRY(look_at_wal(work, work.plan.seed_slot()));
    if (!room.status.empty() && room.burdens() && room.free >= 0 && room.free < room.floor) return drop_slot_alone(work, work.plan.seed_slot());
    return {};
  }
  if (work.on_old && work.plan.seeded()) CHECK_OK(guard_seed(work));
  for (const auto& database : work.plan.databases) {
    const auto name = work.outgoing(database);
    const auto room = TRY(look_at_wal(work, name));
    if (room.status.empty()) continue;
    if (!room.burdens() || room.free < 0 || room.free >= room.floor) {
      // Noted, but never dropped, and now there is room: it goes on.
      if (room.status != "lost" && !room.given_up.empty()) CHECK_OK(forget_given_up(work, name));
      continue;
    }
    const std::lock_guard lock(work.titles);
    const auto title = TRY(read_title(work, database));
    if (title.state == "owner") {
      CHECK_OK(give_up(work, name, room));
      if (!work.on_old) CHECK_OK(end_sync_reverse(work));  // nobody will ever take what commits would wait for
    }
    // Made ahead of a switch that was postponed: nothing hangs on it, and the next try makes it anew.
    if (title.state == "standby") CHECK_OK(drop_slot_alone(work, name));
  }
  return {};
}

Result<> forget_given_up(const Work& work, const std::string& name) { return remove_file_durably(note_path(work, name)); }

Result<Json> wal_facts(const Work& work) {
  const auto disk = TRY(disk_of_wal(work));
  const auto sizes = TRY(work.run_cluster(
      "SELECT (SELECT setting::bigint * 1048576 FROM pg_settings WHERE name = 'max_wal_size'), (SELECT CASE WHEN "
      "setting = '-1' THEN -1 ELSE setting::bigint * 1048576 END FROM pg_settings WHERE name = 'max_slot_wal_keep_size')"));
  return Json{{"wal_free", disk.free},
              {"wal_floor", disk.floor},
              {"max_wal_size", sizes.number(0, 0)},
              {"max_slot_wal_keep_size", sizes.number(0, 1)}};
}

void check_wal(const Json& facts, const std::string& where, Json& findings) {
  const auto free = get_int_or(facts, "wal_free", -1);
  const auto floor = get_int_or(facts, "wal_floor", 0);
  const bool roomy = free >= 2 * floor;
  findings.push_back(finding("room for the log on " + where, roomy,
                             fmt::format("{} MiB free; a slot of ours is given up below {} MiB", free / kMiB, floor / kMiB),
                             roomy ? "" : "make room on the disk of pg_wal"));
  const auto limit = get_int_or(facts, "max_slot_wal_keep_size", -1);
  const auto usual = get_int_or(facts, "max_wal_size", 0);
  const bool wide = limit < 0 || limit >= usual;
  findings.push_back(finding("max_slot_wal_keep_size on " + where, wide,
                             limit < 0 ? "no limit" : fmt::format("{} MiB", limit / kMiB),
                             wide ? "" : fmt::format("raise it to at least max_wal_size ({} MiB), and reload", usual / kMiB)));
}

}  // namespace midstream::postgres
