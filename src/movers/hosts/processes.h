// Processes of this host as /proc shows them. Command lines are never read into messages: they may hold secrets.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"

namespace midstream {

struct Process {
  pid_t pid = 0;
  pid_t parent = 0;
  pid_t session = 0;
  std::uint64_t started = 0;  // in clock ticks since boot; with the pid it names a process for good
  char state = '?';
  std::string name;    // the kernel's, at most 15 characters
  std::string cgroup;  // of systemd's hierarchy; "" where it cannot be read

  bool dead() const { return state == 'Z' || state == 'X'; }
};

// All that live, by id. One that ends meanwhile is left out.
std::map<pid_t, Process> processes();
// `root` and whatever descends from it.
std::vector<Process> tree_of(const std::map<pid_t, Process>& all, pid_t root);
// "4711 (invoices)".
std::string to_string(const Process& process);

// The parts of these files that count; nullopt for text that is none. Pure.
bool parse_stat(const std::string& text, Process& process);
std::string systemd_cgroup(const std::string& text);

// What a file of /proc or /sys says: they have no size, so that read_file() cannot know what comes.
Result<std::string> read_kernel_file(const std::string& path);

}  // namespace midstream
