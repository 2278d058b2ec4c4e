// A service or timer of systemd. It is held by a drop-in with a condition that the drop-in itself breaks: that works
// for units of the administrator, of packages, for instances of templates and for static ones alike (systemctl mask
// does not), is one file, and leaves `enabled` as it was. A timer is held together with the service that it triggers.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "base/text.h"
#include "movers/hosts/processes.h"
#include "movers/hosts/unit.h"
#include "sys/child.h"
#include "sys/file.h"

namespace midstream {

namespace {

namespace fs = std::filesystem;

constexpr Millis kPatience{20'000};
constexpr const char* kDropIn = "midstream-held.conf";

using Properties = std::map<std::string, std::string>;

Result<Exit> systemctl(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), {"systemctl", "--no-ask-password"});
  return run_child(arguments, "", Deadline::in(kPatience));
}

Result<> must(std::vector<std::string> arguments) {
  const auto exit = TRY(systemctl(arguments));
  if (exit.code != 0) return retry(fmt::format("systemctl {}: {}", join(arguments, " "), printable(trim(exit.err))));
  return {};
}

class SystemdUnit final : public Unit {
 public:
  SystemdUnit(const std::string& name, const fs::path& root)
      : unit_(has_type(name) ? name : name + ".service"), root_(root) {}

  Result<UnitState> state() override {
    UnitState state{.supervisor = "systemd"};
    const auto own = TRY(show(unit_));
    state.known = of(own, "LoadState") == "loaded";
    state.unfit = unfit(own);
    state.at_boot = of(own, "UnitFileState");
    const auto active = of(own, "ActiveState");
    state.running = active != "inactive" && active != "failed" && !active.empty();
    state.held = true;
    for (const auto& unit : TRY(family())) {
      state.held = state.held && is_held(unit);
      if (is_held(unit)) state.hold_files[drop_in_path(unit)] = TRY(read_file(drop_in(unit)));
    }
    // A run that the timer began is its service's.
    const auto members = TRY(family());
    for (const auto& [pid, process] : processes()) {
      for (const auto& part : split(process.cgroup, '/')) {
        if (std::ranges::find(members, part) != members.end()) state.processes.push_back(to_string(process));
      }
    }
    return state;
  }

  Result<> hold(std::string_view why) override {
    bool changed = false;
    for (const auto& unit : TRY(family())) {
      if (is_held(unit)) continue;
      CHECK_OK(make_directories(drop_in(unit).parent_path(), 0755));
      const auto text = fmt::format("# {}\n[Unit]\nConditionPathExists=!{}\n", why, drop_in_path(unit));
      CHECK_OK(write_file_durably(drop_in(unit), text, 0644));
      changed = true;
    }
    return changed ? must({"daemon-reload"}) : Result<>();
  }

  Result<> release() override {
    bool changed = false;
    for (const auto& unit : TRY(family())) {
      if (!is_held(unit)) continue;
      CHECK_OK(remove_file_durably(drop_in(unit)));
      std::error_code not_empty;
      fs::remove(drop_in(unit).parent_path(), not_empty);
      changed = true;
    }
    return changed ? must({"daemon-reload"}) : Result<>();
  }

  Result<> hold_as(const HoldFiles& files) override {
    for (const auto& unit : TRY(family())) {
      const auto found = files.find(drop_in_path(unit));
      if (found != files.end()) CHECK_OK(write_file_durably(drop_in(unit), found->second, 0644));
    }
    return must({"daemon-reload"});
  }

  Result<> enable(bool on) override { return must({on ? "enable" : "disable", unit_}); }
  Result<> stop() override { return must({"stop", "--no-block", unit_}); }
  Result<> start() override { return must({"start", "--no-block", unit_}); }

 private:
  static bool has_type(const std::string& name) {
    constexpr std::array<std::string_view, 7> kTypes{".service", ".timer", ".socket", ".path",
                                                     ".target",  ".mount", ".slice"};
    return std::ranges::any_of(kTypes, [&](std::string_view type) { return name.ends_with(type); });
  }
  static std::string of(const Properties& properties, const std::string& key) {
    const auto found = properties.find(key);
    return found == properties.end() ? "" : found->second;
  }

  static Result<Properties> show(const std::string& unit) {
    const auto exit = TRY(
        systemctl({"show", "--property=LoadState,ActiveState,UnitFileState,Type,RemainAfterExit,TriggeredBy,Triggers",
                   "--", unit}));
    if (exit.code != 0) return retry(fmt::format("systemctl show {}: {}", unit, printable(trim(exit.err))));
    Properties properties;
    for (const auto& line : split(exit.out, '\n')) {
      const auto equals = line.find('=');
      if (equals != std::string::npos) properties[line.substr(0, equals)] = line.substr(equals + 1);
    }
    return properties;
  }

  std::string unfit(const Properties& own) const {
    if (!unit_.ends_with(".service") && !unit_.ends_with(".timer"))
      return "only services and timers of systemd can be handed over";
    const auto by = of(own, "TriggeredBy");
    if (unit_.ends_with(".service") && !by.empty())
      return fmt::format("it is triggered by {}: name that one in its place", by);
    if (unit_.ends_with(".service") && of(own, "Type") == "oneshot" && of(own, "RemainAfterExit") != "yes")
      return "it is a oneshot service that nothing triggers: name what begins it";
    return "";
  }

  // The unit, and what it triggers.
  Result<std::vector<std::string>> family() {
    if (!family_.empty()) return family_;
    std::vector<std::string> units{unit_};
    const auto properties = TRY(show(unit_));
    for (const auto& unit : split(of(properties, "Triggers"), ' ')) {
      if (unit_.ends_with(".timer") && !unit.empty()) units.push_back(unit);
    }
    return family_ = units;
  }

  static std::string drop_in_path(const std::string& unit) {
    return fmt::format("/etc/systemd/system/{}.d/{}", unit, kDropIn);
  }
  fs::path drop_in(const std::string& unit) const { return root_ / drop_in_path(unit).substr(1); }
  bool is_held(const std::string& unit) const {
    std::error_code ignored;
    return fs::exists(drop_in(unit), ignored);
  }

  std::string unit_;
  fs::path root_;
  std::vector<std::string> family_;
};

}  // namespace

std::unique_ptr<Unit> systemd_unit(const std::string& name, const fs::path& root) {
  return std::make_unique<SystemdUnit>(name, root);
}

}  // namespace midstream
