// What this host keeps about a seed under way, and its figures.
#pragma once

#include <atomic>
#include <optional>
#include <string>

#include "movers/postgres/cluster.h"
#include "movers/postgres/manners.h"
#include "movers/postgres/seed_place.h"
#include "movers/postgres/server_unit.h"

namespace midstream::postgres {

struct SeedNote {
  std::string stage = "backup";
  int round = 1;
  std::string why;    // why it was begun again; "" in round 1
  std::string lost;   // why it does not go on by itself
  std::string point;  // of the slots: everything from there on comes by them
  int starts = 0;     // how often the server on the copy was started in this round
  int major = 0;
  std::filesystem::path data;
  ServerUnit unit;

  static std::filesystem::path path(const Work& work);
  static Result<std::optional<SeedNote>> load(const Work& work);
  Result<> save(const Work& work) const;
  static Result<> remove(const Work& work);
  SeedPlace place(const Work& work) const;
};

// Thread-safe figures of a base backup under way.
struct SeedFigures {
  std::atomic<std::int64_t> bytes_done = 0;
  std::atomic<std::int64_t> bytes_total = 0;
  std::atomic<std::int64_t> began_ms = 0;    // boot clock, of this agent's first look at it
  std::atomic<std::int64_t> began_done = 0;  // and what was there then
  MannersFigures manners;
};

}  // namespace midstream::postgres
