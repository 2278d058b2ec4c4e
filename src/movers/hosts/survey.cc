#include "movers/hosts/survey.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <set>

#include "base/text.h"
#include "movers/hosts/processes.h"
#include "sys/child.h"
#include "sys/file.h"

namespace midstream {

namespace {

namespace fs = std::filesystem;

std::vector<fs::path> entries_of(const fs::path& directory) {
  std::vector<fs::path> found;
  std::error_code error;
  for (auto at = fs::directory_iterator(directory, error); !error && at != fs::directory_iterator();
       at.increment(error))
    found.push_back(at->path());
  std::ranges::sort(found);
  return found;
}

std::string link_target(const std::string& path) {
  char target[4096];
  const ssize_t size = ::readlink(path.c_str(), target, sizeof target);
  return size > 0 ? std::string(target, static_cast<std::size_t>(size)) : "";
}

bool is_midstream(const Process& process) {
  const auto program = link_target(fmt::format("/proc/{}/exe", process.pid));
  return program.starts_with("/var/lib/midstream/") || program.starts_with("/run/midstream-check.");
}

// ---- units

std::string systemd_unit_of(const Process& process) {
  const auto parts = split(process.cgroup, '/');
  for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
    if (part->ends_with(".service")) return *part;
  }
  return "";
}

// Service directories: each process of a main process's tree or session, by id.
std::map<pid_t, std::string> directory_units(const fs::path& root, const std::map<pid_t, Process>& all) {
  std::map<pid_t, std::string> units;
  for (const auto& file : entries_of(root / "run/service")) {
    if (file.extension() != ".pid") continue;
    const pid_t main = std::atoi(read_kernel_file(file).value_or("").c_str());
    if (main <= 0) continue;
    for (const auto& process : tree_of(all, main)) units[process.pid] = file.stem();
    for (const auto& [pid, process] : all) {
      if (process.session == main) units[pid] = file.stem();
    }
  }
  return units;
}

Result<std::vector<std::string>> systemd_units(Deadline deadline) {
  const auto exit =
      TRY(run_child({"systemctl", "list-units", "--type=service,timer", "--state=active,activating,reloading",
                     "--plain", "--no-legend", "--no-pager", "--full"},
                    "", deadline));
  if (exit.code != 0) return retry("systemctl list-units: " + printable(trim(exit.err)));
  std::set<std::string> names;
  for (const auto& line : split(exit.out, '\n')) {
    if (const auto name = line.substr(0, line.find(' ')); !name.empty()) names.insert(name);
  }
  const auto enabled = TRY(run_child({"systemctl", "list-unit-files", "--type=service,timer", "--state=enabled",
                                      "--no-legend", "--no-pager", "--full"},
                                     "", deadline));
  for (const auto& line : split(enabled.out, '\n')) {
    const auto name = line.substr(0, line.find(' '));
    if (!name.empty() && name.find("@.") == std::string::npos) names.insert(name);
  }
  return std::vector<std::string>(names.begin(), names.end());
}

Result<std::vector<std::string>> unit_names(const fs::path& root, Deadline deadline) {
  std::error_code error;
  if (fs::exists(root / "run/systemd/system", error)) return systemd_units(deadline);
  std::vector<std::string> names;
  for (const auto& directory : entries_of(root / "etc/service")) {
    const bool up = ::access((directory / "run").c_str(), X_OK) == 0 && !fs::exists(directory / "down", error);
    if (up && !directory.filename().string().starts_with(".")) names.push_back(directory.filename());
  }
  return names;
}

// ---- cron

std::vector<SeenCron> cron_jobs(const fs::path& root) {
  std::vector<SeenCron> found;
  const auto add = [&](const fs::path& file, std::string line) {
    if (const auto text = read_file(file, 1u << 20))
      if (const auto jobs = count_jobs(*text); jobs > 0) found.push_back({std::move(line), jobs});
  };
  const auto inside = [&](const fs::path& path) { return "/" + path.lexically_relative(root).string(); };
  add(root / "etc/crontab", "cron /etc/crontab");
  for (const auto& file : entries_of(root / "etc/cron.d")) {
    // cron itself looks at no name with a dot.
    if (file.filename().string().find('.') == std::string::npos) add(file, "cron " + inside(file));
  }
  for (const auto& file : entries_of(root / "var/spool/cron/crontabs"))
    add(file, "cron user " + file.filename().string());
  for (const char* period : {"hourly", "daily", "weekly", "monthly"}) {
    for (const auto& file : entries_of(root / fmt::format("etc/cron.{}", period))) {
      const auto name = file.filename().string();
      if (name.find('.') == std::string::npos && ::access(file.c_str(), X_OK) == 0)
        found.push_back({"cron " + inside(file), 1});
    }
  }
  return found;
}

// ---- databases

struct Marker {
  const char* directory;
  const char* file;
  const char* kind;
};
constexpr std::array<Marker, 7> kMarkers{{{"var/lib/mysql", "ibdata1", "MySQL or MariaDB"},
                                          {"var/lib/redis", "dump.rdb", "Redis"},
                                          {"var/lib/redis", "appendonlydir", "Redis"},
                                          {"var/lib/mongodb", "WiredTiger", "MongoDB"},
                                          {"var/lib/ldap", "data.mdb", "OpenLDAP"},
                                          {"var/lib/influxdb", "meta", "InfluxDB"},
                                          {"var/lib/elasticsearch", "nodes", "Elasticsearch"}}};

std::vector<SeenDatabase> databases(const fs::path& root, const std::map<pid_t, Process>& all) {
  std::map<std::string, SeenDatabase> found;
  for (const auto& [pid, process] : all) {
    const auto parent = all.find(process.parent);
    if (process.name != "postgres" || (parent != all.end() && parent->second.name == "postgres")) continue;
    const auto data = link_target(fmt::format("/proc/{}/cwd", pid));
    const auto lines = split(read_kernel_file(data + "/postmaster.pid").value_or(""), '\n');
    found[data] = {data, "PostgreSQL", lines.size() > 3 ? std::atoi(lines[3].c_str()) : 0};
  }
  std::error_code error;
  for (const auto& version : entries_of(root / "var/lib/postgresql")) {
    for (const auto& cluster : entries_of(version)) {
      const auto path = "/" + cluster.lexically_relative(root).string();
      if (fs::exists(cluster / "PG_VERSION", error)) found.try_emplace(path, SeenDatabase{path, "PostgreSQL", 0});
    }
  }
  for (const auto& marker : kMarkers) {
    const auto path = std::string("/") + marker.directory;
    if (fs::exists(root / marker.directory / marker.file, error))
      found.try_emplace(path, SeenDatabase{path, marker.kind, 0});
  }
  std::vector<SeenDatabase> list;
  for (auto& [path, database] : found) list.push_back(std::move(database));
  return list;
}

// Rules of nftables, where it is installed; of others the kernel only says that there are tables.
int firewall_rules(Deadline deadline) {
  int rules = 0;
  if (const auto listed = run_child({"nft", "list", "ruleset"}, "", deadline); listed && listed->code == 0) {
    for (const auto& line : split(listed->out, '\n')) {
      const auto text = trim(line);
      const bool frame =
          text.empty() || text == "}" || text.ends_with("{") || text.starts_with("type ") || text.starts_with("#");
      rules += frame ? 0 : 1;
    }
  }
  if (rules == 0 && !trim(read_kernel_file("/proc/thread-self/net/ip_tables_names").value_or("")).empty()) rules = 1;
  return rules;
}

std::vector<SeenSocket> sockets_of(const std::map<pid_t, Process>& all, const std::map<pid_t, std::string>& units,
                                   const std::vector<ListeningSocket>& sockets, std::set<std::string>& listening) {
  const auto holders = socket_holders();
  std::vector<SeenSocket> seen;
  for (const auto& socket : sockets) {
    SeenSocket one{.socket = socket};
    if (const auto held = holders.find(socket.inode); held != holders.end()) {
      for (const pid_t pid : held->second) {
        const auto process = all.find(pid);
        if (process == all.end()) continue;
        const auto unit = units.find(pid);
        if (one.process.empty()) one.process = process->second.name;
        if (one.unit.empty()) one.unit = unit != units.end() ? unit->second : systemd_unit_of(process->second);
        one.ours = one.ours || is_midstream(process->second);
      }
    }
    if (!one.unit.empty()) listening.insert(one.unit);
    seen.push_back(std::move(one));
  }
  return seen;
}

}  // namespace

