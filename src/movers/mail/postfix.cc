#include "movers/mail/postfix.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <map>
#include <span>

#include "base/json.h"
#include "base/text.h"
#include "sys/file.h"

namespace midstream::mail {

namespace fs = std::filesystem;

namespace {

constexpr std::array<std::string_view, 5> kAgents{"smtp", "lmtp", "local", "virtual", "pipe"};
constexpr std::array<std::string_view, 2> kManagers{"qmgr", "oqmgr"};
constexpr Millis kReload{10'000};
constexpr Millis kCool{3'000};
constexpr Millis kReplaced{2'000};
constexpr Millis kCommand{20'000};  // one of Postfix's own commands

std::string first_line(const std::string& text) {
  return printable(std::string(trim(text.substr(0, text.find('\n')))));
}

// Another one for each content that the file has had: its status changes with every write and rename. "" where it is absent.
std::string version_of(const fs::path& file) {
  struct stat found {};
  if (::stat(file.c_str(), &found) != 0) return "";
  return fmt::format("{} {} {} {}", found.st_ino, found.st_size, found.st_ctim.tv_sec, found.st_ctim.tv_nsec);
}

std::string find_or_empty(const std::map<std::string, std::string>& values, const std::string& name) {
  const auto found = values.find(name);
  return found == values.end() ? "" : found->second;
}

// The parent of a process, 0 where it is gone.
int parent_of(const std::string& pid) {
  const auto stat = read_file("/proc/" + pid + "/stat").value_or("");
  const auto after = stat.rfind(')');
  if (after == std::string::npos || after + 4 > stat.size()) return 0;
  return std::atoi(stat.c_str() + after + 4);
}

// An agent has its message's file open from before its first word to the other end until it has noted the answer. One that
// waits for work sleeps, and stays for `max_idle`. `queue` ends with a slash.
bool is_at_work(int pid, const std::string& queue) {
  const auto stat = read_file(fmt::format("/proc/{}/stat", pid)).value_or("");
  const auto after = stat.rfind(')');
  if (after == std::string::npos || after + 2 >= stat.size()) return false;  // gone
  if (stat[after + 2] == 'Z') return false;
  if (stat[after + 2] != 'S') return true;
  std::error_code ignored;
  for (const auto& fd : fs::directory_iterator(fmt::format("/proc/{}/fd", pid), ignored)) {
    const auto path = fs::read_symlink(fd.path(), ignored).string();
    if (!path.starts_with(queue)) continue;
    const auto part = path.substr(queue.size(), path.find('/', queue.size()) - queue.size());
    if (part != "pid" && part != "private" && part != "public") return true;
  }
  return false;
}

// Processes of these names whose parent is `master`.
std::map<int, std::string> children(int master, std::span<const std::string_view> names) {
  std::map<int, std::string> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/proc", ignored)) {
    const auto pid = entry.path().filename().string();
    if (pid.find_first_not_of("0123456789") != std::string::npos || parent_of(pid) != master) continue;
    auto name = std::string(trim(read_file(entry.path() / "comm").value_or("")));
    if (std::ranges::find(names, name) != names.end()) found[std::atoi(pid.c_str())] = std::move(name);
  }
  return found;
}

}  // namespace

bool Postfix::present() const {
  std::error_code ignored;
  return fs::exists(main_cf(), ignored);
}

Result<std::string> Postfix::run(std::vector<std::string> argv, const Limits& limits) const {
  argv.insert(argv.begin() + 1, {"-c", conf_.string()});
  const auto name = argv.front();
  auto exit = TRY(run_child(argv, "", limits.deadline.sooner(kCommand), limits.stop));
  if (exit.code != 0)
    return retry(fmt::format("{} {} ended with {}: {}", name, argv.back(), exit.code, first_line(exit.err)));
  return std::move(exit.out);
}

Result<std::string> Postfix::setting(const std::string& name, const Limits& limits) const {
  const auto version = version_of(main_cf());
  {
    const std::lock_guard lock(mutex_);
    if (!version.empty() && settings_.version == version) return find_or_empty(settings_.values, name);
  }
  Settings now{version, {}};
  for (const auto& line : split(TRY(run({"postconf", "-x"}, limits)), '\n')) {
    const auto equals = line.find(" =");
    if (equals != std::string::npos) now.values[line.substr(0, equals)] = std::string(trim(line.substr(equals + 2)));
  }
  const auto value = find_or_empty(now.values, name);
  const std::lock_guard lock(mutex_);
  settings_ = std::move(now);
  return value;
}

Result<fs::path> Postfix::queue_directory(const Limits& limits) const {
  return fs::path(TRY(setting("queue_directory", limits)));
}

Result<> Postfix::write(const fs::path& file, const std::string& text) {
  CHECK_OK(write_file_durably(file, text));
  const timespec times[2]{{0, UTIME_NOW}, {(wall_now_ms() - kCool.count()) / 1000, 0}};
  if (::utimensat(AT_FDCWD, file.c_str(), times, 0) != 0)
    return errno_failure("cannot set the time of " + file.string(), errno);
  return {};
}

Result<std::vector<std::string>> Postfix::transports(const Limits& limits) const {
  std::vector<std::string> names;
  for (const auto& line : split(TRY(run({"postconf", "-M"}, limits)), '\n')) {
    std::vector<std::string> words = split(line, ' ');
    std::erase_if(words, [](const std::string& word) { return word.empty(); });
    if (words.size() < 8 || words[1] != "unix") continue;
    if (std::ranges::find(kAgents, words[7]) != kAgents.end()) names.push_back(words[0]);
  }
  return names;
}

Result<int> Postfix::master(const Limits& limits) const {
  const auto text = read_file(TRY(queue_directory(limits)) / "pid" / "master.pid").value_or("");
  const int pid = std::atoi(std::string(trim(text)).c_str());
  if (pid <= 1) return 0;
  return trim(read_file(fmt::format("/proc/{}/comm", pid)).value_or("")) == "master" ? pid : 0;
}

Result<bool> Postfix::running(const Limits& limits) const { return TRY(master(limits)) != 0; }

// As `postfix reload` does it, whose script waits for a logger that is itself being reloaded (seen: for good). The queue
// manager that went by what stood there before is gone when this returns: it begins no delivery any more.
Result<> Postfix::reload(const Limits& limits) const {
  const int pid = TRY(master(limits));
  if (pid == 0) return {};
  auto managers = children(pid, kManagers);
  if (::kill(pid, SIGHUP) != 0) return errno_failure("cannot reload Postfix", errno);
  for (const auto patience = limits.deadline.sooner(kReload); !managers.empty();) {
    if (patience.expired())
      return retry(fmt::format("Postfix (pid {}) does not reload", pid),
                   "see what its log says last; restart it if nothing");
    if (!pause_for(Millis(10), limits.stop)) return failure(ErrorKind::cancelled, "asked to stop");
    const auto now = children(pid, kManagers);
    std::erase_if(managers, [&](const auto& one) { return !now.contains(one.first); });
  }
  return {};
}

Result<std::map<int, std::string>> Postfix::deliveries(const Limits& limits) const {
  std::map<int, std::string> busy;
  const int master = TRY(this->master(limits));
  if (master == 0) return busy;
  const auto queue = TRY(queue_directory(limits)).string() + "/";
  for (const auto& [pid, name] : children(master, kAgents))
    if (is_at_work(pid, queue)) busy[pid] = fmt::format("{} (pid {})", name, pid);
  return busy;
}

Result<> Postfix::hold_all(const Limits& limits) const {
  TRY(run({"postsuper", "-h", "ALL"}, limits));
  return {};
}

// One that is just being replaced hangs up on whoever kicks it.
Result<> Postfix::kick(const char* service, const char* what, const Limits& limits) const {
  for (const auto patience = limits.deadline.sooner(kReplaced);;) {
    const auto kicked = run({"postkick", "public", service, what}, limits);
    if (kicked) return {};
    if (kicked.error().kind != ErrorKind::retry || patience.expired()) return std::unexpected(kicked.error());
    if (!pause_for(Millis(20), limits.stop)) return failure(ErrorKind::cancelled, "asked to stop");
  }
}

Result<> Postfix::pick_up(const Limits& limits) const { return kick("pickup", "W", limits); }
Result<> Postfix::scan(const Limits& limits) const { return kick("qmgr", "I", limits); }

Result<> Postfix::flush(const Limits& limits) const {
  if (!present() || !TRY(running(limits))) return {};
  TRY(run({"postqueue", "-f"}, limits));
  return {};
}

Result<> Postfix::flush_for(const std::vector<std::string>& users, const Limits& limits) const {
  if (!present() || !TRY(running(limits))) return {};
  for (const auto& line : split(TRY(run({"postqueue", "-j"}, limits)), '\n')) {
    const auto message = parse_json(line);
    if (!message || get_string_or(*message, "queue_name", "") != "deferred") continue;
    const auto id = get_string_or(*message, "queue_id", "");
    const auto& recipients = message->value("recipients", Json::array());
    const bool ours = std::ranges::any_of(recipients, [&](const Json& one) {
      return std::ranges::find(users, get_string_or(one, "address", "")) != users.end();
    });
    // One that has left the queue meanwhile needs nothing.
    if (ours && !id.empty() && id.front() != '-') (void)run({"postqueue", "-i", id}, limits);
  }
  return {};
}

}  // namespace midstream::mail
