#include "movers/postgres/server_unit.h"

#include <fmt/format.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>

#include "base/text.h"
#include "sys/child.h"
#include "sys/file.h"

namespace midstream::postgres {

namespace {

namespace fs = std::filesystem;

constexpr const char* kServices = "/etc/service";
constexpr const char* kRunning = "/run/service";
constexpr Millis kPatience{120'000};

// Files of the kernel and of others: read as they are, "" where they are not there.
std::string text_of(const fs::path& path) {
  std::string text;
  char buffer[4096];
  std::FILE* file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return text;
  for (std::size_t n = 0; (n = std::fread(buffer, 1, sizeof buffer, file)) > 0;) text.append(buffer, n);
  std::fclose(file);
  return text;
}

std::string systemd_unit_of(int pid) {
  const auto cgroups = text_of(fmt::format("/proc/{}/cgroup", pid));
  for (const auto& line : split(cgroups, '\n')) {
    const auto last = line.substr(line.rfind('/') + 1);
    if (last.ends_with(".service")) return last;
  }
  return "";
}

std::string directory_service_of(int pid) {
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(kRunning, ignored)) {
    const auto name = entry.path().stem().native();
    if (entry.path().extension() == ".pid" && std::atoi(text_of(entry.path()).c_str()) == pid && fs::exists(fs::path(kServices) / name / "run", ignored))
      return name;
  }
  return "";
}

Result<> systemctl(std::string_view verb, const std::string& unit) {
  const auto exit = TRY(run_child({"systemctl", "--no-ask-password", std::string(verb), "--", unit}, "", Deadline::in(kPatience)));
  if (exit.code != 0) return retry(fmt::format("systemctl {} {}: {}", verb, unit, printable(trim(exit.err))));
  return {};
}

fs::path down_file(const ServerUnit& unit) { return fs::path(kServices) / unit.name / "down"; }

Result<> ask_to_stop(const Work& work, const ServerUnit& unit) {
  if (unit.kind == "given") return work.options.server(false);
  if (unit.kind == "systemd") return systemctl("stop", unit.name);
  return write_file_durably(down_file(unit), fmt::format("stopped by midstream for move {}\n", work.plan.move), 0644);
}

Result<> ask_to_start(const Work& work, const ServerUnit& unit) {
  if (unit.kind == "given") return work.options.server(true);
  if (unit.kind == "systemd") return systemctl("start", unit.name);
  return remove_file_durably(down_file(unit));
}

// A supervisor that has no note of a service any more starts nothing of it.
bool supervisor_at_rest(const ServerUnit& unit) {
  std::error_code ignored;
  return unit.kind != "directory" || !fs::exists(fs::path(kRunning) / (unit.name + ".pid"), ignored);
}

}  // namespace

Json to_json(const ServerUnit& unit) { return {{"kind", unit.kind}, {"name", unit.name}}; }
ServerUnit server_unit_from_json(const Json& value) { return {get_string_or(value, "kind", ""), get_string_or(value, "name", "")}; }
std::string words_of(const ServerUnit& unit) {
  return unit.kind == "systemd" ? "systemd's " + unit.name : unit.kind == "directory" ? fmt::format("{}/{}", kServices, unit.name) : "who started it";
}

int postmaster_of(const fs::path& data) {
  const int pid = std::atoi(text_of(data / "postmaster.pid").c_str());
  std::error_code ignored;
  // The number may be another's by now.
  if (pid <= 0 || fs::read_symlink(fmt::format("/proc/{}/cwd", pid), ignored) != data) return 0;
  return pid;
}

Result<ServerUnit> find_server_unit(const Work& work, const fs::path& data) {
  if (work.options.server) return ServerUnit{"given", ""};
  const int pid = postmaster_of(data);
  if (pid == 0) return retry(fmt::format("no server runs on {}", data.native()));
  std::error_code ignored;
  if (fs::exists("/run/systemd/system", ignored)) {
    if (auto name = systemd_unit_of(pid); !name.empty()) return ServerUnit{"systemd", std::move(name)};
  } else if (auto name = directory_service_of(pid); !name.empty()) {
    return ServerUnit{"directory", std::move(name)};
  }
  return refused(fmt::format("the server on {} is run by no service of systemd and by none in {}", data.native(), kServices),
                 "start it as a service, so that it can be stopped and started again");
}

Result<> stop_server(const Work& work, const ServerUnit& unit, const fs::path& data) {
  CHECK_OK(ask_to_stop(work, unit));
  const auto deadline = work.context.deadline.sooner(kPatience);
  while (postmaster_of(data) != 0 || !supervisor_at_rest(unit))
    CHECK_OK(wait_a_bit(Millis(10), deadline, work.context.stop, fmt::format("the server on {} to stop", data.native())));
  return {};
}

Result<> start_server(const Work& work, const ServerUnit& unit, const fs::path& data) {
  CHECK_OK(ask_to_start(work, unit));
  const auto deadline = work.context.deadline.sooner(kPatience);
  for (std::string why = "it has not answered yet";;) {
    auto session = Session::connect(work.target("postgres", work.options.superuser), deadline.sooner(Millis(5000)), work.context.stop);
    if (session) return {};
    why = session.error().what;
    CHECK_OK(wait_a_bit(Millis(20), deadline, work.context.stop, fmt::format("the server on {} to start ({})", data.native(), why)));
  }
}

}  // namespace midstream::postgres
