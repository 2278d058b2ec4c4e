#include "movers/postgres/snapshot_holder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sys/child.h"
#include "sys/fd.h"
#include "sys/file.h"

namespace midstream::postgres {

namespace {

namespace fs = std::filesystem;

constexpr Millis kLook{50};
constexpr Millis kLockPatience{2'000};
constexpr std::size_t kMostOrder = 1u << 20;

fs::path lock_of(const fs::path& file) { return file.native() + ".lock"; }

Json to_json(const SnapshotOrder& order) {
  const auto& source = order.source;
  return {{"host", source.host},         {"port", source.port},     {"database", source.database},
          {"user", source.user},         {"password", source.password}, {"application", source.application},
          {"slot", order.slot},          {"patience_ms", order.patience.count()},
          {"lease_ms", order.lease.count()}, {"file", order.file.native()}};
}

Result<SnapshotOrder> order_from_json(const Json& value) {
  SnapshotOrder order;
  order.source.host = TRY(get_string(value, "host"));
  order.source.port = static_cast<std::uint16_t>(TRY(get_int(value, "port")));
  order.source.database = TRY(get_string(value, "database"));
  order.source.user = TRY(get_string(value, "user"));
  order.source.password = TRY(get_string(value, "password"));
  order.source.application = TRY(get_string(value, "application"));
  order.source.quiet = false;
  order.source.replication = true;
  order.slot = TRY(get_string(value, "slot"));
  order.patience = Millis(TRY(get_int(value, "patience_ms")));
  order.lease = Millis(TRY(get_int(value, "lease_ms")));
  order.file = TRY(get_string(value, "file"));
  return order;
}

// Nobody else holds it, and as long as the answer lives, nobody does.
Result<Fd> take_lock(const fs::path& file) {
  Fd lock(::open(lock_of(file).c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!lock) return errno_failure(fmt::format("open {}", lock_of(file).native()), errno);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) == 0) return lock;
  if (errno == EWOULDBLOCK) return retry(fmt::format("a process still holds the snapshot of {}", file.native()));
  return errno_failure("flock", errno);
}

// Replication commands know no statement_timeout (tried): at our own deadline the command is cancelled, and the server
// drops what it had of the slot.
Result<std::pair<Session, Snapshot>> make_snapshot(const SnapshotOrder& order) {
  auto source = order.source;
  source.options = std::string("-c wal_sender_timeout=0 ") + kNoticedGone;
  const auto deadline = Deadline::in(order.patience);
  auto session = TRY(Session::connect(source, deadline, {}));
  const auto dropped = session.query(fmt::format("DROP_REPLICATION_SLOT {} WAIT", ident(order.slot)), {}, deadline, {});
  if (!dropped && dropped.error().sqlstate != "42704") return std::unexpected(to_error(dropped.error(), "dropping slot " + order.slot));
  const bool recent = session.server_version() >= 150000;
  const auto made = session.query(fmt::format("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput {}", ident(order.slot),
                                              recent ? "(SNAPSHOT 'export')" : "EXPORT_SNAPSHOT"),
                                  {}, deadline, {});
  if (!made) return std::unexpected(to_error(made.error(), "cannot make slot " + order.slot));
  Snapshot snapshot{made->text(0, 2), made->text(0, 1)};
  if (snapshot.name.empty()) return refused("the server exported no snapshot with slot " + order.slot);
  return std::pair(std::move(session), std::move(snapshot));
}

Result<std::string> read_order() {
  std::string text;
  char buffer[4096];
  for (;;) {
    const auto n = ::read(0, buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_failure("reading the order", errno);
    if (n == 0) return text;
    text.append(buffer, static_cast<std::size_t>(n));
    if (text.size() > kMostOrder) return corrupt("the order is too long");
  }
}

// Until it is let go, forgotten, or the other side closes.
void hold(const Session& session, const SnapshotOrder& order) {
  struct stat seen{};
  auto touched = boot_now();
  for (timespec last{};;) {
    if (::stat(order.file.c_str(), &seen) != 0) return;
    if (seen.st_mtim.tv_sec != last.tv_sec || seen.st_mtim.tv_nsec != last.tv_nsec) touched = boot_now();
    last = seen.st_mtim;
    if (boot_now() - touched > order.lease) {
      ::unlink(order.file.c_str());
      return;
    }
    pollfd polled{session.socket(), POLLIN, 0};
    if (::poll(&polled, 1, static_cast<int>(kLook.count())) > 0) {  // an idle server says nothing but good-bye
      ::unlink(order.file.c_str());
      return;
    }
  }
}

}  // namespace

Result<Snapshot> start_snapshot_holder(const std::vector<std::string>& program, const SnapshotOrder& order,
                                       Deadline deadline, const std::stop_token& stop) {
  CHECK_OK(let_snapshot_go(order.file, deadline, stop));
  // Of no parent, session or terminal of ours: it outlives us.
  std::vector<std::string> argv{"sh", "-c", "exec setsid --fork \"$@\" >/dev/null 2>&1", "sh"};
  argv.insert(argv.end(), program.begin(), program.end());
  const auto started = TRY(run_child(argv, to_json(order).dump(), deadline, stop));
  if (started.code != 0) return refused(fmt::format("{} cannot be started", program.front()));
  for (;;) {
    std::error_code ignored;
    if (fs::exists(order.file, ignored)) {
      const auto told = TRY(parse_json(TRY(read_file(order.file))));
      if (told.contains("error")) {
        CHECK_OK(remove_file_durably(order.file));
        return std::unexpected(error_from_json(told.at("error")));
      }
      return Snapshot{TRY(get_string(told, "snapshot")), TRY(get_string(told, "point"))};
    }
    if (deadline.expired() || !pause_for(Millis(5), stop))
      return retry("the snapshot was not there in time: see whether transactions on old are open for long");
  }
}

Result<std::optional<Snapshot>> held_snapshot(const fs::path& file) {
  std::error_code ignored;
  if (!fs::exists(file, ignored) || take_lock(file)) return std::optional<Snapshot>();
  if (::utimensat(AT_FDCWD, file.c_str(), nullptr, 0) != 0) return std::optional<Snapshot>();  // it has just ended
  const auto told = TRY(parse_json(TRY(read_file(file))));
  if (told.contains("error")) return std::optional<Snapshot>();
  return std::optional(Snapshot{TRY(get_string(told, "snapshot")), TRY(get_string(told, "point"))});
}

Result<> let_snapshot_go(const fs::path& file, Deadline deadline, const std::stop_token& stop) {
  CHECK_OK(remove_file_durably(file));
  std::error_code ignored;
  if (!fs::exists(lock_of(file), ignored)) return {};
  while (!take_lock(file)) {
    if (deadline.expired() || !pause_for(Millis(10), stop)) return retry("the process that holds a snapshot has not ended");
    CHECK_OK(remove_file_durably(file));  // it may have told of itself only now
  }
  return remove_file_durably(lock_of(file));
}

Result<> hold_snapshot() {
  const auto order = TRY(order_from_json(TRY(parse_json(TRY(read_order())))));
  auto lock = take_lock(order.file);
  for (const auto until = Deadline::in(kLockPatience); !lock && !until.expired(); lock = take_lock(order.file))
    pause_for(Millis(5), {});  // somebody looks whether it is held
  if (!lock) return std::unexpected(lock.error());
  const auto made = make_snapshot(order);
  const Json told = made ? Json{{"snapshot", made->second.name}, {"point", made->second.point}, {"slot", order.slot}}
                         : Json{{"error", to_json(made.error())}};
  CHECK_OK(write_file_durably(order.file, told.dump()));
  if (!made) return std::unexpected(made.error());
  hold(made->first, order);
  return {};
}

}  // namespace midstream::postgres
