// Postfix on this host, asked through its own commands. Tried with 3.7.
#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "base/result.h"
#include "movers/mail/dovecot.h"

namespace midstream::mail {

class Postfix {
 public:
  explicit Postfix(std::filesystem::path conf) : conf_(std::move(conf)) {}

  bool present() const;  // there is a main.cf
  std::filesystem::path main_cf() const { return conf_ / "main.cf"; }
  std::filesystem::path master_cf() const { return conf_ / "master.cf"; }
  // One setting, with what it refers to put in; "" where there is none of this name. All are read at once, anew whenever
  // main.cf has changed.
  Result<std::string> setting(const std::string& name, const Limits& limits) const;
  Result<std::filesystem::path> queue_directory(const Limits& limits) const;
  // Durably, and with a time that is past: a process of Postfix that finds main.cf changed within the last 2 s waits for it
  // to cool down before it reads it, lest it be half written, which it never is here.
  static Result<> write(const std::filesystem::path& file, const std::string& text);
  // Names of the transports in master.cf that deliver: those whose program is smtp, lmtp, local, virtual or pipe.
  Result<std::vector<std::string>> transports(const Limits& limits) const;
  Result<bool> running(const Limits& limits) const;
  // Where it runs. When it returns, nothing that goes by the former configuration begins a delivery.
  Result<> reload(const Limits& limits) const;
  // Delivery agents that have a message in hand, by pid: "smtp (pid 12)".
  Result<std::map<int, std::string>> deliveries(const Limits& limits) const;
  // Puts all that is queued on hold: nothing but postsuper touches it there. Safe while Postfix runs.
  Result<> hold_all(const Limits& limits) const;
  // Takes in at once what was dropped by local programs.
  Result<> pick_up(const Limits& limits) const;
  // Looks at `incoming` now.
  Result<> scan(const Limits& limits) const;
  // Tries everything that is deferred now.
  Result<> flush(const Limits& limits) const;
  // The same for messages to these recipients only. Harmless where Postfix does not run.
  Result<> flush_for(const std::vector<std::string>& users, const Limits& limits) const;

 private:
  Result<> kick(const char* service, const char* what, const Limits& limits) const;
  Result<int> master(const Limits& limits) const;  // its pid, 0 where it does not run
  Result<std::string> run(std::vector<std::string> argv, const Limits& limits) const;
  std::filesystem::path conf_;
  struct Settings {
    std::string version;  // of main.cf
    std::map<std::string, std::string> values;
  };
  mutable std::mutex mutex_;  // guards what follows
  mutable Settings settings_;
};

}  // namespace midstream::mail
