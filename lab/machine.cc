#include "lab/machine.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "lab/image.h"
#include "sys/file.h"

namespace midstream::lab {

namespace fs = std::filesystem;

namespace {

constexpr int kNamespaces = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWPID;

Result<> mount_at(const std::string& source, const std::string& target, const char* type, unsigned long flags,
                  const char* data = "") {
  if (::mount(source.c_str(), target.c_str(), type, flags, data) != 0) {
    return errno_failure(fmt::format("cannot mount {} at {}", source, target), errno);
  }
  return {};
}

Result<> bind_mount(const std::string& source, const std::string& target, bool read_only) {
  CHECK_OK(mount_at(source, target, nullptr, MS_BIND | MS_REC));
  if (read_only) CHECK_OK(mount_at("none", target, nullptr, MS_BIND | MS_REMOUNT | MS_RDONLY));
  return {};
}

Result<> make_node(const std::string& path, mode_t mode, unsigned major, unsigned minor) {
  if (::mknod(path.c_str(), mode, ::makedev(major, minor)) != 0 || ::chmod(path.c_str(), mode & 07777) != 0) {
    return errno_failure(fmt::format("cannot make {}", path), errno);
  }
  return {};
}

Result<> make_devices(const std::string& root) {
  const std::string dev = root + "/dev";
  CHECK_OK(mount_at("dev", dev, "tmpfs", MS_NOSUID, "mode=0755,size=1m"));
  struct Node {
    const char* name;
    unsigned major, minor;
  };
  for (const auto& node : {Node{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9},
                           {"tty", 5, 0}}) {
    CHECK_OK(make_node(fmt::format("{}/{}", dev, node.name), S_IFCHR | 0666, node.major, node.minor));
  }
  for (const char* directory : {"/pts", "/shm", "/net"}) ::mkdir((dev + directory).c_str(), 0755);
  CHECK_OK(make_node(dev + "/net/tun", S_IFCHR | 0666, 10, 200));
  CHECK_OK(mount_at("devpts", dev + "/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"));
  CHECK_OK(mount_at("shm", dev + "/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"));
  struct Link {
    const char* name;
    const char* target;
  };
  for (const auto& link : {Link{"ptmx", "pts/ptmx"}, {"fd", "/proc/self/fd"}, {"stdin", "/proc/self/fd/0"},
                           {"stdout", "/proc/self/fd/1"}, {"stderr", "/proc/self/fd/2"}}) {
    if (::symlink(link.target, fmt::format("{}/{}", dev, link.name).c_str()) != 0) {
      return errno_failure("cannot make a link in /dev", errno);
    }
  }
  return {};
}

// The directories that a file system made just now has not.
Result<> make_skeleton(const std::string& root) {
  FileSet files;
  for (const char* directory : {"/usr", "/proc", "/sys", "/dev", "/run", "/etc", "/srv", "/home", "/opt/midstream/bin",
                                "/lab", "/mnt", "/var/lib", "/var/log", "/var/cache", "/var/spool"}) {
    files.directory(directory);
  }
  files.directory("/root", 0700);
  files.directory("/tmp", 01777);
  files.directory("/var/tmp", 01777);
  files.symlink("/var/run", "/run");
  for (const char* link : {"bin", "sbin", "lib", "lib32", "lib64", "libx32"}) {
    if (fs::exists(fmt::format("/usr/{}", link))) files.symlink(fmt::format("/{}", link), fmt::format("usr/{}", link));
  }
  return write_files(root, files);
}

Result<> mount_system(const MachineSpec& spec, const std::string& root) {
  CHECK_OK(bind_mount("/usr", root + "/usr", true));
  CHECK_OK(bind_mount(spec.programs, root + "/opt/midstream/bin", true));
  if (!spec.shared.empty()) CHECK_OK(bind_mount(spec.shared, root + "/lab", false));
  CHECK_OK(mount_at("proc", root + "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC));
  CHECK_OK(mount_at("sysfs", root + "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC));
  CHECK_OK(mount_at("run", root + "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755"));
  return make_devices(root);
}

// Back to the real root of this mount namespace, which a chroot hides: joining the namespace that we are in resets it.
Result<> leave_chroot() {
  Fd self(::open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC));
  if (!self || ::setns(self.get(), CLONE_NEWNS) != 0) return errno_failure("cannot reach the namespace's root", errno);
  return {};
}

// Makes `root` the root of the namespace, so that whoever joins it lands there too.
Result<> change_root(const std::string& root) {
  Fd directory(::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!directory) return errno_failure(fmt::format("cannot open {}", root), errno);
  CHECK_OK(leave_chroot());
  if (::fchdir(directory.get()) != 0) return errno_failure("cannot enter the new root", errno);
  if (::syscall(SYS_pivot_root, ".", ".") == 0) {
    if (::umount2(".", MNT_DETACH) != 0) return errno_failure("cannot detach the old root", errno);
  } else {
    // The initial root file system cannot be pivoted away: cover it.
    if (::mount(".", "/", nullptr, MS_MOVE, nullptr) != 0) return errno_failure("cannot move the new root", errno);
    if (::chroot(".") != 0) return errno_failure("cannot change root", errno);
  }
  if (::chdir("/") != 0) return errno_failure("cannot enter the new root", errno);
  return {};
}

Result<> become(const MachineSpec& spec) {
  const std::string root = spec.mount_point;
  if (spec.repair) CHECK_OK(check_image(spec.image));
  CHECK_OK(mount_image(spec.image, root));
  if (spec.files != nullptr) {
    CHECK_OK(make_skeleton(root));
    CHECK_OK(write_files(root, *spec.files));
  }
  CHECK_OK(mount_system(spec, root));
  if (::sethostname(spec.name.data(), spec.name.size()) != 0) return errno_failure("cannot name the host", errno);
  const int null = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  const int console = ::open(spec.console.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (null < 0 || console < 0) return errno_failure(fmt::format("cannot open {}", spec.console.string()), errno);
  CHECK_OK(change_root(root));
  ::dup2(null, 0);
  ::dup2(console, 1);
  ::dup2(console, 2);
  return {};
}

[[noreturn]] void execute(const MachineSpec& spec, int report) {
  std::vector<char*> argv;
  for (const auto& arg : spec.command) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);
  const char* environment[] = {
      "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/usr/lib/postgresql/15/bin",
      "HOME=/root", "LANG=C.UTF-8", "SHELL=/bin/bash", "ASAN_OPTIONS=detect_leaks=0", nullptr};
  ::execve(argv[0], argv.data(), const_cast<char**>(environment));
  const auto text = errno_failure(fmt::format("cannot execute {}", spec.command[0]), errno).error().text();
  if (::write(report, text.data(), text.size()) < 0) ::_exit(126);
  ::_exit(127);
}

[[noreturn]] void run_machine(const MachineSpec& spec, int go, int report) {
  char byte = 0;
  if (::read(go, &byte, 1) != 1) ::_exit(1);
  ::signal(SIGPIPE, SIG_DFL);
  if (auto made = become(spec); !made) {
    const auto text = made.error().text();
    if (::write(report, text.data(), text.size()) < 0) ::_exit(126);
    ::_exit(125);
  }
  execute(spec, report);
}

struct Ends {
  Fd read, write;
};

Result<Ends> make_pipe() {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno_failure("cannot make a pipe", errno);
  return Ends{Fd(ends[0]), Fd(ends[1])};
}

// Unshares, forks process 1 of the new pid namespace and says its id through `out`.
[[noreturn]] void fork_machine(const MachineSpec& spec, Ends& go, Ends& report, int out) {
  go.write.reset();
  report.read.reset();
  int answer = -1;
  if (::unshare(kNamespaces) != 0) {
    answer = -errno;
  } else {
    const pid_t pid = ::fork();
    if (pid == 0) run_machine(spec, go.read.get(), report.write.get());
    answer = pid;
  }
  if (::write(out, &answer, sizeof answer) < 0) ::_exit(1);
  ::_exit(0);
}

}  // namespace

Result<> make_mounts_private() {
  Fd root(::open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  Fd here(::open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!root || !here) return errno_failure("cannot open the root directory", errno);
  CHECK_OK(leave_chroot());
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) {
    return errno_failure("cannot make the mounts private", errno);
  }
  if (::fchdir(root.get()) != 0 || ::chroot(".") != 0 || ::fchdir(here.get()) != 0) {
    return errno_failure("cannot return to the root directory", errno);
  }
  return {};
}

Result<StartedMachine> prepare_machine(const MachineSpec& spec) {
  auto go = TRY(make_pipe());
  auto report = TRY(make_pipe());
  auto ids = TRY(make_pipe());
  const pid_t middle = ::fork();
  if (middle < 0) return errno_failure("cannot fork", errno);
  if (middle == 0) fork_machine(spec, go, report, ids.write.get());
  ids.write.reset();
  int pid = -1;
  const ssize_t got = ::read(ids.read.get(), &pid, sizeof pid);
  ::waitpid(middle, nullptr, 0);
  if (got != sizeof pid) return retry(fmt::format("the host {} died while its namespaces were made", spec.name));
  if (pid < 0) return errno_failure(fmt::format("cannot make namespaces for {}", spec.name), -pid);
  return StartedMachine{pid, std::move(go.write), std::move(report.read)};
}

Result<> start_machine(StartedMachine& machine) {
  if (::write(machine.go.get(), "g", 1) != 1) return errno_failure("cannot start a host", errno);
  return await_machine(machine);
}

Result<> await_machine(StartedMachine& machine) {
  std::string trouble;
  char buffer[1024];
  for (ssize_t n = 0; (n = ::read(machine.report.get(), buffer, sizeof buffer)) > 0;) {
    trouble.append(buffer, static_cast<std::size_t>(n));
  }
  machine.go.reset();
  machine.report.reset();
  if (!trouble.empty()) return refused(trouble);
  return {};
}

}  // namespace midstream::lab
