// One host's half of a unit's handover: what it does to its own supervisor and title. Every act is durable before it
// answers and harmless when repeated. The caller holds the unit's lock during an act.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>

#include "movers/hosts/hosts.h"
#include "movers/hosts/unit.h"
#include "movers/hosts/unit_set.h"
#include "movers/mover.h"
#include "movers/title.h"

namespace midstream {

class UnitSide {
 public:
  UnitSide(UnitMove move, std::string host, std::filesystem::path state, const HostsOptions& options,
           std::stop_token stop);

  // The stored title; where none is stored: owner (turn 0) on `from` while the unit runs there, else standby.
  Result<Title> title();
  Result<Json> status();

  // The taker's preparation: held here, durably, and begun with the host once it is released where `at_boot` (of the
  // other side) says so. Refused where it runs here.
  Result<Json> ready(const std::string& at_boot, const Task& task);
  // The same backwards: held only where it was held before.
  Result<Json> unready();

  // The giver's acts. yield: held, stopped, and nothing of it left, before the title is yielded; where a run does not
  // end by the deadline, the unit goes on here, and the error names the run. keep: back from half a yield.
  Result<Json> yield(std::uint64_t turn, const Task& task);
  Result<Json> keep(std::uint64_t turn, const Task& task);
  // The taker's: released and started, and seen to run. Where it does not start, it is held again and the title is
  // yielded at a higher turn.
  Result<Json> take(std::uint64_t turn, const Task& task);
  Result<Json> renounce(std::uint64_t turn, const Task& task);

  // Nothing is remembered here any more; what holds the unit stays where it is not owned.
  Result<> forget();
  // Makes the supervisor agree with the title, after a start. Returns words for the operator, or "".
  Result<std::string> recover(const Task& task);

 private:
  struct Found {  // what was there before the first act
    bool held = false;
    HoldFiles hold_files;
    bool enabled_by_us = false;
  };
  std::filesystem::path path(std::string_view suffix) const;
  Result<std::optional<Json>> load(std::string_view suffix) const;
  Result<> store_title(const Title& title, const Task& task);
  Result<> store_found(const Found& found);
  Result<Found> load_found();
  Result<Unit*> unit();
  Result<> hold_and_stop();
  Result<> release_and_start();
  // Until nothing of it runs; names what does.
  Result<> await_end();
  Result<> await_start();

  UnitMove move_;
  std::string host_;
  std::filesystem::path state_;
  const HostsOptions& options_;
  std::stop_token stop_;
  std::unique_ptr<Unit> unit_;
};

}  // namespace midstream
