// Who owns a database, asked of both servers: the title is the row of midstream.owner there (docs/movers/postgres.md).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stop_token>
#include <string>

#include "gate/exchange.h"
#include "gate/server_link.h"
#include "sys/clock.h"

namespace midstream::gate {

// A connection of the gate's own role to one database of one server, and blocking questions on it. Used by one thread.
class Asker {
 public:
  Asker(const Config& config, const Server& server, std::string database) : config_(config), server_(server), database_(std::move(database)) {}
  // The state in the title; "" where there is none. retry: it cannot be asked.
  Result<std::string> title(Deadline deadline, const std::stop_token& stop);
  // The first column of what a query gives.
  Result<std::vector<std::string>> ask(std::string_view sql, Deadline deadline, const std::stop_token& stop);

 private:
  Result<> connect(Deadline deadline, const std::stop_token& stop);
  const Config& config_;
  const Server& server_;
  const std::string database_;
  std::unique_ptr<ServerLink> link_;
};

// The titles of one database, from both servers at one time.
class Titles {
 public:
  Titles(const Shared& shared, const std::string& database);

  struct Found {
    // Its only owner. None: held for now, or nobody could be asked who would know.
    std::optional<std::size_t> owner;
    bool several = false;  // two say that they own it
    std::string words;     // for messages: "old: owner, new: standby"
  };
  // `patience`: with each server.
  Found look(Millis patience, const std::stop_token& stop);
  // The names that the server says its functions and policies set or read (belongings.h).
  Result<std::set<std::string>> settings(std::size_t server, Millis patience, const std::stop_token& stop);

 private:
  const Shared& shared_;
  std::vector<std::unique_ptr<Asker>> askers_;
};

}  // namespace midstream::gate
