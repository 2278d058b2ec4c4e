// Every address of every authoritative name server of a zone, and what each of them answers.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "movers/mover.h"
#include "movers/names/dns.h"

namespace midstream::dns {

// The record that a desired state is about.
struct Record {
  Endpoint primary;
  std::string zone;
  std::string name;
  Type type = Type::a;
  std::string key_file;

  std::string epoch_name() const { return "_midstream." + name; }
  // "A shop.prod.example.", for people.
  std::string text() const;
};
// Reads the common fields. `server` may be a name: the first of its addresses that is authoritative is taken.
Result<Record> read_record(const Context& context, const Json& desired);

struct NameServer {
  std::string name;
  Endpoint at;
  bool reachable = true;  // this host has a route to an address of that family
};
// From the zone's NS set as the primary gives it, and the primary itself (which may be hidden). Refused where
// a server of the set has no address, or none that this host has a route to: it could not be verified.
Result<std::vector<NameServer>> name_servers(const Context& context, const Record& record);

// What one address answers. `error` is set where it does not, or not with authority.
struct Seen {
  NameServer server;
  std::vector<std::string> values;
  std::int64_t ttl = 0;
  std::int64_t serial = 0;
  std::string error;
};
// Asks all reachable ones at once; each has at most `patience`, within the call's deadline.
std::vector<Seen> ask_all(const Context& context, const Record& record,
                          const std::vector<NameServer>& servers, Millis patience);

// "" where every reachable address gives exactly `value` (with `ttl`, unless that is negative); else who does
// not.
std::string disagreement(const std::vector<Seen>& seen, const std::string& value, std::int64_t ttl);
Json to_json(const std::vector<Seen>& seen, const std::vector<NameServer>& servers);

}  // namespace midstream::dns
