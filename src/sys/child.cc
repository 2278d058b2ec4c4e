#include "sys/child.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "base/text.h"
#include "sys/stream.h"

extern char** environ;

namespace midstream {

namespace {

struct Pipe {
  Fd read;
  Fd write;
};

Result<Pipe> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno_failure("cannot make a pipe", errno);
  return Pipe{Fd(ends[0]), Fd(ends[1])};
}

// posix_spawn in a process group of its own; fds 0, 1 and, unless -1, 2 are replaced.
Result<pid_t> spawn(const std::vector<std::string>& argv, int in, int out, int err) {
  std::vector<char*> raw;
  for (const auto& arg : argv) raw.push_back(const_cast<char*>(arg.c_str()));
  raw.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, in, 0);
  posix_spawn_file_actions_adddup2(&actions, out, 1);
  if (err >= 0) posix_spawn_file_actions_adddup2(&actions, err, 2);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none;
  sigemptyset(&none);
  sigset_t defaults;
  sigemptyset(&defaults);
  sigaddset(&defaults, SIGPIPE);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  pid_t pid = -1;
  const int failed = ::posix_spawnp(&pid, raw[0], &actions, &attributes, raw.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (failed != 0) return errno_failure(fmt::format("cannot start {}", argv[0]), failed);
  return pid;
}

int wait_for(pid_t pid) {
  int status = 0;
  while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

// Moves bytes between the pipes and the strings until both outputs are closed. False when out of time.
bool pump(Fd& in, std::string_view input, Fd& out, Fd& err, Exit& exit, Deadline deadline,
          const std::stop_token& stop) {
  while (out || err) {
    if (deadline.expired() || stop.stop_requested()) return false;
    std::array<pollfd, 3> polled{{{in.get(), POLLOUT, 0}, {out.get(), POLLIN, 0}, {err.get(), POLLIN, 0}}};
    ::poll(polled.data(), polled.size(), static_cast<int>(std::min<std::int64_t>(deadline.remaining().count(), 50)));
    if (in && polled[0].revents != 0) {
      const ssize_t n = ::write(in.get(), input.data(), input.size());
      if (n > 0) input.remove_prefix(static_cast<std::size_t>(n));
      if (input.empty() || (n < 0 && errno != EAGAIN && errno != EINTR)) in.reset();
    }
    const auto drain = [](Fd& fd, short revents, std::string& into, std::size_t limit) {
      if (!fd || revents == 0) return;
      char buffer[65536];
      const ssize_t n = ::read(fd.get(), buffer, sizeof buffer);
      if (n == 0 || (n < 0 && errno != EINTR && errno != EAGAIN)) fd.reset();
      if (n > 0 && into.size() < limit) into.append(buffer, std::min<std::size_t>(n, limit - into.size()));
    };
    drain(out, polled[1].revents, exit.out, 16u << 20);
    drain(err, polled[2].revents, exit.err, 1u << 20);
  }
  return true;
}

}  // namespace

Result<Exit> run_child(const std::vector<std::string>& argv, std::string_view input, Deadline deadline,
                       const std::stop_token& stop) {
  auto to_child = TRY(make_pipe());
  auto from_child = TRY(make_pipe());
  auto errors = TRY(make_pipe());
  const pid_t pid = TRY(spawn(argv, to_child.read.get(), from_child.write.get(), errors.write.get()));
  to_child.read.reset();
  from_child.write.reset();
  errors.write.reset();
  ::fcntl(to_child.write.get(), F_SETFL, O_NONBLOCK);
  if (input.empty()) to_child.write.reset();
  Exit exit;
  const bool ended = pump(to_child.write, input, from_child.read, errors.read, exit, deadline, stop);
  if (!ended) ::kill(-pid, SIGKILL);
  exit.code = wait_for(pid);
  if (!ended) return failure(ErrorKind::cancelled, fmt::format("{} did not end in time and was killed", argv[0]));
  return exit;
}

Result<Child> Child::start(const std::vector<std::string>& argv) {
  auto to_child = TRY(make_pipe());
  auto from_child = TRY(make_pipe());
  const pid_t pid = TRY(spawn(argv, to_child.read.get(), from_child.write.get(), -1));
  return Child(pid, std::move(to_child.write), std::move(from_child.read));
}

Child::Child(Child&& other) noexcept
    : pid_(std::exchange(other.pid_, -1)), in_(std::move(other.in_)), out_(std::move(other.out_)) {}

Child& Child::operator=(Child&& other) noexcept {
  if (this != &other) {
    kill();
    pid_ = std::exchange(other.pid_, -1);
    in_ = std::move(other.in_);
    out_ = std::move(other.out_);
  }
  return *this;
}

Child::~Child() { kill(); }

Result<int> Child::wait(Deadline deadline, const std::stop_token& stop) {
  if (pid_ <= 0) return refused("the child was waited for already");
  const Fd ended(static_cast<int>(::syscall(SYS_pidfd_open, pid_, 0)));
  if (!ended) return errno_failure("cannot watch a child", errno);
  CHECK_OK(wait_fd(ended.get(), POLLIN, deadline, stop));
  return wait_for(std::exchange(pid_, -1));
}

void Child::kill() {
  if (pid_ <= 0) return;
  ::kill(-pid_, SIGKILL);
  wait_for(std::exchange(pid_, -1));
}

}  // namespace midstream
