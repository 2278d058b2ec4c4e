// What a lab environment is made of, as data. Every name that midstream could wrongly take for granted (hosts,
// services, databases, backends, zones, paths) stands here; the addresses are the same in every scenario, because
// each lab has its own network namespaces.
#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace midstream::lab {

enum class Role { edge, old_side, new_side, ns1, ns2, out, ops };
std::string_view to_string(Role role);

// One end of a host in a network.
struct Port {
  std::string device;   // in the host
  std::string network;  // mgmt, pub or wan
};

struct HostPlan {
  Role role;
  std::string name;
  std::string mgmt;         // its address in 10.77.0.0/24
  std::vector<Port> ports;  // mgmt0 first
  int image_mib = 128;
};

struct Scenario {
  std::string name;
  bool fast = false;  // short holds, TTLs and observation, for tests
  bool mail = false;  // mail is a service of the move, and has users
  bool seeded = false;  // the database goes by the seeded road
  std::string edge, old_host, new_host, ns1, ns2, out, ops;  // host names

  std::string web_service, db_service;  // as the manifest names them
  std::string database;
  std::string app_role, probe_role;
  std::string web_backend, db_backend;                   // HAProxy's names
  std::vector<std::string> web_old, web_new;             // two servers each
  std::string db_old, db_new;
  std::string db_gate;                                   // the gate's server; "": there is no gate
  std::vector<std::string> app_services;                 // two instances, on :8081 and :8082
  std::string zone;                                      // absolute
  std::string web_name, db_name;                         // absolute, in the zone
  std::string tsig_key;                                  // the key's name
  std::string mail_service;                              // as the manifest names it
  std::string mail_domain;                               // without the dot at its end
  std::string mx_name, imap_name;                        // absolute; both lead to kMailAddress
  std::vector<std::string> mail_users;                   // local parts
  std::string mail_probe;                                // the account of the probes, a local part
  std::string sink_domain;                               // absolute: mail for the rest of the world, taken by out
  std::string unit;                                      // what must never run twice
  std::string tree;                                      // the application's files

  int zone_ttl() const { return fast ? 5 : 30; }  // seconds, as the zone has it before the move
  int move_ttl() const { return fast ? 2 : 5; }   // while the move lasts
  // Every host in the order in which a person would list them.
  std::vector<HostPlan> hosts() const;
  const std::string& host(Role role) const;
};

// "demo" or "other"; refused with the names there are otherwise.
Result<Scenario> find_scenario(std::string_view name, bool fast);

// The names above, for tools in other languages and for `midstream-lab hosts --json`.
Json to_json(const Scenario& scenario);

// Addresses that the parts share.
inline constexpr std::string_view kEdgeMgmt = "10.77.0.1";
inline constexpr std::string_view kOldMgmt = "10.77.0.11";
inline constexpr std::string_view kNewMgmt = "10.77.0.12";
inline constexpr std::string_view kNs1Mgmt = "10.77.0.21";
inline constexpr std::string_view kNs2Mgmt = "10.77.0.22";
inline constexpr std::string_view kOutMgmt = "10.77.0.50";
inline constexpr std::string_view kOpsMgmt = "10.77.0.60";

inline constexpr std::string_view kGateListen = "127.0.0.1:6432";  // on edge
inline constexpr std::string_view kMailAddress = "192.0.2.25";   // of old's /26: mail comes in and goes out by it
inline constexpr std::string_view kSinkAddress = "203.0.113.50";  // out's

// The addresses on eth0 of the old and of the new side, without prefix length.
std::vector<std::string> old_addresses();  // 192.0.2.10 .. .33, 2001:db8:26::10
std::vector<std::string> new_addresses();  // 198.51.100.10, .11, 2001:db8:28::10

// What the vanity names point to before and after.
struct NameTargets {
  std::string web4_old = "192.0.2.10", web4_new = "198.51.100.10";
  std::string web6_old = "2001:db8:26::10", web6_new = "2001:db8:28::10";
  std::string db4_old = "192.0.2.11", db4_new = "198.51.100.11";
};

}  // namespace midstream::lab
