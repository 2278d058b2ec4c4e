#include "movers/addresses/wire.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "movers/addresses/netlink.h"
#include "sys/stream.h"

namespace midstream {
namespace {

constexpr Millis kPace{1};

// ARP, and IPv6 that is a neighbour solicitation or advertisement; the rest never leaves the kernel.
Result<> attach_filter(int fd) {
  std::array<sock_filter, 9> code{{
      {BPF_LD | BPF_H | BPF_ABS, 0, 0, 12},
      {BPF_JMP | BPF_JEQ | BPF_K, 5, 0, ETH_P_ARP},
      {BPF_JMP | BPF_JEQ | BPF_K, 0, 5, ETH_P_IPV6},
      {BPF_LD | BPF_B | BPF_ABS, 0, 0, 20},
      {BPF_JMP | BPF_JEQ | BPF_K, 0, 3, 58},
      {BPF_LD | BPF_B | BPF_ABS, 0, 0, 54},
      {BPF_JMP | BPF_JGE | BPF_K, 0, 1, 135},
      {BPF_RET | BPF_K, 0, 0, 2048},
      {BPF_RET | BPF_K, 0, 0, 0},
  }};
  const sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  if (::setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0)
    return errno_failure("packet socket: filter", errno);
  return {};
}

}  // namespace

Result<Wire> Wire::open(const std::string& dev) {
  Netlink netlink = TRY(Netlink::open());
  const Link link = TRY(netlink.link(dev));
  Fd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return errno_failure("packet socket", errno);
  CHECK_OK(attach_filter(fd.get()));
  const int on = 1;
  ::setsockopt(fd.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on);
  sockaddr_ll where{};
  where.sll_family = AF_PACKET;
  where.sll_protocol = htons(ETH_P_ALL);
  where.sll_ifindex = static_cast<int>(link.index);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&where), sizeof where) < 0)
    return errno_failure("packet socket on " + dev, errno);
  return Wire(std::move(fd), link.mac);
}

Result<> Wire::send(std::string_view frame) {
  for (int attempt = 0; attempt < 50; ++attempt) {
    if (::send(fd_.get(), frame.data(), frame.size(), 0) >= 0) return {};
    if (errno != EAGAIN && errno != ENOBUFS && errno != EINTR) break;
    pollfd ready{fd_.get(), POLLOUT, 0};
    ::poll(&ready, 1, 1);
  }
  return errno_failure("sending a frame", errno);
}

void Wire::hear(Millis span, std::span<const IpAddress> addresses, std::vector<Claim>& claims,
                const std::stop_token& stop) {
  const Deadline until = Deadline::in(span);
  std::array<char, 2048> buffer;
  while (!until.expired() && !stop.stop_requested()) {
    const ssize_t got = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (got < 0) {
      pollfd ready{fd_.get(), POLLIN, 0};
      ::poll(&ready, 1, static_cast<int>(until.remaining().count()));
      if (errno != EAGAIN && errno != EINTR) return;
      continue;
    }
    const auto claim = parse_claim({buffer.data(), static_cast<std::size_t>(got)});
    if (claim && claim->mac != mac_ && std::ranges::find(addresses, claim->address) != addresses.end())
      claims.push_back(*claim);
  }
}

Result<std::vector<Claim>> Wire::ask(std::span<const IpAddress> addresses, Asking asking,
                                     const std::stop_token& stop) {
  std::vector<Claim> claims;
  for (int round = 0; round < asking.rounds; ++round) {
    for (const IpAddress& address : addresses) CHECK_OK(send(probe_frame(mac_, address)));
    hear(round + 1 < asking.rounds ? asking.gap : asking.tail, addresses, claims, stop);
  }
  if (stop.stop_requested())
    return failure(ErrorKind::cancelled, "asked to stop while probing for the addresses");
  std::ranges::sort(claims);
  claims.erase(std::ranges::unique(claims).begin(), claims.end());
  return claims;
}

Result<std::vector<std::chrono::nanoseconds>> Wire::announce(std::span<const IpAddress> addresses,
                                                             bool router, std::span<const Claim> neighbours,
                                                             const std::stop_token& stop) {
  std::vector<std::chrono::nanoseconds> said;
  for (const IpAddress& address : addresses) {
    if (!said.empty() && !pause_for(kPace, stop))
      return failure(ErrorKind::cancelled, "asked to stop while announcing");
    for (const std::string& frame : announcement_frames(mac_, address, router)) CHECK_OK(send(frame));
    said.push_back(boot_now());
    for (const Claim& neighbour : neighbours)
      if (neighbour.address.v6 == address.v6)
        CHECK_OK(send(directed_frame(mac_, address, router, neighbour.mac, neighbour.address)));
  }
  return said;
}

}  // namespace midstream
