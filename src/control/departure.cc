#include "control/departure.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/file.h>
#include <unistd.h>

#include <fstream>

#include "base/text.h"
#include "control/supervisor.h"
#include "sys/file.h"
#include "sys/log.h"
#include "sys/stream.h"

namespace midstream {

namespace {

namespace fs = std::filesystem;

std::string probe_service(const std::string& move) { return "midstream-probe-" + move; }
fs::path probe_log(const std::string& move) { return fs::path(agent_directory(move)) / "probe" / "probe.log"; }

// Everything that a move may have put on a host by itself, services included.
std::string look_script(const std::string& move) {
  std::string script = "for f in " + agent_directory(move) + " " + agent_socket(move);
  for (const auto& service : {agent_service(move), probe_service(move)}) {
    script += fmt::format(" /etc/systemd/system/{0}.service /etc/service/{0}", service);
  }
  return script + fmt::format("; do if test -e $f; then echo $f; fi; done; if test -x {}/midstream-agent; then echo program; fi",
                              agent_directory(move));
}

Result<> send_program(const Departure& departure, Deadline deadline) {
  const auto binary = TRY(read_file(departure.agent_binary, 512u << 20));
  const auto put = fmt::format("umask 077 && mkdir -p {0} && cat > {0}/midstream-agent.new && chmod 700 {0}/midstream-agent.new && "
                               "mv {0}/midstream-agent.new {0}/midstream-agent",
                               agent_directory(departure.move));
  TRY(run_ssh(departure.target, {put}, binary, deadline));
  return {};
}

// Kept under its name once it is whole. What the host has not (any more) leaves what was fetched before.
Result<> fetch_evidence(const Departure& departure, Deadline deadline) {
  auto child = TRY(Child::start(ssh_command(departure.target, {agent_directory(departure.move) + "/midstream-agent", "evidence", "--move", departure.move})));
  const auto part = fs::path(departure.evidence).concat(".part");
  std::ofstream out(part, std::ios::binary | std::ios::trunc);
  std::string last;
  char buffer[65536];
  while (true) {
    CHECK_OK(wait_fd(child.out(), POLLIN, deadline, {}));
    const ssize_t n = ::read(child.out(), buffer, sizeof buffer);
    if (n < 0 && errno != EINTR) return errno_failure("cannot read the probe's log", errno);
    if (n == 0) break;
    if (n < 0) continue;
    out.write(buffer, n);
    last.append(buffer, static_cast<std::size_t>(n));
    if (last.size() > kEvidenceEnd.size()) last.erase(0, last.size() - kEvidenceEnd.size());
  }
  out.close();
  if (!out) return refused(fmt::format("cannot write {}", part.string()), "make room there");
  if (last != kEvidenceEnd) return retry(fmt::format("the probe's log of {} came only in part", departure.target.host));
  std::error_code failed;
  const auto whole = fs::file_size(part, failed) - kEvidenceEnd.size();
  if (whole == 0) {
    fs::remove(part, failed);
    return {};
  }
  fs::resize_file(part, whole, failed);
  if (!failed) fs::rename(part, departure.evidence, failed);
  return failed ? errno_failure(fmt::format("cannot keep {}", departure.evidence.string()), failed.value()) : Result<>{};
}

// Whether this directory is still the asking controller's: what stands there is the newest that any controller did here.
Result<> still_theirs(const fs::path& directory, const std::string& journal, std::uint64_t epoch) {
  std::error_code ignored;
  if (!fs::exists(directory / "agent.json", ignored)) return {};
  const auto saved = TRY(parse_json(TRY(read_file(directory / "agent.json"))));
  const auto ours = get_string_or(saved, "journal", "");
  if (!ours.empty() && ours != journal)
    return failure(ErrorKind::fenced, "this move was begun by a controller with another journal", "use the journal that the move began with");
  const auto adopted = get_int_or(saved, "epoch", 0);
  if (adopted > static_cast<std::int64_t>(epoch))
    return failure(ErrorKind::fenced, fmt::format("epoch {} is over, {} is in force here", epoch, adopted), "another controller has taken over; stop this one");
  return {};
}

// The lock that the agent, or the probe, holds while it runs.
Result<Fd> await_lock(const fs::path& path, std::string_view whose, Deadline deadline) {
  Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!fd && errno == ENOENT) return fd;
  if (!fd) return errno_failure(fmt::format("cannot open {}", path.string()), errno);
  while (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (deadline.expired()) return retry(fmt::format("{} does not end", whose), "see its log under the host's supervisor");
    pause_for(Millis(20), {});
  }
  return fd;
}

Result<> keep_what_lost(const fs::path& directory, const std::string& move) {
  std::error_code failed;
  const auto from = directory / "files" / "kept";
  if (!fs::exists(from, failed)) return {};
  const auto to = kept_directory(move);
  CHECK_OK(make_directories(to));
  const auto name = fmt::format("{}", wall_now_ms());  // an earlier attempt may have kept some already
  fs::rename(from, to / name, failed);
  return failed ? errno_failure(fmt::format("cannot keep {} in {}", from.string(), to.string()), failed.value()) : Result<>{};
}

}  // namespace

