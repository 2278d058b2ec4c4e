#include "movers/hosts/sockets.h"

#include <dirent.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/text.h"
#include "movers/hosts/processes.h"
#include "sys/sockets.h"

namespace midstream {

std::string ListeningSocket::text() const {
  const auto where = address.find(':') == std::string::npos ? address : "[" + address + "]";
  return fmt::format("{}{}:{}", udp ? "udp " : "", where, port);
}

std::vector<ListeningSocket> parse_socket_table(std::string_view text, bool udp, bool v6) {
  std::vector<ListeningSocket> sockets;
  for (auto& entry : parse_sockets(text, udp, v6)) {
    if (!entry.listening || entry.remote_port != 0 || entry.port == 0) continue;
    sockets.push_back({.udp = udp, .address = std::move(entry.local), .port = entry.port, .inode = entry.inode});
  }
  return sockets;
}

Result<std::vector<ListeningSocket>> listening_sockets() {
  std::vector<ListeningSocket> all;
  for (const bool udp : {false, true}) {
    for (const bool v6 : {false, true}) {
      const auto text = read_kernel_file(fmt::format("/proc/thread-self/net/{}{}", udp ? "udp" : "tcp", v6 ? "6" : ""));
      if (!text && !v6) return std::unexpected(text.error());
      if (!text) continue;  // IPv6 is switched off
      for (auto& socket : parse_socket_table(*text, udp, v6)) {
        const auto same = [&](const ListeningSocket& one) { return one.text() == socket.text(); };
        if (std::ranges::none_of(all, same)) all.push_back(std::move(socket));
      }
    }
  }
  return all;
}

std::map<std::uint64_t, std::vector<pid_t>> socket_holders() {
  std::map<std::uint64_t, std::vector<pid_t>> holders;
  for (const auto& [pid, process] : processes()) {
    const auto path = fmt::format("/proc/{}/fd", pid);
    DIR* directory = ::opendir(path.c_str());
    if (directory == nullptr) continue;
    while (const dirent* entry = ::readdir(directory)) {
      char target[64];
      const ssize_t size = ::readlink(fmt::format("{}/{}", path, entry->d_name).c_str(), target, sizeof target - 1);
      if (size <= 8 || std::strncmp(target, "socket:[", 8) != 0) continue;
      target[size] = '\0';
      holders[std::strtoull(target + 8, nullptr, 10)].push_back(pid);
    }
    ::closedir(directory);
  }
  return holders;
}

std::pair<int, int> ephemeral_ports() {
  const auto text = read_kernel_file("/proc/sys/net/ipv4/ip_local_port_range").value_or("32768 60999");
  int least = 32'768;
  int most = 60'999;
  if (std::sscanf(text.c_str(), "%d %d", &least, &most) != 2) return {32'768, 60'999};
  return {least, most};
}

}  // namespace midstream
