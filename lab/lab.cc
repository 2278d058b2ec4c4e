#include "lab/lab.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/text.h"
#include "lab/cluster.h"
#include "lab/guardian.h"
#include "lab/image.h"
#include "sys/file.h"
#include "sys/stream.h"

extern char** environ;

namespace midstream::lab {

namespace fs = std::filesystem;

namespace {

constexpr int kLifeline = 3;
constexpr Millis kDownSpan{20'000};

Result<Fd> connect_guardian(const fs::path& directory) {
  Fd at(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!at) return retry(fmt::format("no lab runs in {}", directory.string()), "start one: midstream lab up");
  Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return errno_failure("cannot make a socket", errno);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const auto path = fmt::format("/proc/self/fd/{}/lab.sock", at.get());
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    return retry(fmt::format("no lab runs in {}", directory.string()), "start one: midstream lab up");
  }
  return fd;
}

Result<Json> unwrap(Json answer) {
  if (get_bool_or(answer, "ok", false)) return answer;
  return std::unexpected(error_from_json(answer.value("error", Json::object())));
}

Result<> check_machine() {
  if (::geteuid() != 0) return refused("the lab needs root", "run it as root");
  std::vector<std::string> missing;
  struct Need {
    const char* program;
    const char* package;
  };
  for (const auto& need : {Need{"/usr/lib/postgresql/15/bin/postgres", "postgresql-15"}, {"/usr/sbin/haproxy", "haproxy"},
                           {"/usr/sbin/named", "bind9"}, {"/usr/bin/dig", "bind9-dnsutils"},
                           {"/usr/sbin/sshd", "openssh-server"}, {"/usr/bin/ssh-keygen", "openssh-client"},
                           {"/usr/sbin/ifup", "ifupdown"}, {"/usr/sbin/ip", "iproute2"},
                           {"/usr/sbin/mkfs.ext4", "e2fsprogs"}, {"/usr/sbin/sysctl", "procps"},
                           {"/usr/sbin/dovecot", "dovecot-core"}, {"/usr/lib/dovecot/imap", "dovecot-imapd"},
                           {"/usr/lib/dovecot/pop3", "dovecot-pop3d"}, {"/usr/lib/dovecot/lmtp", "dovecot-lmtpd"},
                           {"/usr/bin/sievec", "dovecot-sieve"}, {"/usr/lib/dovecot/managesieve", "dovecot-managesieved"},
                           {"/usr/sbin/postfix", "postfix"}}) {
    if (::access(need.program, X_OK) != 0) missing.push_back(need.package);
  }
  if (missing.empty()) return {};
  return refused(fmt::format("the lab misses Debian packages: {}", join(missing, " ")),
                 fmt::format("apt-get install {}", join(missing, " ")));
}

Result<> empty_directory(const fs::path& directory) {
  if (connect_guardian(directory)) {
    return refused(fmt::format("a lab runs in {} already", directory.string()), "midstream lab down");
  }
  std::error_code failed;
  for (const char* part : {"hosts", "shared", "lab.sock", "lab.log", "keys"}) {
    fs::remove_all(directory / part, failed);
    if (failed) return errno_failure(fmt::format("cannot empty {}", directory.string()), failed.value());
  }
  CHECK_OK(make_directories(directory / "hosts", 0755));
  return make_directories(directory / "shared", 0755);
}

// Starts the program that forks the guardian, with `lifeline` as descriptor 3 and its output in `log`.
Result<> start_guardian(const std::vector<std::string>& argv, int lifeline, const fs::path& log) {
  std::vector<char*> raw;
  for (const auto& arg : argv) raw.push_back(const_cast<char*>(arg.c_str()));
  raw.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 1, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
  posix_spawn_file_actions_adddup2(&actions, 1, 2);
  // From a number that is not 3, or dup2 would leave the close-on-exec flag as it is.
  posix_spawn_file_actions_adddup2(&actions, lifeline, kLifeline);
  pid_t pid = -1;
  const int failed = ::posix_spawn(&pid, raw[0], &actions, nullptr, raw.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (failed != 0) return errno_failure(fmt::format("cannot start {}", argv[0]), failed);
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return {};
}

}  // namespace

Result<Json> ask_guardian(const fs::path& directory, const Json& request, Fd* descriptor) {
  const auto fd = TRY(connect_guardian(directory));
  CHECK_OK(send_message(fd.get(), request));
  auto received = TRY(receive_message(fd.get()));
  if (descriptor != nullptr) *descriptor = std::move(received.descriptor);
  return unwrap(std::move(received.message));
}

Result<Json> Lab::ask(const Json& request) const { return ask_guardian(directory_, request); }

Result<> Lab::launch(const LabSpec& spec, const fs::path& cluster_old, const fs::path& cluster_new, Deadline deadline,
                     const std::stop_token& stop) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) return errno_failure("no socket pair", errno);
  lifeline_ = Fd(ends[0]);
  Fd theirs(::fcntl(ends[1], F_DUPFD_CLOEXEC, 10));
  ::close(ends[1]);
  std::vector<std::string> argv = {(programs_ / "midstream-lab").string(), "guardian", directory_.string(),
                                   spec.scenario, spec.fast ? "fast" : "slow", cluster_old.string(),
                                   cluster_new.string(), spec.mail ? "mail" : "no-mail", spec.seeded ? "seeded" : "logical"};
  CHECK_OK(start_guardian(argv, theirs.get(), directory_ / "lab.log"));
  theirs.reset();
  CHECK_OK(wait_fd(lifeline_.get(), POLLIN, deadline, stop));
  auto word = receive_message(lifeline_.get());
  if (!word) {
    return refused("the lab's guardian died", fmt::format("see {}", (directory_ / "lab.log").string()));
  }
  TRY(unwrap(std::move(word->message)));
  return {};
}

