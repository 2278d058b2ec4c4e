#include "movers/postgres/seed_backup.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/text.h"
#include "movers/postgres/as_user.h"
#include "sys/child.h"
#include "sys/fd.h"
#include "sys/file.h"

namespace midstream::postgres {

namespace {

namespace fs = std::filesystem;

constexpr Millis kPatience{20'000};
constexpr std::size_t kTail = 4096;

// $1: the box; the rest: the backup. Its group is what is ended where it must end.
constexpr const char* kRun =
    "box=$1; shift; echo $PPID >\"$box/backup.pid\"; \"$@\" >\"$box/backup.log\" 2>&1 & echo $! >\"$box/backup.reader\"; wait $!; echo $? >\"$box/backup.rc.new\"; mv "
    "\"$box/backup.rc.new\" \"$box/backup.rc\"";

Result<bool> is_running(const SeedPlace& place) {
  const auto path = place.box / "backup.lock";
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd && errno == ENOENT) return false;
  if (!fd) return errno_failure(fmt::format("cannot open {}", path.native()), errno);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return false;
  if (errno != EWOULDBLOCK) return errno_failure(fmt::format("cannot lock {}", path.native()), errno);
  return true;
}

std::string tail_of(const fs::path& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return "";
  const auto size = ::lseek(fd.get(), 0, SEEK_END);
  const auto from = size > static_cast<off_t>(kTail) ? size - static_cast<off_t>(kTail) : 0;
  std::string text(kTail, '\0');
  const auto n = ::pread(fd.get(), text.data(), kTail, from);
  text.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return text;
}

// "   12345/678901 kB (1%), 0/1 tablespace"; the last such line counts, and the first error: those after it only follow from it.
void read_log(const std::string& log, BackupLook& look) {
  for (const auto& line : split(log, '\n')) {
    const auto slash = line.find('/');
    if (slash == std::string::npos || line.find(" kB (") == std::string::npos) {
      if (look.last_words.empty() && line.find("error:") != std::string::npos) look.last_words = printable(trim(line));
      continue;
    }
    look.bytes_done = std::strtoll(line.c_str(), nullptr, 10) * 1024;
    look.bytes_total = std::strtoll(line.c_str() + slash + 1, nullptr, 10) * 1024;
  }
}

}  // namespace

Result<fs::path> server_programs(int major) {
  const auto directory = fs::path(fmt::format("/usr/lib/postgresql/{}/bin", major));
  for (const char* name : {"pg_basebackup", "pg_ctl", "postgres"})
    if (::access((directory / name).c_str(), X_OK) != 0)
      return refused(fmt::format("there is no {} in {}", name, directory.native()), fmt::format("install postgresql-{}", major));
  return directory;
}

std::vector<std::string> as_server_user(const std::string& os_user) {
  return {"setpriv", fmt::format("--reuid={}", os_user), fmt::format("--regid={}", os_user), "--init-groups", "env", "-i",
          "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"};
}

Result<> start_backup(const Work& work, const SeedPlace& place, int major) {
  const auto programs = TRY(server_programs(major));
  {
    const auto as = TRY(AsUser::enter(place.os_user));
    for (const char* name : {"backup.rc", "backup.pid", "backup.reader", "backup.log"}) CHECK_OK(remove_file_durably(place.box / name));
  }
  const auto& end = work.theirs();
  // The password is in a file that the server's user alone can read.
  const auto source = fmt::format("host={} port={} user={} passfile='{}' application_name={} connect_timeout=10 keepalives_idle=10 "
                                  "keepalives_interval=5 keepalives_count=3",
                                  end.address, end.port, work.plan.replication_role(), (place.box / "pgpass").native(), work.plan.seed_slot());
  auto argv = as_server_user(place.os_user);
  const std::vector<std::string> rest{
      "setsid", "--fork", "flock", "--nonblock", place.box / "backup.lock", "sh", "-c", kRun, "sh", place.box, programs / "pg_basebackup",
      "--pgdata=" + place.cluster().native(), "--wal-method=stream", "--slot=" + work.plan.seed_slot(), "--progress", "--no-password",
      // Of its own the checkpoint that begins it is spread out; whoever asks for no limit wants it soon.
      work.plan.limit > 0 ? "--checkpoint=spread" : "--checkpoint=fast", "--dbname=" + source};
  argv.insert(argv.end(), rest.begin(), rest.end());
  if (work.plan.limit > 0) argv.push_back(fmt::format("--max-rate={}k", work.plan.limit >> 10));
  // Nothing of it may hold our pipes open.
  std::vector<std::string> quiet{"sh", "-c", "cd / && exec \"$@\" >/dev/null 2>&1 </dev/null", "sh"};
  quiet.insert(quiet.end(), argv.begin(), argv.end());
  const auto started = TRY(run_child(quiet, "", Deadline::in(kPatience), work.context.stop));
  if (started.code != 0) return retry("the base backup cannot be started");
  // It has begun once it has the lock, or is over already.
  for (const auto deadline = Deadline::in(kPatience);;) {
    std::error_code ignored;
    if (TRY(is_running(place)) || fs::exists(place.box / "backup.rc", ignored)) return {};
    CHECK_OK(wait_a_bit(Millis(5), deadline, work.context.stop, "the base backup to begin"));
  }
}

Result<BackupLook> look_at_backup(const SeedPlace& place) {
  BackupLook look;
  look.running = TRY(is_running(place));  // first: the exit code is there before the lock is free
  read_log(tail_of(place.box / "backup.log"), look);
  if (look.running) return look;
  const auto code = tail_of(place.box / "backup.rc");
  look.ended_well = trim(code) == "0";
  if (!look.ended_well && look.last_words.empty()) look.last_words = "it was killed";
  return look;
}

Result<> end_backup(const SeedPlace& place) {
  for (const auto deadline = Deadline::in(kPatience); TRY(is_running(place));) {
    const int group = std::atoi(tail_of(place.box / "backup.pid").c_str());
    if (group > 1) ::kill(-group, SIGKILL);
    CHECK_OK(wait_a_bit(Millis(10), deadline, {}, "the base backup to end"));
  }
  return {};
}

}  // namespace midstream::postgres
