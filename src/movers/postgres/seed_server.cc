#include "movers/postgres/seed_server.h"

#include <fmt/format.h>
#include <signal.h>

#include "base/text.h"
#include "movers/postgres/access.h"
#include "movers/postgres/as_user.h"
#include "movers/postgres/seed_backup.h"
#include "movers/postgres/server_unit.h"
#include "sys/child.h"
#include "sys/file.h"

namespace midstream::postgres {

namespace {

namespace fs = std::filesystem;

constexpr Millis kPatience{600'000};  // a checkpoint of all that recovery wrote

// A value as postgresql.conf takes it.
std::string value(std::string_view text) {
  std::string out = "'";
  for (const char c : text) out += c == '\'' || c == '\\' ? std::string(2, c) : std::string(1, c);
  return out + "'";
}

std::string configuration(const Work& work, const SeedPlace& place, const std::string& point) {
  const auto& end = work.theirs();
  const auto source = fmt::format("host={} port={} user={} passfile='{}' application_name={} connect_timeout=10", end.address, end.port,
                                  work.plan.replication_role(), (place.box / "pgpass").native(), work.plan.seed_slot());
  return fmt::format(
      "# for midstream's own use, while a copy becomes new's cluster\n"
      "listen_addresses = ''\nport = {}\nunix_socket_directories = {}\nunix_socket_permissions = 0700\nhba_file = {}\nident_file = {}\n"
      // Nobody may log in before it has become writable: nobody would see whose title that is.
      "hot_standby = off\n"
      // No second pair of hands: a subscription of old's would take from its publisher what old needs.
      "max_logical_replication_workers = 0\nautovacuum = off\nwal_level = logical\narchive_mode = off\n"
      // Old's commits are not new's: of what comes by the seed, new knows no time of commit (tried: with it, every row of old would look
      // like one that new committed by itself).
      "track_commit_timestamp = off\n"
      "shared_buffers = 128MB\nmax_connections = 20\nmax_prepared_transactions = 500\nmax_locks_per_transaction = 128\n"
      "max_wal_size = 4GB\ncheckpoint_timeout = 30min\nrecovery_init_sync_method = syncfs\nlogging_collector = off\n"
      "primary_conninfo = {}\nprimary_slot_name = {}\nwal_retrieve_retry_interval = 500ms\n"
      // A commit that begins at the slots' point comes by the slots: the record at the point itself is not replayed.
      "recovery_target_lsn = {}\nrecovery_target_inclusive = off\nrecovery_target_timeline = current\nrecovery_target_action = promote\n",
      work.mine().port, value(place.box.native()), value((place.box / "seed.hba").native()), value((place.box / "seed.ident").native()),
      value(source), value(work.plan.seed_slot()), value(point));
}

}  // namespace

Result<> prepare_seed_server(const Work& work, const SeedPlace& place, const std::string& point) {
  const auto as = TRY(AsUser::enter(place.os_user));
  CHECK_OK(write_file_durably(place.box / "seed.conf", configuration(work, place, point)));
  CHECK_OK(write_file_durably(place.box / "seed.hba", fmt::format("local all {0} peer map={0}\n", work.plan.agent_role())));
  CHECK_OK(write_file_durably(place.box / "seed.ident", ident_lines(work.plan, work.options.os_user)));
  CHECK_OK(remove_file_durably(place.box / "seed.log"));
  return write_file_durably(place.cluster() / "standby.signal", "");
}

bool seed_server_runs(const SeedPlace& place) { return postmaster_of(place.cluster()) != 0; }

Result<> start_seed_server(const SeedPlace& place, int major) {
  if (seed_server_runs(place)) return {};
  {
    // Read beside ours: it says what an operator said of another server, on old or on new.
    const auto as = TRY(AsUser::enter(place.os_user));
    CHECK_OK(write_file_durably(place.cluster() / "postgresql.auto.conf", ""));
  }
  auto argv = as_server_user(place.os_user);
  const auto program = TRY(server_programs(major)) / "pg_ctl";
  // pg_ctl hands -o to a shell.
  for (const auto* path : {&place.box, &place.data})
    if (path->native().find('\'') != std::string::npos) return refused(fmt::format("{} has a quote in its name", path->native()));
  for (const auto& word : std::vector<std::string>{program, "start", "--no-wait", "--silent", "--pgdata=" + place.cluster().native(),
                                                   "--log=" + (place.box / "seed.log").native(),
                                                   fmt::format("--options=-c config_file='{}'", (place.box / "seed.conf").native())})
    argv.push_back(word);
  const auto exit = TRY(run_child(argv, "", Deadline::in(Millis(30'000))));
  if (exit.code != 0) return retry(fmt::format("the server on the copy cannot be started: {}", printable(trim(exit.err + exit.out))));
  return {};
}

std::string seed_server_trouble(const SeedPlace& place) {
  std::string last;
  for (const auto& line : split(read_file(place.box / "seed.log").value_or(""), '\n')) {
    const auto at = std::min(line.find("FATAL:"), line.find("PANIC:"));
    if (at == std::string::npos || line.find("the database system is") != std::string::npos || line.find("due to administrator command") != std::string::npos) continue;
    last = printable(line.substr(at));
  }
  return last;
}

Result<> stop_seed_server(const SeedPlace& place, int major) {
  if (!seed_server_runs(place)) return {};
  auto argv = as_server_user(place.os_user);
  for (const auto& word : std::vector<std::string>{TRY(server_programs(major)) / "pg_ctl", "stop", "--mode=fast", "--wait", "--silent",
                                                   fmt::format("--timeout={}", kPatience.count() / 1000), "--pgdata=" + place.cluster().native()})
    argv.push_back(word);
  const auto exit = TRY(run_child(argv, "", Deadline::in(kPatience + Millis(5'000))));
  if (exit.code != 0 || seed_server_runs(place)) return retry(fmt::format("the server on the copy does not stop: {}", printable(trim(exit.err))));
  return {};
}

Result<> kill_seed_server(const SeedPlace& place) {
  const auto deadline = Deadline::in(Millis(30'000));
  for (int pid = postmaster_of(place.cluster()); pid != 0; pid = postmaster_of(place.cluster())) {
    ::kill(pid, SIGQUIT);  // "immediate"
    CHECK_OK(wait_a_bit(Millis(20), deadline, {}, "the server on the copy to end"));
  }
  return {};
}

Result<> clear_box(const SeedPlace& place) {
  const auto as = TRY(AsUser::enter(place.os_user));
  for (const char* name : {"seed.conf", "seed.hba", "seed.ident", "seed.log", "backup.lock", "backup.log", "backup.pid", "backup.reader", "backup.rc", "backup.rc.new"})
    CHECK_OK(remove_file_durably(place.box / name));
  return {};
}

PostgresOptions seed_server_options(const Work& work, const SeedPlace& place) {
  auto options = work.options;
  options.socket_dir = place.box;
  options.superuser = work.plan.agent_role();
  return options;
}

}  // namespace midstream::postgres
