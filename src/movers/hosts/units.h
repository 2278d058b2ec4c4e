// The kinds of the mover `hosts` that concern units: unit-ready, unit and unit-end.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "movers/hosts/hosts.h"
#include "movers/hosts/unit_handover.h"
#include "movers/hosts/unit_side.h"
#include "movers/keeper.h"

namespace midstream {

// Thread-safe.
class Units {
 public:
  explicit Units(const HostsOptions& options) : options_(options) {}

  // Makes every unit of the state directory agree with its title; leases count as expired.
  void start(const Context& base);
  Result<Json> observe(const Context& context, const UnitMove& unit, std::string_view kind);
  Result<Json> apply(const Context& context, const UnitMove& unit, std::string_view kind);
  Result<Json> undo(const Context& context, const UnitMove& unit, std::string_view kind);
  Result<Json> observe_undo(const Context& context, const UnitMove& unit, std::string_view kind);
  Result<Json> check(const Context& context, const UnitMove& unit);
  Result<Json> peer(const Context& context, std::string_view verb, const Json& args);

 private:
  using Lock = std::unique_lock<std::timed_mutex>;
  Result<Lock> lock(const UnitMove& unit, Deadline deadline);
  UnitSide local(const Context& context, const UnitMove& unit) const {
    return UnitSide(unit, context.host, context.state, options_, context.stop);
  }
  // One verb on this host; the unit's lock is held by the caller where the verb changes anything.
  Result<Json> act(const Context& context, const UnitMove& unit, std::string_view verb, const Json& args);
  AskUnit ask(const Context& context, const UnitMove& unit, const std::string& host);
  Result<Json> hand(const Context& context, const UnitMove& unit, bool back);
  Result<> recover(const Context& base, const std::filesystem::path& file);
  bool end_lease(const UnitMove& unit, const Task& task, std::uint64_t turn);
  Context base() {
    const std::lock_guard guard(mutex_);
    return *base_;
  }

  const HostsOptions& options_;
  std::mutex mutex_;  // guards locks_, notes_, base_
  std::map<std::string, std::shared_ptr<std::timed_mutex>> locks_;
  std::map<std::string, std::string> notes_;  // what recovery has to tell the operator, by unit
  std::optional<Context> base_;
  Keeper keeper_;  // last: its thread uses the rest
};

}  // namespace midstream