std::vector<SeenMount> parse_mounts(const std::string& mountinfo) {
  static const std::set<std::string> kVirtual{
      "proc",       "sysfs",   "devtmpfs", "devpts",   "tmpfs",       "ramfs",      "cgroup",    "cgroup2",
      "securityfs", "debugfs", "tracefs",  "pstore",   "bpf",         "mqueue",     "hugetlbfs", "configfs",
      "fusectl",    "autofs",  "nsfs",     "efivarfs", "binfmt_misc", "rpc_pipefs", "selinuxfs", "squashfs"};
  std::vector<SeenMount> mounts;
  std::set<std::string> seen;
  for (const auto& line : split(mountinfo, '\n')) {
    const auto words = split(line, ' ');
    const auto dash = std::ranges::find(words, "-");
    if (words.size() < 7 || dash == words.end() || dash + 1 == words.end()) continue;
    const auto& type = *(dash + 1);
    if (kVirtual.contains(type) || !seen.insert(words[4]).second) continue;
    mounts.push_back({words[4], type});
  }
  return mounts;
}

std::size_t count_jobs(const std::string& crontab) {
  std::size_t jobs = 0;
  for (const auto& line : split(crontab, '\n')) {
    const auto text = trim(line);
    if (text.empty() || text[0] == '#') continue;
    const auto first = text.find_first_of(" \t=");
    jobs += first == std::string_view::npos || text[first] == '=' ||
                    text.substr(0, text.find('=')).find_first_of("*0123456789@") == std::string_view::npos
                ? 0
                : 1;
  }
  return jobs;
}

