#include "movers/hosts/processes.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <cstdlib>
#include <set>

#include "base/text.h"
#include "sys/fd.h"

namespace midstream {

Result<std::string> read_kernel_file(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!fd) return errno_failure("cannot read " + path, errno);
  std::string text;
  char buffer[16384];
  while (true) {
    const ssize_t got = ::read(fd.get(), buffer, sizeof buffer);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_failure("cannot read " + path, errno);
    if (got == 0) return text;
    text.append(buffer, static_cast<std::size_t>(got));
  }
}

// pid (name) state ppid pgrp session ... the 22nd is when it started; the name may hold blanks and parentheses.
bool parse_stat(const std::string& text, Process& process) {
  const auto open = text.find('(');
  const auto close = text.rfind(')');
  if (open == std::string::npos || close == std::string::npos || close < open) return false;
  process.pid = std::atoi(text.c_str());
  process.name = text.substr(open + 1, close - open - 1);
  const auto words = split(trim(text.substr(close + 1)), ' ');
  if (process.pid <= 0 || words.size() < 20 || words[0].size() != 1) return false;
  process.state = words[0][0];
  process.parent = std::atoi(words[1].c_str());
  process.session = std::atoi(words[3].c_str());
  process.started = std::strtoull(words[19].c_str(), nullptr, 10);
  return true;
}

std::string systemd_cgroup(const std::string& text) {
  std::string unified;
  for (const auto& line : split(text, '\n')) {
    const auto at = line.find(":name=systemd:");
    if (at != std::string::npos && line.size() > at + 15) return line.substr(at + 14);
    if (line.starts_with("0::")) unified = line.substr(3);
  }
  return unified;
}

std::map<pid_t, Process> processes() {
  std::map<pid_t, Process> all;
  DIR* directory = ::opendir("/proc");
  if (directory == nullptr) return all;
  while (const dirent* entry = ::readdir(directory)) {
    if (entry->d_name[0] < '1' || entry->d_name[0] > '9') continue;
    const auto path = fmt::format("/proc/{}", entry->d_name);
    const auto stat = read_kernel_file(path + "/stat");
    Process process;
    if (!stat || !parse_stat(*stat, process) || process.dead()) continue;
    process.cgroup = systemd_cgroup(read_kernel_file(path + "/cgroup").value_or(""));
    all.emplace(process.pid, std::move(process));
  }
  ::closedir(directory);
  return all;
}

std::vector<Process> tree_of(const std::map<pid_t, Process>& all, pid_t root) {
  std::vector<Process> tree;
  std::set<pid_t> seen;
  std::vector<pid_t> open{root};
  while (!open.empty()) {
    const pid_t pid = open.back();
    open.pop_back();
    if (!seen.insert(pid).second) continue;
    if (const auto found = all.find(pid); found != all.end()) tree.push_back(found->second);
    for (const auto& [child, process] : all) {
      if (process.parent == pid) open.push_back(child);
    }
  }
  return tree;
}

std::string to_string(const Process& process) { return fmt::format("{} ({})", process.pid, printable(process.name)); }

}  // namespace midstream
