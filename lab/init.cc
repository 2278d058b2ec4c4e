#include "lab/init.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/inotify.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <string>
#include <vector>

#include "base/text.h"
#include "sys/child.h"
#include "sys/clock.h"
#include "sys/fd.h"
#include "sys/file.h"
#include "sys/log.h"

namespace midstream::lab {

namespace {

constexpr const char* kServices = "/etc/service";
constexpr Millis kFirstBackoff{100};
constexpr Millis kLongestBackoff{1'000};
constexpr Millis kLongRun{5'000};
constexpr Millis kStopGrace{10'000};

sigset_t handled_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : {SIGCHLD, SIGTERM, SIGINT}) sigaddset(&set, signal);
  return set;
}

std::string pid_path(const std::string& name) { return fmt::format("/run/service/{}.pid", name); }

// Waits for a signal or for `other` to become readable; true if SIGTERM or SIGINT was among what came.
bool wait_event(int signals, int other, Millis longest) {
  pollfd polled[2] = {{signals, POLLIN, 0}, {other, POLLIN, 0}};
  ::poll(polled, other < 0 ? 1 : 2, static_cast<int>(longest.count()));
  bool asked_to_end = false;
  signalfd_siginfo info{};
  while (::read(signals, &info, sizeof info) == sizeof info) {
    if (info.ssi_signo != SIGCHLD) asked_to_end = true;
  }
  return asked_to_end;
}

// ---- one service: a keeper process, the subreaper of everything that the service starts ----

class Keeper {
 public:
  explicit Keeper(std::string name) : name_(std::move(name)), directory_(fmt::format("{}/{}", kServices, name_)) {}

  [[noreturn]] void run() {
    ::setsid();
    ::prctl(PR_SET_NAME, fmt::format("keep {}", name_).c_str());
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);
    const sigset_t set = handled_signals();
    signals_ = ::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    Millis backoff = kFirstBackoff;
    while (true) {
      const auto started = boot_now();
      start();
      const bool ended_by_order = watch();
      kill_rest();
      if (ended_by_order) ::_exit(0);
      if (boot_now() - started > kLongRun) backoff = kFirstBackoff;
      note(fmt::format("ended with {}; starting it again in {} ms", status_, backoff.count()));
      if (wait_out(backoff)) ::_exit(0);
      backoff = std::min(backoff * 2, kLongestBackoff);
    }
  }

 private:
  void note(const std::string& text) {
    Fd log(::open(log_path().c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
    const std::string line = fmt::format("{} init: {} {}\n", format_wall(wall_now_ms()), name_, text);
    if (log && ::write(log.get(), line.data(), line.size()) < 0) return;  // a full disk stops no service
  }
  std::string log_path() const { return fmt::format("/var/log/{}.log", name_); }

  void start() {
    main_ = ::fork();
    if (main_ != 0) {
      const auto path = pid_path(name_);
      Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
      const auto text = fmt::format("{}\n", main_);
      if (file && ::write(file.get(), text.data(), text.size()) < 0) note("pid file could not be written");
      return;
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::setsid();
    const int in = ::open("/dev/null", O_RDONLY);
    int log = ::open(log_path().c_str(), O_WRONLY | O_CREAT | O_APPEND, 0644);
    if (log < 0) log = ::open("/dev/null", O_WRONLY);
    ::dup2(in, 0);
    ::dup2(log, 1);
    ::dup2(log, 2);
    ::close_range(3, ~0u, 0);
    const sigset_t set = handled_signals();
    ::sigprocmask(SIG_UNBLOCK, &set, nullptr);
    if (::chdir("/") != 0) ::_exit(126);
    const std::string run = directory_ + "/run";
    ::execl(run.c_str(), run.c_str(), static_cast<char*>(nullptr));
    ::_exit(127);
  }

  // Until the main process has ended. True if that was asked for.
  bool watch() {
    bool stopping = false;
    auto give_up = Deadline::in(kStopGrace);
    while (main_ > 0) {
      const bool asked = wait_event(signals_, -1, stopping ? give_up.sooner(Millis(200)).remaining() : Millis(10'000));
      if (asked && !stopping) {
        stopping = true;
        give_up = Deadline::in(kStopGrace);
        ::kill(main_, stop_signal());
      }
      if (stopping && give_up.expired() && main_ > 0) ::kill(main_, SIGKILL);
      reap();
    }
    return stopping;
  }

  void reap() {
    int status = 0;
    for (pid_t pid = 0; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      if (pid != main_) continue;
      main_ = -1;
      status_ = WIFEXITED(status) ? fmt::format("exit code {}", WEXITSTATUS(status))
                                  : fmt::format("signal {}", WTERMSIG(status));
    }
  }

  // Orphans come to us, so that killing our children until there are none ends the whole tree.
  void kill_rest() {
    while (true) {
      std::string children;
      if (auto text = read_file(fmt::format("/proc/self/task/{}/children", ::getpid()))) children = *text;
      for (const auto& pid : split(trim(children), ' ')) {
        if (!pid.empty()) ::kill(std::atoi(pid.c_str()), SIGKILL);
      }
      int status = 0;
      if (::waitpid(-1, &status, 0) < 0 && errno == ECHILD) return;
    }
  }

  bool wait_out(Millis span) {
    for (const auto deadline = Deadline::in(span); !deadline.expired();) {
      if (wait_event(signals_, -1, deadline.remaining())) return true;
    }
    return false;
  }

  int stop_signal() const {
    const auto text = read_file(directory_ + "/stop-signal", 64);
    if (!text) return SIGTERM;
    const auto name = trim(*text);
    return name == "INT" ? SIGINT : name == "QUIT" ? SIGQUIT : name == "USR1" ? SIGUSR1 : SIGTERM;
  }

  std::string name_;
  std::string directory_;
  std::string status_ = "?";
  pid_t main_ = -1;
  int signals_ = -1;
};

// ---- process 1 ----

struct Service {
  std::string name;
  pid_t keeper = -1;
  bool stopping = false;
};

class Init {
 public:
  int run() {
    const sigset_t set = handled_signals();
    ::sigprocmask(SIG_BLOCK, &set, nullptr);
    signals_ = Fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
    for (const char* directory : {"/run/service", "/run/network", "/run/lock"}) ::mkdir(directory, 0755);
    bring_network_up();
    changes_ = Fd(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
    watch(kServices);
    bool ending = false;
    while (true) {
      scan(ending);
      if (ending && services_.empty()) break;
      ending |= wait_event(signals_.get(), changes_.get(), Millis(1'000));
      forget_events();
      reap();
    }
    ::kill(-1, SIGKILL);
    ::sync();
    return 0;
  }

 private:
  void bring_network_up() {
    const auto up = run_child({"ifup", "-a", "--ignore-errors"}, "", Deadline::in(Millis(20'000)));
    if (!up) log_warn("init", "ifup: {}", up.error().text());
    if (up && up->code != 0) log_warn("init", "ifup -a ended with {}: {}", up->code, up->err);
  }

  void watch(const std::string& directory) {
    ::inotify_add_watch(changes_.get(), directory.c_str(),
                        IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_ATTRIB | IN_CLOSE_WRITE | IN_ONLYDIR);
  }

  void forget_events() {
    char buffer[4096];
    while (::read(changes_.get(), buffer, sizeof buffer) > 0) {
    }
  }

  std::vector<std::string> wanted() {
    std::vector<std::string> names;
    DIR* directory = ::opendir(kServices);
    if (directory == nullptr) return names;
    while (const dirent* entry = ::readdir(directory)) {
      const std::string name = entry->d_name;
      if (name.starts_with(".")) continue;
      const std::string path = fmt::format("{}/{}", kServices, name);
      watch(path);
      if (::access((path + "/run").c_str(), X_OK) == 0 && ::access((path + "/down").c_str(), F_OK) != 0) {
        names.push_back(name);
      }
    }
    ::closedir(directory);
    std::sort(names.begin(), names.end());
    return names;
  }

  void scan(bool ending) {
    const auto names = ending ? std::vector<std::string>() : wanted();
    // At the end one after the other, last started first; otherwise all that are no longer wanted at once.
    for (auto service = services_.rbegin(); service != services_.rend(); ++service) {
      if (std::find(names.begin(), names.end(), service->name) != names.end()) continue;
      if (!service->stopping) ::kill(service->keeper, SIGTERM);
      service->stopping = true;
      if (ending) break;
    }
    for (const auto& name : names) {
      const auto same = [&](const Service& service) { return service.name == name; };
      if (std::find_if(services_.begin(), services_.end(), same) != services_.end()) continue;
      if (!announced(name)) continue;
      const pid_t pid = ::fork();
      if (pid == 0) {
        signals_.reset();
        changes_.reset();
        Keeper(name).run();
      }
      services_.push_back({name, pid, false});
    }
  }

  // Makes the pid file, and only then looks whether the service is still wanted: whoever writes `down` and then finds no
  // pid file knows that the service will not be started by a look of ours that was older. False: not wanted any more.
  static bool announced(const std::string& name) {
    const auto path = pid_path(name);
    const Fd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    if (!file) return false;  // /run is full: at the next look
    if (::access(fmt::format("{}/{}/down", kServices, name).c_str(), F_OK) != 0) return true;
    ::unlink(path.c_str());
    return false;
  }

  void reap() {
    int status = 0;
    for (pid_t pid = 0; (pid = ::waitpid(-1, &status, WNOHANG)) > 0;) {
      std::erase_if(services_, [&](const Service& service) {
        if (service.keeper != pid) return false;
        ::unlink(pid_path(service.name).c_str());
        return true;
      });
    }
  }

  Fd signals_;
  Fd changes_;
  std::vector<Service> services_;
};

}  // namespace

int run_init() { return Init().run(); }

}  // namespace midstream::lab
