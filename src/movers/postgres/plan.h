// What the engine desires of this mover, typed, and the names that it gives to what it makes.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace midstream::postgres {

// What pg_basebackup takes as a rate.
inline constexpr std::int64_t kLeastLimit = 32 << 10;
inline constexpr std::int64_t kMostLimit = 1 << 30;

struct End {
  std::string host;     // in the manifest
  std::string address;  // numeric, does not move
  std::uint16_t port = 5432;
};

// Where the gate runs through which clients come.
struct GateEnd {
  std::string host;     // in the manifest; "" where there is no gate
  std::string address;  // numeric: from where it connects to both servers
  bool present() const { return !host.empty(); }
};

struct Plan {
  std::string kind;
  std::string move;
  std::vector<std::string> databases;
  End old_end;
  End new_end;
  GateEnd gate;
  std::string until;  // follow: "copied" or "caught-up"
  int deadline_ms = 1000;
  std::string road = "logical";  // how the copy comes to be: "logical", "seeded" or "physical"
  std::int64_t limit = 0;        // seeded, physical: bytes a second of the base backup; 0: as fast as it goes
  std::int64_t commit_latency_ms = 0;  // what commits on old may take while it is read in bulk; 0: it is not watched
  Json raw;

  bool seeded() const { return road == "seeded"; }
  bool physical() const { return road == "physical"; }
  // New's cluster becomes a copy of old's whole one.
  bool copies_cluster() const { return seeded() || physical(); }

  // Everything of ours in a cluster carries the move's name. Cluster-wide names end in the database's number.
  std::string agent_role() const { return "midstream_" + move; }
  std::string replication_role() const { return "midstream_repl_" + move; }
  std::string probe_role() const { return "midstream_probe_" + move; }
  std::string gate_role() const { return "midstream_gate_" + move; }
  std::string fence_role(const std::string& database) const;
  std::string publication() const { return "midstream_" + move; }
  // Name and event of those that run midstream.deny_ddl().
  std::array<std::pair<std::string, std::string>, 3> event_triggers() const {
    return {{{"midstream_" + move, "ddl_command_start"}, {"midstream_end_" + move, "ddl_command_end"}, {"midstream_drop_" + move, "sql_drop"}}};
  }
  // Slot on the sending side and subscription on the receiving side of one direction share a name.
  std::string stream(const std::string& database, bool forward) const;
  // The physical slot that keeps the log for a base backup and what recovers from it; on the physical road on either side, for its standby.
  std::string seed_slot() const;
  // `database`'s place in `databases`; -1 where it is not listed.
  int number(const std::string& database) const;
};

// Refused on unknown kinds and on names that could not be used safely.
Result<Plan> parse_plan(const Json& desired, const std::string& move);

}  // namespace midstream::postgres