Result<> take_leave(const Departure& departure, Deadline deadline) {
  CHECK_OK(plain_for_shell(departure.target, departure.move));
  const bool plain = departure.journal.find_first_not_of("0123456789abcdef") == std::string::npos && !departure.journal.empty();
  if (!plain) return corrupt("the journal has no id that could be told to a host");
  while (true) {
    const auto seen = TRY(run_ssh(departure.target, {look_script(departure.move)}, "", deadline));
    if (trim(seen).empty() && !departure.power_off) return {};
    if (!seen.ends_with("program\n")) {
      CHECK_OK(send_program(departure, deadline));
      continue;
    }
    const auto program = agent_directory(departure.move) + "/midstream-agent";
    if (!departure.evidence.empty()) CHECK_OK(fetch_evidence(departure, deadline));
    std::vector<std::string> remote{program, "uninstall", "--move", departure.move, "--journal", departure.journal, "--epoch", std::to_string(departure.epoch)};
    if (departure.power_off) remote.emplace_back("--power-off");
    TRY(run_ssh(departure.target, remote, "", deadline));
    if (departure.power_off) return {};
  }
}

Result<> hand_over_evidence(const std::string& move, Deadline deadline) {
  CHECK_OK(remove_service(probe_service(move)));
  const auto locked = TRY(await_lock(probe_log(move), "the probe", deadline));
  std::ifstream in(probe_log(move), std::ios::binary);
  char buffer[65536];
  while (locked && in.read(buffer, sizeof buffer).gcount() > 0) {
    std::fwrite(buffer, 1, static_cast<std::size_t>(in.gcount()), stdout);
  }
  if (locked && !in.eof()) return refused(fmt::format("cannot read {}", probe_log(move).string()));
  std::fwrite(kEvidenceEnd.data(), 1, kEvidenceEnd.size(), stdout);
  return std::fflush(stdout) == 0 ? Result<>{} : retry("the probe's log could not be sent");
}

std::filesystem::path kept_directory(const std::string& move) { return agent_directory(move) + ".kept"; }

Result<> remove_all_of_ours(const std::string& move, const std::string& journal, std::uint64_t epoch, Deadline deadline) {
  const fs::path directory = agent_directory(move);
  CHECK_OK(still_theirs(directory, journal, epoch));
  CHECK_OK(remove_service(probe_service(move)));
  CHECK_OK(remove_service(agent_service(move)));
  const auto locked = TRY(await_lock(directory / "lock", "the agent", deadline));
  // A controller that took over meanwhile makes the service anew.
  CHECK_OK(still_theirs(directory, journal, epoch));
  CHECK_OK(keep_what_lost(directory, move));
  std::error_code failed;
  fs::remove_all(directory, failed);
  if (failed) return errno_failure("cannot remove " + directory.string(), failed.value());
  fs::remove(agent_socket(move), failed);
  // Where other moves have nothing there either; else these fail, and that is as it should be.
  ::rmdir(directory.parent_path().c_str());
  ::rmdir(fs::path(agent_socket(move)).parent_path().c_str());
  return {};
}

}  // namespace midstream
