// What the kernel tells and takes through /proc, of the calling thread's network namespace.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "movers/addresses/ip.h"

namespace midstream {

struct TcpSocket {
  IpAddress local;  // an IPv4-mapped IPv6 address is given as IPv4
  std::uint16_t port = 0;
  bool listening = false;
  bool established = false;
};
// The text of /proc/net/tcp or tcp6 (proc(5)). Lines that are not sockets are skipped. Pure.
std::vector<TcpSocket> parse_tcp_table(std::string_view text, bool v6);

// For each address the TCP ports that answer on it, wildcard listeners included. Whether a listener on [::]
// takes IPv4 too is found by connecting to it from here.
Result<std::map<IpAddress, std::set<std::uint16_t>>> listening_ports(std::span<const IpAddress> addresses);

// Established TCP connections that end at one of `addresses` here, or, where connection tracking is readable
// and knows of more, that pass through.
Result<std::int64_t> count_flows(std::span<const IpAddress> addresses);

// /proc/sys/<name>, e.g. "net/ipv4/conf/all/arp_ignore". Not there: refused.
Result<std::string> read_sysctl(const std::string& name);
Result<> write_sysctl(const std::string& name, std::string_view value);

// Whether this thread may change addresses and open packet sockets (CAP_NET_ADMIN, CAP_NET_RAW).
Result<bool> may_change_network();

}  // namespace midstream
