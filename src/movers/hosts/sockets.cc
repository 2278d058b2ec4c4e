#include "movers/hosts/sockets.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <cstring>

#include "base/text.h"
#include "movers/hosts/processes.h"

namespace midstream {

namespace {

template <class T>
bool hex(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return error == std::errc() && end == text.data() + text.size();
}

// The kernel prints each 32-bit word of the address in the host's order.
bool parse_endpoint(std::string_view text, bool v6, std::string& address, std::uint16_t& port) {
  const std::size_t digits = v6 ? 32 : 8;
  if (text.size() != digits + 5 || text[digits] != ':' || !hex(text.substr(digits + 1), port)) return false;
  std::array<unsigned char, 16> bytes{};
  for (std::size_t at = 0; at < digits; at += 8) {
    std::uint32_t word = 0;
    if (!hex(text.substr(at, 8), word)) return false;
    std::memcpy(bytes.data() + at / 2, &word, sizeof word);
  }
  char buffer[INET6_ADDRSTRLEN];
  ::inet_ntop(v6 ? AF_INET6 : AF_INET, bytes.data(), buffer, sizeof buffer);
  address = buffer;
  if (address.starts_with("::ffff:") && address.find('.') != std::string::npos) address = address.substr(7);
  return true;
}

}  // namespace

std::string ListeningSocket::text() const {
  const auto where = address.find(':') == std::string::npos ? address : "[" + address + "]";
  return fmt::format("{}{}:{}", udp ? "udp " : "", where, port);
}

std::vector<ListeningSocket> parse_socket_table(std::string_view text, bool udp, bool v6) {
  std::vector<ListeningSocket> sockets;
  for (const std::string& line : split(text, '\n')) {
    std::vector<std::string> words = split(line, ' ');
    std::erase(words, "");
    ListeningSocket socket{.udp = udp};
    std::string peer;
    std::uint16_t peer_port = 0;
    if (words.size() < 10 || !parse_endpoint(words[1], v6, socket.address, socket.port)) continue;
    if (!parse_endpoint(words[2], v6, peer, peer_port) || peer_port != 0) continue;
    if (words[3] != (udp ? "07" : "0A") || socket.port == 0) continue;
    socket.inode = std::strtoull(words[9].c_str(), nullptr, 10);
    sockets.push_back(std::move(socket));
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
