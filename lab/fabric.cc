#include "lab/fabric.h"

#include <fmt/format.h>

#include "base/text.h"
#include "sys/child.h"

namespace midstream::lab {

namespace {

Result<> run_batch(const std::string& commands, bool force) {
  std::vector<std::string> argv = {"ip", "-batch", "-"};
  if (force) argv.insert(argv.begin() + 1, "-force");
  const auto exit = TRY(run_child(argv, commands, Deadline::in(Millis(20'000))));
  if (exit.code != 0 && !force) return refused(fmt::format("ip: {}", trim(exit.err)));
  return {};
}

// A host keeps its hardware addresses over a reboot, as a machine does: its neighbours need not learn anything.
std::string hardware_address(std::size_t host, std::size_t port) {
  return fmt::format("02:4d:53:00:{:02x}:{:02x}", host + 1, port + 1);
}

}  // namespace

std::string bridge_end(std::size_t host, const std::string& device) { return fmt::format("h{}.{}", host, device); }

Result<> make_bridges() {
  std::string commands = "link set lo up\n";
  for (const char* network : {"mgmt", "pub", "wan"}) {
    // No snooping: it would withhold neighbour discovery where nobody plays the querier.
    commands += fmt::format("link add br-{} type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n", network);
    commands += fmt::format("link set br-{} up\n", network);
  }
  return run_batch(commands, false);
}

Result<> connect_hosts(const std::vector<HostPlan>& hosts, const std::vector<pid_t>& pids) {
  std::string remove;
  std::string add;
  for (std::size_t i = 0; i < hosts.size(); ++i) {
    if (pids[i] < 0) continue;
    for (std::size_t k = 0; k < hosts[i].ports.size(); ++k) {
      const auto& port = hosts[i].ports[k];
      const auto end = bridge_end(i, port.device);
      remove += fmt::format("link del {}\n", end);
      add += fmt::format("link add {} type veth peer name {} address {} netns {}\n", end, port.device,
                         hardware_address(i, k), pids[i]);
      add += fmt::format("link set {} master br-{} up\n", end, port.network);
    }
  }
  CHECK_OK(run_batch(remove, true));
  return run_batch(add, false);
}

Result<> set_link(const std::vector<HostPlan>& hosts, const std::string& host, const std::string& device, bool up) {
  for (std::size_t i = 0; i < hosts.size(); ++i) {
    if (hosts[i].name != host) continue;
    for (const auto& port : hosts[i].ports) {
      if (port.device == device) {
        return run_batch(fmt::format("link set {} {}\n", bridge_end(i, device), up ? "up" : "down"), false);
      }
    }
    return refused(fmt::format("host {} has no device {}", host, printable(device)));
  }
  return refused(fmt::format("the lab has no host {}", printable(host)));
}

}  // namespace midstream::lab
