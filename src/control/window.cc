#include "control/window.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <mutex>

namespace midstream {

namespace {

// The C library knows one zone a process: it is switched for the moment of the question, under a lock.
tm local_time(const std::string& zone, std::int64_t wall_ms) {
  static std::mutex mutex;
  std::lock_guard lock(mutex);
  const char* before = std::getenv("TZ");
  const std::string saved = before == nullptr ? "" : before;
  ::setenv("TZ", zone.c_str(), 1);
  ::tzset();
  const time_t seconds = wall_ms / 1000;
  tm parts{};
  ::localtime_r(&seconds, &parts);
  if (before == nullptr) {
    ::unsetenv("TZ");
  } else {
    ::setenv("TZ", saved.c_str(), 1);
  }
  ::tzset();
  return parts;
}

}  // namespace

Result<bool> window_open(const Window& window, std::int64_t wall_ms) {
  if (window.zone != "UTC" && !std::filesystem::exists("/usr/share/zoneinfo/" + window.zone)) {
    return refused(fmt::format("time zone '{}' is not known on this machine", window.zone), "install tzdata, or correct rules.window.zone");
  }
  const auto parts = local_time(window.zone, wall_ms);
  const int minute = parts.tm_hour * 60 + parts.tm_min;
  return std::ranges::find(window.days, parts.tm_wday) != window.days.end() && minute >= window.from_minute && minute < window.to_minute;
}

}  // namespace midstream
