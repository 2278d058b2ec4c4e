// The manifest (move.yaml), typed and validated.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace midstream {

using Span = std::chrono::milliseconds;

struct HostSpec {
  std::string name;
  std::string ssh;                      // user@host as ssh(1) takes it
  std::optional<std::string> ssh_config;  // file for ssh -F
  std::string data;                     // numeric address for agent to agent and replication traffic; never one that moves;
                                        // ssh's own where that is numeric; "" if neither is: ask the host
  std::uint64_t at_least_memory = 0;    // bytes, 0: not asked
  std::uint64_t at_least_disk = 0;      // bytes free
  int at_least_cpus = 0;
  std::uint64_t at_least_inodes = 0;    // free
  double grow = 0;                      // at least so many times old's size, and room for what moves; 0: not asked
};

struct Window {
  std::vector<int> days;  // 0 = Sunday
  int from_minute = 0;    // of the day, in `zone`
  int to_minute = 0;
  std::string zone;       // IANA name
};

// New against old while traffic shifts; src/engine/guard.h judges.
struct GuardRules {
  bool enabled = true;
  double errors = 0.01;  // share of requests
  double p95 = 1.5;      // latency of new, in old's
  Span floor{20};        // latencies below are never too slow
  std::int64_t min_samples = 300;
  std::int64_t rate = 20;  // requests of our own a second, to each side
};

struct Rules {
  Span downtime{300'000};  // per service, whole move
  std::optional<Window> window;
  Span observe{7'200'000};
  Span silence{60'000};  // nobody may have talked to old for so long before it is given up
  GuardRules guard;
  std::vector<std::string> confirm;  // phases that wait for the operator's word before they begin
};

struct ProbeSpec {
  std::string kind;    // http, tcp, postgres or mail
  std::string target;  // URL, host:port, a libpq connection string without a password, or mail's doors (probe.md)
  bool write = false;  // postgres: a write path
  std::string password_file;  // on the vantage host; a libpq pass file, or mail's USER PASSWORD
  Span every{100};
  Span timeout{1'000};
};

struct ClusterSpec {
  std::string host;
  std::uint16_t port = 5432;
};

struct PostgresSpec {
  ClusterSpec old_side;
  ClusterSpec new_side;
  std::vector<std::string> databases;
  Span deadline{1'000};  // of the switch
  Span verify_age{24 * 3'600'000};  // both sides were found equal no longer before the switch
  std::string road = "logical";  // how new comes to have the rows: logical, seeded or physical
  bool sync_reverse = false;     // commits on new wait until old has them
  Span commit_latency{50};       // of old: bulk reads slow down where its commits take longer; 0: they do not
  std::uint64_t limit = 0;       // seeded: bytes a second of the base backup; 0: as fast as it goes
};

// The PostgreSQL session gate: HAProxy leads to it, and it to whichever database owns.
struct GateSpec {
  std::string host;
  std::string listen;      // ADDRESS:PORT, as HAProxy knows it
  Span close_idle{0};  // a session that does not come through the gate is closed once it was idle for so long; 0: never
};

struct TrafficSpec {
  std::string haproxy;  // host
  std::string socket = "/run/haproxy/admin.sock";
  std::string config = "/etc/haproxy/haproxy.cfg";
  std::string backend;
  std::vector<std::string> old_servers;
  std::vector<std::string> new_servers;
  std::vector<int> steps;  // percent to new, ascending, last 100; empty: the backend follows the owner by health check
  Span hold{300'000};      // at each step
  Span drain{600'000};     // deadline of the drain
};

struct NameSpec {
  std::string name;    // absolute, with the final dot
  std::string type;    // A or AAAA
  std::string server;  // the primary, as the `via` host reaches it
  std::string zone;    // absolute; derived by dropping the first label where the manifest is silent
  std::string via;     // host whose agent sends the update
  std::string key_file;  // TSIG key in BIND's format, on `via`
  std::string old_value;
  std::string new_value;
  Span ttl{60'000};  // while the move lasts
};

struct FilesSpec {
  std::string path;
  bool both_ways = false;
  std::vector<std::string> except;
};

struct MailSpec {
  std::string old_host;    // Dovecot and Postfix that are moved from
  std::string new_host;
  std::vector<int> steps;  // percent of users at home on new, ascending, last 100
};

struct ServiceSpec {
  std::string name;
  std::vector<std::string> needs;
  std::optional<ProbeSpec> probe;
  Span budget{0};  // 0: rules.downtime
  std::vector<FilesSpec> files;
  std::optional<PostgresSpec> postgres;
  std::optional<GateSpec> gate;
  std::optional<TrafficSpec> traffic;
  std::optional<MailSpec> mail;
  std::vector<NameSpec> names;
  GuardRules guard;  // rules.guard, with what this service says of it
};

struct EndSpec {
  std::string host;
  std::string dev;
};

struct SubnetSpec {
  std::string subnet;                   // "192.0.2.0/26" or an IPv6 prefix
  std::vector<std::string> addresses;   // empty: those that `from` has configured when the move is planned
  EndSpec from;
  EndSpec to;
  std::string gateway;                  // empty: none is set with the addresses
};

struct PoolSpec {
  std::string pool;       // "198.51.100.0/28"
  std::string for_host;
  bool release = false;   // at the end the names' addresses of it leave the host
};

// What must never run twice: on old until the switch, on new from there.
struct UnitSpec {
  std::string name;     // of the host's supervisor, or "cron@NAME" for /etc/cron.d/NAME
  Span deadline{30'000};  // how long a run in progress is waited for
};

struct Manifest {
  std::string move;      // plain name
  std::string old_host;  // `sides: {old: .., new: ..}`; hosts named old and new by default
  std::string new_host;
  std::string vantage;   // where probes run: `vantage:`; the host named out by default
  std::string verifier;  // third host that verifies addresses: `verifier:`; the HAProxy host by default
  std::vector<HostSpec> hosts;        // in the manifest's order
  Rules rules;
  std::vector<ServiceSpec> services;  // in the manifest's order, every service after those it needs
  std::vector<SubnetSpec> subnets;
  std::vector<PoolSpec> pools;
  std::vector<UnitSpec> units;
  std::vector<std::string> accept;    // "listen 127.0.0.1:6379": what no mover covers, accepted in writing
  std::string after_old = "fenced";   // stopped, fenced or kept
  std::vector<std::string> after_accept;  // who may still talk to old when it is given up: SOURCE, or SERVICE@SOURCE

  const HostSpec* host(std::string_view name) const;
};

// Parses and validates. An error's text is "FILE:LINE:COLUMN: what was found, what was expected[, did you mean
// ...]"; one a line, up to ten. Pure: `file` is only a name for messages.
Result<Manifest> parse_manifest(std::string_view yaml, std::string_view file);

// JSON Schema (draft 2020-12) of what parse_manifest accepts.
Json manifest_schema();

// The manifest as canonical JSON, for hashing and for the journal; no secrets are in a manifest.
Json to_json(const Manifest& manifest);

}  // namespace midstream
