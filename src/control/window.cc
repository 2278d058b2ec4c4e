#include "control/window.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <mutex>

namespace midstream {

namespace {

constexpr std::int64_t kMinute = 60'000;
constexpr int kFarthest = 14 * 24 * 60;  // minutes that are looked at

// The C library knows one zone a process: it is switched while this lives, under a lock.
class InZone {
 public:
  explicit InZone(const std::string& zone) : lock_(mutex()) {
    const char* before = std::getenv("TZ");
    if (before != nullptr) before_ = before;
    ::setenv("TZ", zone.c_str(), 1);
    ::tzset();
  }
  ~InZone() {
    if (before_) {
      ::setenv("TZ", before_->c_str(), 1);
    } else {
      ::unsetenv("TZ");
    }
    ::tzset();
  }
  InZone(const InZone&) = delete;
  InZone& operator=(const InZone&) = delete;

  tm at(std::int64_t wall_ms) const {
    const time_t seconds = wall_ms / 1000;
    tm parts{};
    ::localtime_r(&seconds, &parts);
    return parts;
  }

 private:
  static std::mutex& mutex() {
    static std::mutex one;
    return one;
  }
  std::lock_guard<std::mutex> lock_;
  std::optional<std::string> before_;
};

Result<> known(const std::string& zone) {
  if (zone == "UTC" || std::filesystem::exists("/usr/share/zoneinfo/" + zone)) return {};
  return refused(fmt::format("time zone '{}' is not known on this machine", zone), "install tzdata, or correct rules.window.zone");
}

bool open_at(const Window& window, const tm& parts) {
  const int minute = parts.tm_hour * 60 + parts.tm_min;
  return std::ranges::find(window.days, parts.tm_wday) != window.days.end() && minute >= window.from_minute && minute < window.to_minute;
}

}  // namespace

Result<bool> window_open(const Window& window, std::int64_t wall_ms) {
  CHECK_OK(known(window.zone));
  return open_at(window, InZone(window.zone).at(wall_ms));
}

// Minute by minute, as window_open() sees them: no arithmetic on local times, which a change of the clock makes wrong.
Result<std::optional<Opening>> window_opening(const Window& window, std::int64_t wall_ms) {
  CHECK_OK(known(window.zone));
  const InZone zone(window.zone);
  const auto begin = wall_ms - wall_ms % kMinute;
  std::optional<Opening> found;
  for (int i = 0; i < kFarthest; ++i) {
    const auto at = begin + i * kMinute;
    const bool open = open_at(window, zone.at(at));
    if (open && !found) found = Opening{at, at};
    if (found && !open) return Opening{found->opens_ms, at};
  }
  if (found) found->closes_ms = begin + kFarthest * kMinute;
  return found;
}

std::string zone_text(const std::string& zone, std::int64_t wall_ms) {
  const auto parts = InZone(zone).at(wall_ms);
  char text[64];
  return {text, std::strftime(text, sizeof text, "%a %Y-%m-%d %H:%M:%S", &parts)};
}

std::string to_string(const Window& window) {
  constexpr const char* kDays[] = {"sun", "mon", "tue", "wed", "thu", "fri", "sat"};
  std::string days;
  for (std::size_t i = 0; i < window.days.size();) {
    std::size_t last = i;
    while (last + 1 < window.days.size() && window.days[last + 1] == window.days[last] + 1) ++last;
    days += (days.empty() ? "" : ",") + std::string(kDays[window.days[i]]) + (last > i ? std::string("-") + kDays[window.days[last]] : "");
    i = last + 1;
  }
  return fmt::format("{} {:02}:{:02}-{:02}:{:02} {}", days, window.from_minute / 60, window.from_minute % 60, window.to_minute / 60,
                     window.to_minute % 60, window.zone);
}

}  // namespace midstream
