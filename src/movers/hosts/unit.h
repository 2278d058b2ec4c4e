// One thing that this host runs by itself and that must never run twice: a service or timer of systemd, a service of
// a service directory, a job of cron. What the host has decides which of them a name means.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace midstream {

// What holds a unit on this host: each file, by its path, with its bytes.
using HoldFiles = std::map<std::string, std::string>;

struct UnitState {
  bool known = false;                  // the host has such a unit
  bool held = false;                   // hold() is in force
  HoldFiles hold_files;                // what holds it
  bool running = false;                // it works, or will begin by itself: a service that is up, a timer that waits
  std::vector<std::string> processes;  // of a run in progress: "4711 (invoices)"
  std::string supervisor;              // "systemd", "/etc/service", "cron"
  std::string at_boot;  // systemd: "enabled", "disabled", "static" ...; "" where nothing but hold() counts
  std::string unfit;    // why it cannot be held or started on one side only; "" where it can
};

// Every act is idempotent and durable when it returns. Not thread-safe.
class Unit {
 public:
  virtual ~Unit() = default;
  virtual Result<UnitState> state() = 0;
  // From here on nothing starts it on this host, over every reboot; what runs goes on. `why` is for whoever finds it
  // held.
  virtual Result<> hold(std::string_view why) = 0;
  // What hold() did is taken back; does not start it.
  virtual Result<> release() = 0;
  // Held by just these files of an earlier state, byte for byte.
  virtual Result<> hold_as(const HoldFiles& files) = 0;
  // Whether it begins with the host, as far as hold() lets it.
  virtual Result<> enable(bool on) = 0;
  // Asks what runs to end, and does not wait for it. A run that a timer or cron began is left to end by itself.
  virtual Result<> stop() = 0;
  // Starts it, or what starts it in time. Released before.
  virtual Result<> start() = 0;
};

// The unit `name` of this host; `root` is "/" outside of tests. Refused where the host runs nothing that could have
// one.
Result<std::unique_ptr<Unit>> find_unit(const std::string& name, const std::filesystem::path& root);

std::unique_ptr<Unit> systemd_unit(const std::string& name, const std::filesystem::path& root);
std::unique_ptr<Unit> directory_unit(const std::string& name, const std::filesystem::path& root);

}  // namespace midstream
