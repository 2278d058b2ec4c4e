// A service of a supervisor that scans /etc/service and takes a file `down` in a service's directory at once, as the
// lab's init does: /run/service/NAME.pid is there, with the main process's id, as long as it looks after the service. It
// makes that file, still empty, before it looks for `down` a last time and starts the service: whoever has written
// `down` and then finds no such file knows that nothing starts any more.
// runit's own runsv takes `down` at boot only, and is refused.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/text.h"
#include "movers/hosts/processes.h"
#include "movers/hosts/unit.h"
#include "sys/file.h"

namespace midstream {

namespace {

namespace fs = std::filesystem;

class DirectoryUnit final : public Unit {
 public:
  DirectoryUnit(const std::string& name, const fs::path& root)
      : directory_(root / "etc/service" / name), pid_file_(root / "run/service" / (name + ".pid")) {}

  Result<UnitState> state() override {
    UnitState state{.supervisor = "/etc/service"};
    std::error_code ignored;
    state.known = ::access((directory_ / "run").c_str(), X_OK) == 0;
    if (fs::exists(down(), ignored)) {
      state.held = true;
      state.hold_files[down()] = TRY(read_file(down()));
    }
    if (fs::exists(directory_ / "supervise", ignored))
      state.unfit = "services of runsv cannot be handed over yet: run it under systemd, or hand it over by hand";
    const auto file = read_kernel_file(pid_file_);
    state.processes = of_session(file ? std::atoi(file->c_str()) : -1);
    // The supervisor may be about to start it again even where nothing of it lives.
    state.running = file.has_value() || !state.processes.empty() || (state.known && !state.held);
    return state;
  }

  Result<> hold(std::string_view why) override {
    std::error_code ignored;
    if (fs::exists(down(), ignored)) return {};
    return write_file_durably(down(), fmt::format("{}\n", why), 0644);
  }

  Result<> release() override { return remove_file_durably(down()); }

  Result<> hold_as(const HoldFiles& files) override {
    const auto found = files.find(down());
    return found == files.end() ? Result<>() : write_file_durably(down(), found->second, 0644);
  }

  Result<> enable(bool) override { return {}; }
  Result<> stop() override { return {}; }  // the supervisor follows the file
  Result<> start() override { return {}; }

 private:
  std::string down() const { return directory_ / "down"; }

  // What descends from the main process, and what has lost its parent but is of its session.
  static std::vector<std::string> of_session(pid_t main) {
    std::vector<std::string> names;
    if (main <= 0) return names;
    const auto all = processes();
    for (const auto& process : tree_of(all, main)) names.push_back(to_string(process));
    for (const auto& [pid, process] : all) {
      const auto name = to_string(process);
      if (process.session == main && std::ranges::find(names, name) == names.end()) names.push_back(name);
    }
    return names;
  }

  fs::path directory_;
  fs::path pid_file_;
};

}  // namespace

std::unique_ptr<Unit> directory_unit(const std::string& name, const fs::path& root) {
  return std::make_unique<DirectoryUnit>(name, root);
}

Result<std::unique_ptr<Unit>> find_unit(const std::string& name, const fs::path& root) {
  std::error_code ignored;
  if (name.starts_with("cron@"))
    return refused(fmt::format("{}: jobs of cron cannot be handed over yet", name), "run it from a timer of systemd");
  if (fs::exists(root / "run/systemd/system", ignored)) return systemd_unit(name, root);
  if (fs::is_directory(root / "etc/service", ignored)) return directory_unit(name, root);
  return refused("this host has neither systemd nor a service directory (/etc/service)",
                 "leave the unit out of `units`, and stop and start it by hand");
}

}  // namespace midstream
