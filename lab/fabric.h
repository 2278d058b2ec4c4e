// The networks: one bridge each, in the guardian's network namespace, and one veth pair for every port of a host.
// The bridge's end of port D of host number N is called "hN.D", so that names of any length fit.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "base/result.h"
#include "lab/scenario.h"

namespace midstream::lab {

// Makes the bridges br-mgmt, br-pub and br-wan.
Result<> make_bridges();

// The bridge's end of a port of `hosts[host]`.
std::string bridge_end(std::size_t host, const std::string& device);

// The pids are those of the hosts' first processes, in our pid namespace; -1 leaves a host out. What the bridges
// still have of such a host's last life is removed.
Result<> connect_hosts(const std::vector<HostPlan>& hosts, const std::vector<pid_t>& pids);

// Takes the carrier from a port, or gives it back. Refused if the host has no such device.
Result<> set_link(const std::vector<HostPlan>& hosts, const std::string& host, const std::string& device, bool up);

}  // namespace midstream::lab
