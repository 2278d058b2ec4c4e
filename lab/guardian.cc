#include "lab/guardian.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "lab/fabric.h"
#include "lab/image.h"
#include "lab/machine.h"
#include "lab/provision.h"
#include "base/text.h"
#include "sys/log.h"

namespace midstream::lab {

namespace {

constexpr Millis kStopSpan{30'000};
constexpr Millis kFreeSpan{10'000};

class Guardian {
 public:
  explicit Guardian(GuardianSpec spec)
      : spec_(std::move(spec)), hosts_(spec_.scenario.hosts()), pids_(hosts_.size(), -1) {}

  // Builds everything; afterwards serves until it is told to end.
  Result<> build();
  void serve();
  int lifeline() const { return spec_.lifeline.get(); }

 private:
  MachineSpec machine(std::size_t host) const;
  Result<> boot_all();
  Result<> boot(std::size_t host);
  Result<> stop(std::size_t host, bool cut);
  void await_end(std::size_t host, Deadline deadline);
  void reap();
  void answer_one();
  Result<Json> act(const Json& request, Fd& descriptor);
  Result<std::size_t> index(const std::string& name) const;
  void end();

  GuardianSpec spec_;
  std::vector<HostPlan> hosts_;
  std::vector<pid_t> pids_;  // -1: off
  Fd listener_;
  Fd signals_;
  bool detached_ = false;
};

MachineSpec Guardian::machine(std::size_t host) const {
  const auto& plan = hosts_[host];
  MachineSpec spec;
  spec.name = plan.name;
  spec.image = spec_.directory / "hosts" / (plan.name + ".img");
  spec.mount_point = spec_.directory / "hosts" / plan.name;
  spec.programs = spec_.programs;
  if (plan.role == Role::out || plan.role == Role::ops) spec.shared = spec_.directory / "shared";
  spec.command = {"/opt/midstream/bin/midstream-lab", "init"};
  spec.console = spec_.directory / "hosts" / (plan.name + ".console");
  return spec;
}

Result<Fd> listen_at(const std::filesystem::path& directory) {
  Fd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return errno_failure("cannot make a socket", errno);
  // Through the directory's descriptor, so that a long path fits sun_path.
  Fd at(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const auto path = fmt::format("/proc/self/fd/{}/lab.sock", at.get());
  std::strncpy(address.sun_path, path.c_str(), sizeof address.sun_path - 1);
  ::unlink(path.c_str());
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 || ::listen(fd.get(), 32) != 0) {
    return errno_failure(fmt::format("cannot listen on {}/lab.sock", directory.string()), errno);
  }
  return fd;
}

Result<> Guardian::build() {
  sigset_t set;
  sigemptyset(&set);
  for (int signal : {SIGCHLD, SIGTERM, SIGINT}) sigaddset(&set, signal);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  signals_ = Fd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  CHECK_OK(make_mounts_private());
  if (::mount("proc", "/proc", "proc", 0, "") != 0) return errno_failure("cannot mount /proc", errno);
  CHECK_OK(make_bridges());
  CHECK_OK(boot_all());
  log_info("lab", "hosts are booting");
  listener_ = TRY(listen_at(spec_.directory));
  return {};
}

Result<> Guardian::boot_all() {
  const auto secrets = TRY(make_secrets(spec_.scenario, spec_.directory / "keys"));
  log_info("lab", "secrets are made");
  std::vector<FileSet> files;
  for (const auto& host : hosts_) files.push_back(provision(spec_.scenario, host, secrets));
  std::vector<StartedMachine> machines;
  for (std::size_t i = 0; i < hosts_.size(); ++i) {
    auto spec = machine(i);
    spec.files = &files[i];
    std::error_code failed;
    std::filesystem::create_directories(spec.mount_point, failed);
    switch (hosts_[i].role) {
      case Role::old_side: CHECK_OK(copy_image(spec_.cluster_old, spec.image)); break;
      case Role::new_side: CHECK_OK(copy_image(spec_.cluster_new, spec.image)); break;
      default: CHECK_OK(make_image(spec.image, hosts_[i].image_mib));
    }
    machines.push_back(TRY(prepare_machine(spec)));
    pids_[i] = machines.back().pid;
  }
  log_info("lab", "images and namespaces are made");
  CHECK_OK(connect_hosts(hosts_, pids_));
  log_info("lab", "hosts are wired");
  for (auto& started : machines) {
    if (::write(started.go.get(), "g", 1) != 1) return errno_failure("cannot start a host", errno);
  }
  for (std::size_t i = 0; i < machines.size(); ++i) {
    if (auto good = await_machine(machines[i]); !good) return with_context(good.error(), hosts_[i].name);
  }
  return {};
}

Result<> Guardian::boot(std::size_t host) {
  if (pids_[host] > 0) return refused(fmt::format("host {} is on already", hosts_[host].name));
  auto spec = machine(host);
  spec.repair = true;
  auto started = TRY(prepare_machine(spec));
  pids_[host] = started.pid;
  std::vector<pid_t> only(hosts_.size(), -1);
  only[host] = started.pid;
  CHECK_OK(connect_hosts(hosts_, only));
  return start_machine(started);
}

Result<> Guardian::stop(std::size_t host, bool cut) {
  if (pids_[host] < 0) return refused(fmt::format("host {} is off already", hosts_[host].name));
  if (cut) {
    Fd root(::open(fmt::format("/proc/{}/root", pids_[host]).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!root) return errno_failure(fmt::format("cannot reach the disk of {}", hosts_[host].name), errno);
    CHECK_OK(cut_power(root.get()));
  }
  ::kill(pids_[host], cut ? SIGKILL : SIGTERM);
  await_end(host, Deadline::in(kStopSpan));
  return await_images_free(machine(host).image, Deadline::in(kFreeSpan));
}

void Guardian::await_end(std::size_t host, Deadline deadline) {
  const pid_t pid = pids_[host];
  Fd handle(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  pollfd polled{handle.get(), POLLIN, 0};
  if (::poll(&polled, 1, static_cast<int>(deadline.remaining().count())) == 0) ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  pids_[host] = -1;
}

void Guardian::reap() {
  for (pid_t pid = 0; (pid = ::waitpid(-1, nullptr, WNOHANG)) > 0;) {
    for (std::size_t i = 0; i < hosts_.size(); ++i) {
      if (pids_[i] != pid) continue;
      pids_[i] = -1;
      log_warn("lab", "host {} has gone down by itself", hosts_[i].name);
    }
  }
}

Result<std::size_t> Guardian::index(const std::string& name) const {
  for (std::size_t i = 0; i < hosts_.size(); ++i) {
    if (hosts_[i].name == name) return i;
  }
  std::vector<std::string> names;
  for (const auto& host : hosts_) names.push_back(host.name);
  return refused(fmt::format("the lab has no host '{}'", printable(name)),
                 fmt::format("its hosts are {}", join(names, ", ")));
}

Result<Json> Guardian::act(const Json& request, Fd& descriptor) {
  const auto verb = TRY(get_string(request, "do"));
  const auto name = get_string_or(request, "host", "");
  if (verb == "hosts") {
    Json answer = to_json(spec_.scenario);
    for (std::size_t i = 0; i < hosts_.size(); ++i) answer["hosts"][i]["on"] = pids_[i] > 0;
    return answer;
  }
  if (verb == "enter") {
    const pid_t pid = name.empty() ? 1 : pids_[TRY(index(name))];
    if (pid < 0) return refused(fmt::format("host {} is off", name), "boot it");
    descriptor = Fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
    if (!descriptor) return errno_failure(fmt::format("cannot reach host {}", name), errno);
    return Json{{"fabric", name.empty()}};
  }
  if (verb == "link") {
    CHECK_OK(set_link(hosts_, name, TRY(get_string(request, "device")), TRY(get_bool(request, "up"))));
    return Json::object();
  }
  const auto host = TRY(index(name));
  if (verb == "boot") {
    CHECK_OK(boot(host));
  } else if (verb == "poweroff") {
    CHECK_OK(stop(host, false));
  } else if (verb == "powercut") {
    CHECK_OK(stop(host, true));
    CHECK_OK(boot(host));
  } else {
    return refused(fmt::format("the lab does not know '{}'", printable(verb)));
  }
  return Json::object();
}

void Guardian::answer_one() {
  Fd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!client) return;
  const auto request = receive_message(client.get());
  if (!request) return;
  if (get_string_or(request->message, "do", "") == "down") end();
  Fd descriptor;
  auto answer = act(request->message, descriptor);
  Json reply = answer ? std::move(*answer) : Json{{"error", to_json(answer.error())}};
  reply["ok"] = answer.has_value();
  if (auto sent = send_message(client.get(), reply, descriptor.get()); !sent) {
    log_warn("lab", "a client went away: {}", sent.error().text());
  }
}

void Guardian::end() { ::_exit(0); }

void Guardian::serve() {
  while (true) {
    pollfd polled[3] = {{signals_.get(), POLLIN, 0},
                        {listener_.get(), POLLIN, 0},
                        {detached_ ? -1 : spec_.lifeline.get(), POLLIN, 0}};
    if (::poll(polled, 3, -1) < 0) continue;
    signalfd_siginfo info{};
    while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
      if (info.ssi_signo != SIGCHLD) end();
    }
    reap();
    if (polled[2].revents != 0) {
      const auto said = receive_message(spec_.lifeline.get());
      if (!said) end();
      detached_ = get_string_or(said->message, "do", "") == "detach";
    }
    if (polled[1].revents != 0) answer_one();
  }
}

// While the lab is built nobody reads the lifeline; its end must be noticed all the same.
void end_with_lifeline(int lifeline) {
  ::signal(SIGIO, [](int) { ::_exit(1); });
  ::fcntl(lifeline, F_SETOWN, ::getpid());
  ::fcntl(lifeline, F_SETFL, ::fcntl(lifeline, F_GETFL) | O_ASYNC);
  char byte = 0;
  if (::recv(lifeline, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0) ::_exit(1);
}

void stop_ending_with_lifeline(int lifeline) {
  ::fcntl(lifeline, F_SETFL, ::fcntl(lifeline, F_GETFL) & ~O_ASYNC);
  ::signal(SIGIO, SIG_IGN);
}

// Process 1 of the lab's pid namespace.
[[noreturn]] void guard(GuardianSpec spec) {
  ::setsid();
  ::prctl(PR_SET_NAME, "lab guardian");
  Guardian guardian(std::move(spec));
  end_with_lifeline(guardian.lifeline());
  auto built = guardian.build();
  stop_ending_with_lifeline(guardian.lifeline());
  const Json word = built ? Json{{"ok", true}} : Json{{"ok", false}, {"error", to_json(built.error())}};
  if (auto told = send_message(guardian.lifeline(), word); !told || !built) ::_exit(1);
  guardian.serve();
  ::_exit(0);
}

}  // namespace

int run_guardian(GuardianSpec spec) {
  constexpr int kNamespaces = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID;
  if (::unshare(kNamespaces) != 0) {
    const auto error = errno_failure("cannot make namespaces", errno).error();
    const auto told = send_message(spec.lifeline.get(), {{"ok", false}, {"error", to_json(error)}});
    return told ? 1 : 2;
  }
  const pid_t pid = ::fork();
  if (pid == 0) guard(std::move(spec));
  return pid < 0 ? 1 : 0;
}

}  // namespace midstream::lab
