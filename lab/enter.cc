#include "lab/enter.h"

#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "lab/lab.h"

namespace midstream::lab {

namespace {

pid_t child_pid = -1;

void pass_on(int signal) {
  if (child_pid > 0) ::kill(child_pid, signal);
}

void say(const std::string& text) {
  const std::string line = "midstream-lab: " + text + "\n";
  if (::write(2, line.data(), line.size()) < 0) ::_exit(126);
}

[[noreturn]] void become(int pidfd, bool fabric, const std::vector<std::string>& argv) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const int rest = fabric ? CLONE_NEWNET : CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC;
  if (::setns(pidfd, rest) != 0) {
    say(errno_failure("cannot enter the host", errno).error().text());
    ::_exit(126);
  }
  if (!fabric) {
    if (::chdir("/") != 0) ::_exit(126);
    const char* terminal = std::getenv("TERM");
    const std::string kept = terminal != nullptr ? terminal : "dumb";
    ::clearenv();
    ::setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/15/bin:"
                     "/opt/midstream/bin", 1);
    ::setenv("HOME", "/root", 1);
    ::setenv("LANG", "C.UTF-8", 1);
    ::setenv("TERM", kept.c_str(), 1);
  }
  std::vector<char*> raw;
  for (const auto& arg : argv) raw.push_back(const_cast<char*>(arg.c_str()));
  raw.push_back(nullptr);
  ::execvp(raw[0], raw.data());
  say(errno_failure(fmt::format("cannot run {}", argv[0]), errno).error().text());
  ::_exit(127);
}

}  // namespace

Result<int> enter_and_run(const std::filesystem::path& directory, const std::string& host,
                          const std::vector<std::string>& argv) {
  Fd pidfd;
  const auto answer =
      TRY(ask_guardian(directory, {{"do", "enter"}, {"host", host == "fabric" ? "" : host}}, &pidfd));
  if (!pidfd) return retry(fmt::format("host {} could not be reached", host));
  if (::setns(pidfd.get(), CLONE_NEWPID) != 0) return errno_failure(fmt::format("cannot enter {}", host), errno);
  for (int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, pass_on);
  child_pid = ::fork();
  if (child_pid == 0) {
    for (int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, SIG_DFL);
    become(pidfd.get(), answer.value("fabric", false), argv);
  }
  if (child_pid < 0) return errno_failure(fmt::format("cannot start a process on {}", host), errno);
  int status = 0;
  while (::waitpid(child_pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

}  // namespace midstream::lab
