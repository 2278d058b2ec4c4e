#include "movers/addresses/proc.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "base/text.h"
#include "sys/fd.h"
#include "sys/file.h"

namespace midstream {
namespace {

// sys/file.h reads regular files; these have no size and some are huge.
Result<std::string> slurp(const std::string& path) {
  Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return errno_failure("reading " + path, errno);
  std::string text;
  std::vector<char> buffer(1 << 16);
  while (true) {
    const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_failure("reading " + path, errno);
    if (got == 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

template <class T>
bool hex(std::string_view text, T& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, 16);
  return error == std::errc() && end == text.data() + text.size();
}

// The kernel prints each 32-bit word of the address in the host's order.
bool parse_endpoint(std::string_view text, bool v6, TcpSocket& socket) {
  const std::size_t digits = v6 ? 32 : 8;
  if (text.size() != digits + 5 || text[digits] != ':' || !hex(text.substr(digits + 1), socket.port))
    return false;
  std::string bytes;
  for (std::size_t at = 0; at < digits; at += 8) {
    std::uint32_t word = 0;
    if (!hex(text.substr(at, 8), word)) return false;
    bytes.append(reinterpret_cast<const char*>(&word), sizeof word);
  }
  const bool mapped = v6 && bytes.starts_with(std::string_view("\0\0\0\0\0\0\0\0\0\0\xff\xff", 12));
  socket.local = *ip_from_bytes(mapped ? std::string_view(bytes).substr(12) : std::string_view(bytes));
  return true;
}

bool connects(const IpAddress& address, std::uint16_t port) {
  Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return false;
  const timeval patience{0, 200'000};  // to ourselves: the answer is immediate unless a firewall swallows it
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(port);
  std::memcpy(&to.sin_addr, address.bytes.data(), 4);
  return ::connect(fd.get(), reinterpret_cast<const sockaddr*>(&to), sizeof to) == 0;
}

Result<std::vector<TcpSocket>> tcp_sockets() {
  std::vector<TcpSocket> sockets = parse_tcp_table(TRY(slurp("/proc/thread-self/net/tcp")), false);
  if (const auto text = slurp("/proc/thread-self/net/tcp6"))  // absent where IPv6 is switched off
    for (const TcpSocket& socket : parse_tcp_table(*text, true)) sockets.push_back(socket);
  return sockets;
}

}  // namespace

std::vector<TcpSocket> parse_tcp_table(std::string_view text, bool v6) {
  std::vector<TcpSocket> sockets;
  for (const std::string& line : split(text, '\n')) {
    std::vector<std::string> words = split(line, ' ');
    std::erase(words, "");
    TcpSocket socket;
    if (words.size() < 4 || !parse_endpoint(words[1], v6, socket)) continue;
    socket.established = words[3] == "01";
    socket.listening = words[3] == "0A";
    sockets.push_back(socket);
  }
  return sockets;
}

Result<std::map<IpAddress, std::set<std::uint16_t>>> listening_ports(std::span<const IpAddress> addresses) {
  std::map<IpAddress, std::set<std::uint16_t>> ports;
  std::map<std::uint16_t, bool> dual;  // of [::] listeners
  const auto v4 = std::ranges::find(addresses, false, &IpAddress::v6);
  for (const TcpSocket& socket : TRY(tcp_sockets())) {
    if (!socket.listening) continue;
    const bool any = socket.local == IpAddress{.v6 = socket.local.v6};
    for (const IpAddress& address : addresses) {
      if (socket.local == address || (any && socket.local.v6 == address.v6))
        ports[address].insert(socket.port);
    }
    if (any && socket.local.v6 && v4 != addresses.end()) dual[socket.port] = false;
  }
  for (auto& [port, both] : dual) {
    both = connects(*v4, port);
    for (const IpAddress& address : addresses)
      if (both && !address.v6) ports[address].insert(port);
  }
  return ports;
}

Result<std::int64_t> count_flows(std::span<const IpAddress> addresses) {
  const auto ours = [&](const IpAddress& one) {
    return std::ranges::find(addresses, one) != addresses.end();
  };
  const std::vector<TcpSocket> sockets = TRY(tcp_sockets());
  const auto ended_here =
      std::ranges::count_if(sockets, [&](const TcpSocket& s) { return s.established && ours(s.local); });
  std::int64_t tracked = 0;
  if (const auto table = slurp("/proc/thread-self/net/nf_conntrack")) {
    for (const std::string& line : split(*table, '\n')) {
      const std::size_t at = line.find(" dst=");
      if (at == std::string::npos || line.find(" ESTABLISHED ") == std::string::npos) continue;
      const auto to = parse_ip(std::string_view(line).substr(at + 5, line.find(' ', at + 5) - at - 5));
      tracked += to && ours(*to);
    }
  }
  return std::max<std::int64_t>(ended_here, tracked);
}

Result<std::string> read_sysctl(const std::string& name) {
  return std::string(trim(TRY(slurp("/proc/sys/" + name))));
}

Result<> write_sysctl(const std::string& name, std::string_view value) {
  Fd fd(::open(("/proc/sys/" + name).c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd || ::write(fd.get(), value.data(), value.size()) != static_cast<ssize_t>(value.size()))
    return errno_failure(fmt::format("setting /proc/sys/{} to {}", name, value), errno);
  return {};
}

Result<bool> may_change_network() {
  for (const std::string& line : split(TRY(slurp("/proc/thread-self/status")), '\n')) {
    std::uint64_t set = 0;
    if (line.starts_with("CapEff:") && hex(trim(std::string_view(line).substr(7)), set))
      return (set >> CAP_NET_ADMIN & 1) != 0 && (set >> CAP_NET_RAW & 1) != 0;
  }
  return corrupt("/proc/thread-self/status has no CapEff line");
}

}  // namespace midstream
