#include "sys/enclosed.h"

#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "sys/fd.h"

namespace midstream::test {

namespace {

bool inside = false;

int code_of(int status) { return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status); }

bool lo_up() {
  const Fd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  ifreq request{};
  request.ifr_name[0] = 'l';
  request.ifr_name[1] = 'o';
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  return fd && ::ioctl(fd.get(), SIOCSIFFLAGS, &request) == 0;
}

bool furnish() {
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 || ::mount("proc", "/proc", "proc", 0, nullptr) != 0 ||
      ::mount("none", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777") != 0)
    return false;
  if (std::getenv("MIDSTREAM_KEEP") == nullptr) ::setenv("TMPDIR", "/dev/shm", 0);
  if (const char* wanted = std::getenv("TMPDIR")) std::filesystem::create_directories(wanted);  // what is mounted over may have had it
  return lo_up();
}

// The first process of the new world: the world ends with it, and it ends with `body` or with the one outside.
[[noreturn]] void first_process(const std::function<int()>& body, const Fd& outside) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  pollfd gone{outside.get(), POLLIN, 0};
  if (::poll(&gone, 1, 0) != 0) ::_exit(128 + SIGKILL);  // it died before we asked to be told
  if (!furnish()) {
    std::perror("a world of its own cannot be furnished");
    ::_exit(126);
  }
  const pid_t worker = ::fork();
  if (worker == 0) {
    inside = true;
    std::exit(body());
  }
  // Orphans are ours to reap.
  for (int status = 0;;) {
    const pid_t ended = ::waitpid(-1, &status, 0);
    if (ended == worker) ::_exit(code_of(status));
    if (ended < 0 && errno != EINTR) ::_exit(126);
  }
}

}  // namespace

int run_enclosed(const std::function<int()>& body) {
  if (::geteuid() != 0 || ::unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWNET) != 0) return body();
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return 126;
  Fd theirs(ends[0]), ours(ends[1]);
  std::fflush(nullptr);
  const pid_t first = ::fork();
  if (first < 0) return 126;
  if (first == 0) {
    ours.reset();
    first_process(body, theirs);
  }
  int status = 0;
  while (::waitpid(first, &status, 0) < 0 && errno == EINTR) {
  }
  ::_exit(code_of(status));  // no thread can be started out here any more: a leak check at the end would
}

bool enclosed() { return inside; }

}  // namespace midstream::test
