#include "movers/hosts/size.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysinfo.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include "base/text.h"
#include "movers/mover.h"

namespace midstream {

namespace {

namespace fs = std::filesystem;

constexpr double kHeadroom = 1.2;

std::uint64_t with_headroom(std::uint64_t value) {
  return static_cast<std::uint64_t>(std::ceil(static_cast<double>(value) * kHeadroom));
}

void at_least(Json& list, std::string_view what, std::uint64_t want, std::uint64_t have, bool bytes,
              const std::string& detail = "") {
  if (want == 0) return;
  const auto text = [&](std::uint64_t value) { return bytes ? human_bytes(value) : fmt::format("{}", value); };
  const bool ok = have >= want;
  list.push_back(finding(fmt::format("{} at least {}", what, text(want)), ok,
                         fmt::format("has {}{}", text(have), detail),
                         ok ? "" : "make the host larger, or lower at_least"));
}

void grown(Json& list, std::string_view what, double factor, std::uint64_t old_has, std::uint64_t have, bool bytes) {
  const auto text = [&](std::uint64_t value) { return bytes ? human_bytes(value) : fmt::format("{}", value); };
  const auto want = static_cast<std::uint64_t>(std::ceil(factor * static_cast<double>(old_has)));
  // Machines of one size differ by what their firmware keeps: a hundredth is no difference.
  const bool ok = static_cast<double>(have) >= 0.99 * static_cast<double>(want);
  list.push_back(finding(fmt::format("{} at least {}x that of old", what, factor), ok,
                         fmt::format("needs {} x {} = {}, has {}", factor, text(old_has), text(want), text(have)),
                         ok ? "" : "make the host larger, or lower grow"));
}

void landings_fit(Json& list, const std::vector<Landing>& landings) {
  std::map<std::uint64_t, std::vector<const Landing*>> by_device;
  for (const auto& landing : landings) by_device[landing.room.device].push_back(&landing);
  for (const auto& [device, here] : by_device) {
    std::uint64_t bytes = 0;
    std::uint64_t inodes = 0;
    std::vector<std::string> parts;
    for (const auto* landing : here) {
      bytes += landing->use.bytes;
      inodes += landing->use.inodes;
      parts.push_back(fmt::format("{} {}{}", landing->use.what, landing->use.bound ? "at most " : "",
                                  human_bytes(landing->use.bytes)));
    }
    const auto& room = here[0]->room;
    const bool ok = room.bytes >= with_headroom(bytes) && room.inodes >= with_headroom(inodes);
    list.push_back(finding(
        fmt::format("room for what moves to the file system of {}", room.at), ok,
        fmt::format("{} and a fifth more: needs {} and {} inodes, has {} and {}", join(parts, " + "),
                    human_bytes(with_headroom(bytes)), with_headroom(inodes), human_bytes(room.bytes), room.inodes),
        ok ? "" : "give that file system more room"));
  }
}

}  // namespace

std::string human_bytes(std::uint64_t bytes) {
  constexpr const char* kUnits[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  int unit = 0;
  while (value >= 1024 && unit < 4) value /= 1024, ++unit;
  return unit == 0 ? fmt::format("{} bytes", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

Result<Room> room_at(const std::string& path) {
  fs::path existing = path;
  std::error_code error;
  while (!fs::exists(existing, error) && existing.has_parent_path() && existing != existing.parent_path())
    existing = existing.parent_path();
  struct statvfs system {};
  struct stat info {};
  if (::statvfs(existing.c_str(), &system) != 0 || ::stat(existing.c_str(), &info) != 0)
    return errno_failure("cannot ask for the room at " + path, errno);
  return Room{path, info.st_dev, std::uint64_t{system.f_bavail} * system.f_frsize, system.f_favail};
}

Result<HostSize> size_of_host() {
  struct sysinfo info {};
  if (::sysinfo(&info) != 0) return errno_failure("sysinfo", errno);
  HostSize size{.memory = std::uint64_t{info.totalram} * info.mem_unit, .cpus = ::sysconf(_SC_NPROCESSORS_ONLN)};
  std::set<std::uint64_t> seen;
  for (const char* path : {"/", "/var", "/srv", "/home", "/opt", "/var/lib", "/data"}) {
    std::error_code error;
    if (!fs::exists(path, error)) continue;
    const Room room = TRY(room_at(path));
    if (seen.insert(room.device).second) size.rooms.push_back(room);
  }
  return size;
}

Result<Use> use_of(const std::string& what, const std::string& path, Deadline deadline) {
  Use use{.what = what};
  struct stat top {};
  if (::lstat(path.c_str(), &top) != 0) return errno_failure("cannot look at " + path, errno);
  std::set<std::uint64_t> linked;
  std::error_code error;
  auto at = fs::recursive_directory_iterator(path, fs::directory_options::skip_permission_denied, error);
  for (int seen = 0; !error && at != fs::recursive_directory_iterator(); at.increment(error), ++seen) {
    if (seen % 256 == 0 && deadline.expired()) {
      struct statvfs system {};
      if (::statvfs(path.c_str(), &system) != 0) return errno_failure("cannot ask for the use at " + path, errno);
      return Use{what, (std::uint64_t{system.f_blocks} - system.f_bfree) * system.f_frsize,
                 std::uint64_t{system.f_files} - system.f_ffree, true};
    }
    struct stat info {};
    if (::lstat(at->path().c_str(), &info) != 0) continue;  // gone meanwhile
    if (info.st_dev != top.st_dev) {
      at.disable_recursion_pending();
      continue;
    }
    if (info.st_nlink > 1 && !S_ISDIR(info.st_mode) && !linked.insert(info.st_ino).second) continue;
    use.bytes += static_cast<std::uint64_t>(info.st_blocks) * 512;
    ++use.inodes;
  }
  return use;
}

Json judge_size(const Wish& wish, const HostSize& host, const HostSize& old_side,
                const std::vector<Landing>& landings) {
  Json list = Json::array();
  std::uint64_t disk = 0;
  std::uint64_t inodes = 0;
  std::vector<std::string> parts;
  for (const auto& room : host.rooms) {
    disk += room.bytes;
    inodes += room.inodes;
    parts.push_back(fmt::format("{} at {}", human_bytes(room.bytes), room.at));
  }
  at_least(list, "memory", wish.memory, host.memory, true);
  at_least(list, "processors", static_cast<std::uint64_t>(wish.cpus), static_cast<std::uint64_t>(host.cpus), false);
  at_least(list, "free disk", wish.disk, disk, true, parts.size() > 1 ? " = " + join(parts, " + ") : "");
  at_least(list, "free inodes", wish.inodes, inodes, false);
  if (wish.grow <= 0) return list;
  grown(list, "memory", wish.grow, old_side.memory, host.memory, true);
  grown(list, "processors", wish.grow, static_cast<std::uint64_t>(old_side.cpus), static_cast<std::uint64_t>(host.cpus),
        false);
  landings_fit(list, landings);
  return list;
}

}  // namespace midstream
