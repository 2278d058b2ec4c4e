// Postfix on this host, asked through its own commands. Tried with 3.7.
#pragma once

#include <filesystem>
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
  // One setting, with what it refers to put in.
  Result<std::string> setting(const std::string& name, const Limits& limits) const;
  Result<std::filesystem::path> queue_directory(const Limits& limits) const;
  // Names of the transports in master.cf that deliver: those whose program is smtp, lmtp, local, virtual or pipe.
  Result<std::vector<std::string>> transports(const Limits& limits) const;
  Result<bool> running(const Limits& limits) const;
  // Where it runs. When it returns, nothing that goes by the former configuration begins a delivery.
  Result<> reload(const Limits& limits) const;
  // Delivery agents that have a message in hand: "smtp (pid 12)".
  Result<std::vector<std::string>> deliveries(const Limits& limits) const;
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
  Result<int> master(const Limits& limits) const;  // its pid, 0 where it does not run
  Result<std::string> run(std::vector<std::string> argv, const Limits& limits) const;
  std::filesystem::path conf_;
};

}  // namespace midstream::mail