Result<Survey> survey_host(const fs::path& root, Deadline deadline) {
  Survey survey;
  const auto all = processes();
  std::set<std::string> listening;
  survey.sockets = sockets_of(all, directory_units(root, all), TRY(listening_sockets()), listening);
  for (const auto& name : TRY(unit_names(root, deadline))) survey.units.push_back({name, listening.contains(name)});
  survey.crons = cron_jobs(root);
  survey.mounts = parse_mounts(TRY(read_kernel_file("/proc/thread-self/mountinfo")));
  survey.databases = databases(root, all);
  for (const auto& file : entries_of(root / "etc/ssh")) {
    const auto name = file.filename().string();
    if (!name.starts_with("ssh_host_") || !name.ends_with(".pub")) continue;
    const auto words = split(read_file(file, 65'536).value_or(""), ' ');
    if (words.size() > 1) survey.host_keys.push_back(words[0] + " " + words[1]);
  }
  for (const auto& directory : entries_of(root / "etc/letsencrypt/live")) {
    std::error_code error;
    if (fs::is_directory(directory, error)) survey.certificates.push_back(directory.filename());
  }
  survey.firewall_rules = firewall_rules(deadline);
  return survey;
}

Json to_json(const Survey& survey) {
  Json sockets = Json::array();
  for (const auto& one : survey.sockets)
    sockets.push_back({{"udp", one.socket.udp}, {"address", one.socket.address}, {"port", one.socket.port}});
  Json units = Json::array();
  for (const auto& one : survey.units) units.push_back(one.name);
  Json mounts = Json::array();
  for (const auto& one : survey.mounts) mounts.push_back(one.path);
  return {{"sockets", sockets},
          {"units", units},
          {"mounts", mounts},
          {"host_keys", survey.host_keys},
          {"certificates", survey.certificates},
          {"firewall_rules", survey.firewall_rules}};
}

Result<Survey> survey_from_json(const Json& value) {
  Survey survey;
  for (const auto& one : value.value("sockets", Json::array())) {
    ListeningSocket socket{.udp = TRY(get_bool(one, "udp")), .address = TRY(get_string(one, "address"))};
    socket.port = static_cast<std::uint16_t>(TRY(get_int(one, "port")));
    survey.sockets.push_back({.socket = std::move(socket)});
  }
  for (const auto& name : TRY(get_strings(value, "units"))) survey.units.push_back({name, false});
  for (const auto& path : TRY(get_strings(value, "mounts"))) survey.mounts.push_back({path, ""});
  survey.host_keys = TRY(get_strings(value, "host_keys"));
  survey.certificates = TRY(get_strings(value, "certificates"));
  survey.firewall_rules = static_cast<int>(TRY(get_int(value, "firewall_rules")));
  return survey;
}

}  // namespace midstream
