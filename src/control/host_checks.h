// What is asked of the hosts beside the plan's steps: how large they are, and what of old no mover covers. Pure.
#pragma once

#include <vector>

#include "base/json.h"
#include "engine/plan.h"
#include "manifest/manifest.h"

namespace midstream {

// Steps that are only ever checked. `servers` [{address, port, by}] are HAProxy's servers on old.
std::vector<Step> host_checks(const Manifest& manifest, const Json& servers);

// The desired states whose observation tells the addresses of HAProxy's servers, one a service with traffic; `by` names
// the service for people.
struct ServersQuestion {
  std::string host;
  std::string service;
  Json desired;
};
std::vector<ServersQuestion> servers_questions(const Manifest& manifest);

}  // namespace midstream
