// What a host has that a move could forget, as it is found there. Nothing is judged here, and nothing changed.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "movers/hosts/sockets.h"
#include "sys/clock.h"

namespace midstream {

struct SeenSocket {
  ListeningSocket socket;
  std::string process;  // its name; "" where the kernel itself has it
  std::string unit;     // of that process; "" where it is of none
  bool ours = false;    // midstream's
};

struct SeenUnit {
  std::string name;
  bool listens = false;  // a process of it has a listening socket
};

struct SeenCron {
  std::string line;  // "cron /etc/cron.d/backup", "cron user root"
  std::size_t jobs = 0;
};

struct SeenMount {
  std::string path;
  std::string type;
};

struct SeenDatabase {
  std::string path;
  std::string kind;
  int port = 0;  // 0: it does not run, or does not say
};

struct SeenTree {
  std::string path;
  std::string changed;  // a file in it that changed
  std::string stopped;  // why it could not be looked through; "" where a change was found
};

struct Survey {
  std::vector<SeenSocket> sockets;
  std::vector<SeenUnit> units;
  std::vector<SeenCron> crons;
  std::vector<SeenMount> mounts;
  std::vector<SeenDatabase> databases;
  std::vector<std::string> host_keys;     // public keys of sshd
  std::vector<std::string> certificates;  // directories of an ACME client, by name
  int firewall_rules = 0;
};

Result<Survey> survey_host(const std::filesystem::path& root, Deadline deadline);

// Trees outside of `covered` in which a file changed within `days`; a database's data and what the system keeps for
// itself are left out. Bounded by the deadline: what could not be looked through by then is said.
std::vector<SeenTree> changed_trees(const std::filesystem::path& root, const std::vector<std::string>& covered,
                                    int days, Deadline deadline);

// What the other side needs of a survey, and back.
Json to_json(const Survey& survey);
Result<Survey> survey_from_json(const Json& value);

// Mount points of file systems that hold data, from /proc/self/mountinfo; jobs in a crontab. Pure.
std::vector<SeenMount> parse_mounts(const std::string& mountinfo);
std::size_t count_jobs(const std::string& crontab);

}  // namespace midstream