Result<Lab> Lab::up(const LabSpec& spec, Deadline deadline, const std::stop_token& stop) {
  CHECK_OK(check_machine());
  Lab lab;
  lab.scenario_ = TRY(find_scenario(spec.scenario, spec.fast));
  lab.scenario_.mail = spec.mail;
  lab.scenario_.seeded = spec.seeded;
  lab.programs_ = spec.programs;
  CHECK_OK(make_directories(spec.directory, 0755));
  std::error_code failed;
  lab.directory_ = fs::canonical(spec.directory, failed);
  if (failed) return errno_failure(fmt::format("cannot use {}", spec.directory.string()), failed.value());
  CHECK_OK(empty_directory(lab.directory_));
  const auto cache = spec.programs.parent_path().parent_path() / "labcache";
  const auto old_image =
      TRY(cluster_template(lab.scenario_, Role::old_side, cache, spec.programs, spec.tell, deadline, stop));
  const auto new_image =
      TRY(cluster_template(lab.scenario_, Role::new_side, cache, spec.programs, spec.tell, deadline, stop));
  CHECK_OK(lab.launch(spec, old_image, new_image, deadline, stop));
  CHECK_OK(lab.await_ready(deadline, stop));
  return lab;
}

Result<Lab> Lab::open(const fs::path& directory, const fs::path& programs) {
  const auto about = TRY(ask_guardian(directory, {{"do", "hosts"}}));
  Lab lab;
  std::error_code failed;
  lab.directory_ = fs::canonical(directory, failed);
  lab.programs_ = programs;
  lab.scenario_ = TRY(find_scenario(TRY(get_string(about, "name")), get_bool_or(about, "fast", false)));
  lab.scenario_.mail = get_bool_or(about, "mail", false);
  lab.scenario_.seeded = get_bool_or(about, "seeded", false);
  return lab;
}

std::vector<std::string> Lab::enter_argv(const std::string& host, const std::vector<std::string>& argv) const {
  std::vector<std::string> all = {(programs_ / "midstream-lab").string(), "exec", "--dir", directory_.string(), host,
                                  "--"};
  all.insert(all.end(), argv.begin(), argv.end());
  return all;
}

