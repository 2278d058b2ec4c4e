// The kernel's tables of sockets, as text in /proc/net. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace midstream {

struct SocketEntry {
  bool udp = false;
  std::string local;
  std::uint16_t port = 0;
  std::string remote;
  std::uint16_t remote_port = 0;
  bool listening = false;  // TCP: listens; UDP: has no peer
  bool established = false;
  std::uint64_t inode = 0;
};
// A table as /proc/net/{tcp,tcp6,udp,udp6} has it (proc(5)); an IPv4-mapped address is given as IPv4. Lines that are no
// sockets are skipped.
std::vector<SocketEntry> parse_sockets(std::string_view text, bool udp, bool v6);

// 4 or 16 bytes in network order, as numeric text; an IPv4-mapped address is given as IPv4.
std::string address_text(const unsigned char* bytes, bool v6);

}  // namespace midstream
