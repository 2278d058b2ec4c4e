// Listening sockets of this network namespace, and whose they are.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace midstream {

struct ListeningSocket {
  bool udp = false;
  std::string address;  // numeric; "0.0.0.0" and "::" are any
  std::uint16_t port = 0;
  std::uint64_t inode = 0;

  bool any() const { return address == "0.0.0.0" || address == "::"; }
  bool loopback() const { return address.starts_with("127.") || address == "::1"; }
  // "127.0.0.1:6379", "[::]:80", "udp 0.0.0.0:514".
  std::string text() const;
};

// TCP sockets that listen; UDP sockets that have no peer. One a port and address.
Result<std::vector<ListeningSocket>> listening_sockets();
// The processes that hold each socket, by inode.
std::map<std::uint64_t, std::vector<pid_t>> socket_holders();
// The ports from which the kernel gives one to a client that names none.
std::pair<int, int> ephemeral_ports();

// A table as /proc/net/{tcp,tcp6,udp,udp6} has it. Pure.
std::vector<ListeningSocket> parse_socket_table(std::string_view text, bool udp, bool v6);

}  // namespace midstream