Result<Exit> Lab::exec(const std::string& host, const std::vector<std::string>& argv, std::string_view input,
                       Deadline deadline, const std::stop_token& stop) const {
  return run_child(enter_argv(host, argv), input, deadline, stop);
}

Result<Child> Lab::spawn(const std::string& host, const std::vector<std::string>& argv) const {
  return Child::start(enter_argv(host, argv));
}

Result<std::string> Lab::must(const std::string& host, const std::vector<std::string>& argv, std::string_view input,
                              Millis span) const {
  auto exit = TRY(exec(host, argv, input, Deadline::in(span)));
  if (exit.code == 0) return std::move(exit.out);
  return refused(fmt::format("{} on {} ended with {}: {}", argv[0], host, exit.code, trim(exit.err)));
}

Result<> Lab::powercut(const std::string& host) {
  TRY(ask({{"do", "powercut"}, {"host", host}}));
  return {};
}
Result<> Lab::poweroff(const std::string& host) {
  TRY(ask({{"do", "poweroff"}, {"host", host}}));
  return {};
}
Result<> Lab::boot(const std::string& host) {
  TRY(ask({{"do", "boot"}, {"host", host}}));
  return {};
}
Result<> Lab::set_link(const std::string& host, const std::string& device, bool up) {
  TRY(ask({{"do", "link"}, {"host", host}, {"device", device}, {"up", up}}));
  return {};
}

Result<int> Lab::kill(const std::string& host, const std::string& name, int signal) {
  const auto exit = TRY(exec(host, {"pkill", "--echo", fmt::format("-{}", signal), "-x", name}, "",
                             Deadline::in(Millis(10'000))));
  if (exit.code > 1) return refused(fmt::format("pkill on {}: {}", host, trim(exit.err)));
  int count = 0;
  for (const auto& line : split(exit.out, '\n')) count += line.empty() ? 0 : 1;
  return count;
}

Result<> Lab::fill(const std::string& host, std::uint64_t left) {
  // In one piece as far as that goes (extents need room too), and for "nothing left" byte by byte.
  const auto script = fmt::format(
      "free=$(($(stat -f -c '%a*%S' /)-{0})); "
      "while [ $free -gt 0 ] && ! fallocate -l $free /.filled; do free=$((free-1048576)); done 2>/dev/null; "
      "[ {0} -gt 0 ] || cat /dev/zero >/.filled.rest 2>/dev/null || true",
      left);
  TRY(must(host, {"/bin/sh", "-c", script}));
  return {};
}

Result<> Lab::unfill(const std::string& host) {
  TRY(must(host, {"rm", "-f", "/.filled", "/.filled.rest"}));
  return {};
}

Result<> Lab::detach() {
  if (!lifeline_) return {};
  CHECK_OK(send_message(lifeline_.get(), {{"do", "detach"}}));
  // Answered only when the guardian has read the word: from then on closing the lifeline means nothing.
  TRY(ask({{"do", "hosts"}}));
  lifeline_.reset();
  return {};
}

Result<> Lab::down() {
  auto fd = TRY(connect_guardian(directory_));
  ucred peer{};
  socklen_t length = sizeof peer;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0) return errno_failure("no peer", errno);
  Fd process(static_cast<int>(::syscall(SYS_pidfd_open, peer.pid, 0)));
  CHECK_OK(send_message(fd.get(), {{"do", "down"}}));
  const auto deadline = Deadline::in(kDownSpan);
  if (process) CHECK_OK(wait_fd(process.get(), POLLIN, deadline, {}));
  CHECK_OK(await_images_free(directory_, deadline));
  lifeline_.reset();
  std::error_code ignored;
  for (const auto& host : scenario_.hosts()) fs::remove(directory_ / "hosts" / (host.name + ".img"), ignored);
  fs::remove(directory_ / "lab.sock", ignored);
  return {};
}

}  // namespace midstream::lab
