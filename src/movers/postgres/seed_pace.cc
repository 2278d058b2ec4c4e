#include "movers/postgres/seed_pace.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>

#include "sys/child.h"
#include "sys/file.h"

namespace midstream::postgres {

namespace {

constexpr Millis kPatience{20'000};
constexpr Millis kMostRest{2'000};

int number_in(const std::filesystem::path& path) {
  const auto text = read_file(path);
  return text ? std::atoi(text->c_str()) : 0;
}

// Who reads what comes from old; 0 where there is none (a number alone may be another's by now).
int reader_of(const SeedPlace& place) {
  const int group = number_in(place.box / "backup.pid"), reader = number_in(place.box / "backup.reader");
  return reader > 1 && group > 1 && ::getpgid(reader) == group ? reader : 0;
}

std::int64_t written_by(int process) {
  const auto text = read_file(fmt::format("/proc/{}/io", process));
  const auto at = text ? text->find("wchar: ") : std::string::npos;
  return at == std::string::npos ? -1 : std::atoll(text->c_str() + at + 7);
}

}  // namespace

Result<> BackupPace::go_on() {
  const int reader = reader_of(place_);
  if (reader == 0 || ::kill(reader, SIGCONT) == 0 || errno == ESRCH) return {};
  return errno_failure("the base backup cannot be let go on", errno);
}

Result<Millis> BackupPace::at(double share) {
  const int reader = reader_of(place_);
  const auto written = reader > 0 ? written_by(reader) : -1;
  const auto now = boot_now();
  const auto bytes = static_cast<double>(written - written_);
  const auto span = std::chrono::duration<double>(now - at_).count();
  const bool known = written >= 0 && written_ >= 0;
  written_ = written;
  at_ = now;
  if (!known || bytes <= 0) return Millis(0);
  if (share >= 1) {
    speed_ = (speed_ + bytes / std::max(span, 0.001)) / 2;
    return Millis(0);
  }
  const auto rest = std::clamp(Millis(static_cast<Millis::rep>((bytes / (speed_ * share) - span) * 1000)), Millis(0), kMostRest);
  if (rest == Millis(0)) return rest;
  const auto rested = TRY(run_child({"setsid", "--fork", "sh", "-c", "(kill -STOP $1; sleep $2; kill -CONT $1) >/dev/null 2>&1 </dev/null", "sh",
                                     std::to_string(reader), fmt::format("{:.3f}", std::chrono::duration<double>(rest).count())},
                                    "", Deadline::in(kPatience)));
  return rested.code == 0 ? Result<Millis>(rest) : retry("the base backup cannot be slowed down");
}

}  // namespace midstream::postgres
