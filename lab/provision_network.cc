#include <fmt/format.h>

#include <map>

#include "lab/provision.h"

namespace midstream::lab {

namespace {

// A device's addresses in the order in which they are brought up, and the gateways that go with the first of each
// family.
struct Device {
  std::string name;
  std::vector<std::string> addresses;  // with prefix length
  std::string gateway4, gateway6;
};

std::string stanzas(const Device& device) {
  std::string text = fmt::format("auto {}\n", device.name);
  std::string gateway4 = device.gateway4;
  std::string gateway6 = device.gateway6;
  for (const auto& address : device.addresses) {
    const bool six = address.find(':') != std::string::npos;
    std::string& gateway = six ? gateway6 : gateway4;
    text += fmt::format("iface {} inet{} static\n    address {}\n", device.name, six ? "6" : "", address);
    if (!gateway.empty()) text += fmt::format("    gateway {}\n", gateway);
    // Do not wait at boot until the kernel is through with its duplicate address detection.
    if (six) text += "    dad-attempts 0\n    accept_ra 0\n";
    gateway.clear();
  }
  return text;
}

Device wan(const std::string& last, bool router) {
  Device device{"wan0", {fmt::format("203.0.113.{}/24", last), fmt::format("2001:db8:113::{}/64", last)}, "", ""};
  if (!router) device.gateway4 = "203.0.113.1", device.gateway6 = "2001:db8:113::1";
  return device;
}

Device eth0(Role role) {
  Device device{"eth0", {}, "", ""};
  if (role == Role::edge) {
    device.addresses = {"192.0.2.1/26", "198.51.100.1/28", "2001:db8:26::1/64", "2001:db8:28::1/64"};
    return device;
  }
  const bool old_side = role == Role::old_side;
  device.gateway4 = old_side ? "192.0.2.1" : "198.51.100.1";
  device.gateway6 = old_side ? "2001:db8:26::1" : "2001:db8:28::1";
  for (const auto& address : old_side ? old_addresses() : new_addresses()) {
    const bool six = address.find(':') != std::string::npos;
    device.addresses.push_back(fmt::format("{}/{}", address, six ? 64 : old_side ? 26 : 28));
  }
  return device;
}

std::vector<Device> devices(const HostPlan& host) {
  std::vector<Device> result = {{"mgmt0", {host.mgmt + "/24"}, "", ""}};
  switch (host.role) {
    case Role::edge: result.insert(result.end(), {eth0(host.role), wan("1", true)}); break;
    case Role::old_side:
    case Role::new_side: result.push_back(eth0(host.role)); break;
    case Role::ns1: result.push_back(wan("21", false)); break;
    case Role::ns2: result.push_back(wan("22", false)); break;
    case Role::out: result.push_back(wan("50", false)); break;
    case Role::ops: break;
  }
  return result;
}

}  // namespace

void add_network(FileSet& files, const Scenario&, const HostPlan& host) {
  std::string text = "source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n";
  if (host.role == Role::edge) text += "    up sysctl -q -p /etc/sysctl.conf\n";
  for (const auto& device : devices(host)) text += "\n" + stanzas(device);
  files.file("/etc/network/interfaces", text);
  for (const char* directory : {"interfaces.d", "if-pre-up.d", "if-up.d", "if-down.d", "if-post-down.d"}) {
    files.directory(fmt::format("/etc/network/{}", directory));
  }
  files.directory("/run/network");
  if (host.role == Role::edge) {
    files.file("/etc/sysctl.conf", "net.ipv4.ip_forward = 1\nnet.ipv6.conf.all.forwarding = 1\n");
  }
  const bool outside = host.role == Role::out;
  files.file("/etc/resolv.conf", fmt::format("nameserver {}\nnameserver {}\noptions timeout:1 attempts:2\n",
                                             outside ? "203.0.113.21" : kNs1Mgmt, outside ? "203.0.113.22" : kNs2Mgmt));
}

void add_ssh(FileSet& files, const Scenario&, const HostPlan& host, const Secrets& secrets) {
  const auto& key = secrets.host_keys.at(host.name);
  files.file("/etc/ssh/ssh_host_ed25519_key", key.private_key, 0600);
  files.file("/etc/ssh/ssh_host_ed25519_key.pub", key.public_key + "\n");
  files.file("/etc/ssh/sshd_config",
             fmt::format("ListenAddress {}\nHostKey /etc/ssh/ssh_host_ed25519_key\nPermitRootLogin prohibit-password\n"
                         "PasswordAuthentication no\nUsePAM no\nUseDNS no\nPrintMotd no\nPrintLastLog no\n"
                         "MaxStartups 100:30:200\nMaxSessions 100\nSubsystem sftp internal-sftp\n",
                         host.mgmt));
  files.directory("/root/.ssh", 0700);
  files.file("/root/.ssh/authorized_keys", secrets.operator_key.public_key + "\n", 0600);
  files.service("sshd", "/usr/sbin/sshd -D -e", "mkdir -p -m 0755 /run/sshd\n");
}

}  // namespace midstream::lab
