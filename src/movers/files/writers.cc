// Who has a file of a tree open for writing: /proc/PID/fd and fdinfo, proc(5).
#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <fstream>
#include <memory>

#include "base/text.h"
#include "movers/files/outgoing.h"
#include "movers/files/path.h"

namespace midstream::files {

namespace {

std::vector<std::string> numbered(const std::string& directory) {
  std::vector<std::string> out;
  const std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(directory.c_str()), ::closedir);
  if (!dir) return out;
  while (const dirent* entry = ::readdir(dir.get())) {
    if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9') out.emplace_back(entry->d_name);
  }
  return out;
}

bool is_for_writing(const std::string& info_file) {
  std::ifstream in(info_file);
  std::string key, value;
  while (in >> key >> value) {
    if (key == "flags:") return (std::strtoul(value.c_str(), nullptr, 8) & O_ACCMODE) != O_RDONLY;
  }
  return false;
}

}  // namespace

Json open_writers(const std::string& path) {
  Json out = Json::array();
  const std::string prefix = path + "/";
  const std::string hidden = prefix + std::string(kHidden) + "/";
  const auto self = std::to_string(::getpid());
  for (const auto& pid : numbered("/proc")) {
    if (pid == self) continue;
    for (const auto& fd : numbered("/proc/" + pid + "/fd")) {
      char target[PATH_MAX];
      const auto link = fmt::format("/proc/{}/fd/{}", pid, fd);
      const ssize_t n = ::readlink(link.c_str(), target, sizeof target);
      if (n <= 0) continue;
      const std::string_view name(target, static_cast<std::size_t>(n));
      if (!name.starts_with(prefix) || name.starts_with(hidden)) continue;
      if (!is_for_writing(fmt::format("/proc/{}/fdinfo/{}", pid, fd))) continue;
      std::ifstream comm("/proc/" + pid + "/comm");
      std::string command;
      std::getline(comm, command);
      out.push_back({{"pid", std::atoi(pid.c_str())}, {"command", printable(command)}, {"path", printable(name)}});
      if (out.size() >= 50) return out;
    }
  }
  return out;
}

}  // namespace midstream::files
