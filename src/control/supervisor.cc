#include "control/supervisor.h"

#include <fmt/format.h>
#include <signal.h>

#include <cerrno>
#include <filesystem>

#include "sys/child.h"
#include "sys/file.h"

namespace midstream {

namespace {

namespace fs = std::filesystem;

bool has_systemd() { return fs::exists("/run/systemd/system"); }
bool has_runit() { return fs::is_directory("/etc/service"); }

// For sh and for systemd's ExecStart alike: single quotes, with none inside.
Result<std::string> quoted(const std::vector<std::string>& argv) {
  std::string line;
  for (const auto& arg : argv) {
    if (arg.find_first_of("'\n\\%") != std::string::npos) {
      return refused(fmt::format("a service's argument holds a character that cannot be quoted: {}", arg));
    }
    line += fmt::format("{}'{}'", line.empty() ? "" : " ", arg);
  }
  return line;
}

Result<> systemctl(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "systemctl");
  const auto exit = TRY(run_child(arguments, "", Deadline::in(Millis(30'000))));
  if (exit.code != 0) return refused(fmt::format("systemctl {}: {}", arguments[1], exit.err));
  return {};
}

fs::path unit_path(const std::string& name) { return fs::path("/etc/systemd/system") / (name + ".service"); }

Result<> install_systemd(const std::string& name, const std::string& command) {
  // The main process alone is ended: what an agent has set apart (a copy's snapshot, a base backup) outlives it.
  const auto unit = fmt::format(
      "[Unit]\nDescription=midstream ({0})\nAfter=network.target\n\n[Service]\nExecStart={1}\nRestart=always\nKillMode=process\n"
      "RestartSec=100ms\nOOMScoreAdjust=-900\n\n[Install]\nWantedBy=multi-user.target\n",
      name, command);
  CHECK_OK(write_file_durably(unit_path(name), unit, 0644));
  CHECK_OK(systemctl({"daemon-reload"}));
  CHECK_OK(systemctl({"enable", name}));
  return systemctl({"restart", name});
}

// The directory appears whole under its name, so that the scanner never sees half a service.
Result<> install_runit(const std::string& name, const std::string& command) {
  const auto made = fs::path("/etc/service") / fmt::format(".{}.new", name);
  std::error_code ignored;
  fs::remove_all(made, ignored);
  CHECK_OK(make_directories(made, 0755));
  CHECK_OK(write_file_durably(made / "run", fmt::format("#!/bin/sh\nexec {} 2>&1\n", command), 0755));
  CHECK_OK(remove_service(name));
  std::error_code failed;
  fs::rename(made, fs::path("/etc/service") / name, failed);
  if (failed) return errno_failure(fmt::format("cannot install service {}", name), failed.value());
  return {};
}

}  // namespace

Result<std::string> own_program() {
  std::error_code failed;
  auto program = fs::read_symlink("/proc/self/exe", failed).string();
  if (failed) return errno_failure("cannot find this program's own file", failed.value());
  if (program.ends_with(" (deleted)")) program.resize(program.size() - 10);
  return program;
}

Result<> install_service(const std::string& name, const std::vector<std::string>& argv) {
  const auto command = TRY(quoted(argv));
  if (has_systemd()) return install_systemd(name, command);
  if (has_runit()) return install_runit(name, command);
  return refused("this host has neither systemd nor a runit service directory (/etc/service)",
                 "install one of them: the agent must be restarted when it dies");
}

Result<> remove_service(const std::string& name) {
  if (has_systemd()) {
    if (!fs::exists(unit_path(name))) return {};
    CHECK_OK(systemctl({"disable", "--now", name}));
    CHECK_OK(remove_file_durably(unit_path(name)));
    return systemctl({"daemon-reload"});
  }
  std::error_code failed;
  fs::remove_all(fs::path("/etc/service") / name, failed);
  if (failed) return errno_failure(fmt::format("cannot remove service {}", name), failed.value());
  return {};
}

Result<> power_off() {
  if (has_systemd()) return systemctl({"--no-block", "poweroff"});
  if (fs::exists("/etc/runit/stopit")) {
    const auto exit = TRY(run_child({"runit-init", "0"}, "", Deadline::in(Millis(10'000))));
    return exit.code == 0 ? Result<>{} : refused(fmt::format("runit-init 0: {}", exit.err), "shut the host down by hand");
  }
  // Other inits that serve a service directory take SIGTERM for this.
  if (::kill(1, SIGTERM) == 0) return {};
  return errno_failure("cannot ask the host's init to shut down", errno);
}

}  // namespace midstream
