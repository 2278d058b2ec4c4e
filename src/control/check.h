// Preconditions of a move, asked of every host, with nothing changed anywhere.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "control/link.h"
#include "control/planner.h"
#include "engine/plan.h"
#include "manifest/manifest.h"

namespace midstream {

struct Finding {
  std::string host;
  std::string what;
  bool ok = false;
  std::string detail;
  std::string todo;
};

struct CheckResult {
  std::vector<Finding> findings;  // of the manifest, then in its order of hosts, then the plan's order of steps
  PlanFacts facts;
  Manifest resolved;  // the manifest with what it leaves to the world: the addresses in use on a moving subnet
  Plan plan;          // what the findings are about

  bool ok() const;
};

// What can be said of the manifest without asking anybody; only what does not hold.
std::vector<Finding> check_manifest(const Manifest& manifest);

// Whether `address` lies in `prefix` ("192.0.2.0/26", IPv4 or IPv6).
bool within(const std::string& address, const std::string& prefix);

SshTarget ssh_target(const Manifest& manifest, const HostSpec& host);

// Whether what users could feel fits the window, with the sum and the last safe start; only where there is a window.
std::vector<Finding> check_window(const Manifest& manifest, const Plan& plan, std::int64_t now);

// Asks all hosts at once. An unreachable host is a finding, not an error. `deadline` bounds the whole; `history` is what
// steps cost in earlier moves.
Result<CheckResult> check_move(const Manifest& manifest, const std::filesystem::path& agent_binary, const Describe& describe,
                               const History& history, Deadline deadline);

Json to_json(const CheckResult& result);  // schema midstream.check/1

}  // namespace midstream
