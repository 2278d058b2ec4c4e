#include "lab/relay.h"

#include <fmt/format.h>
#include <arpa/inet.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstdio>
#include <deque>
#include <vector>

#include "base/text.h"
#include "sys/child.h"
#include "sys/fd.h"

namespace midstream::lab {

namespace {

constexpr std::size_t kMostFrames = 20'000;
constexpr std::size_t kLargestFrame = 70'000;  // with what the kernel left to a network card to cut

struct Frame {
  std::chrono::nanoseconds due;
  std::vector<char> bytes;
};

struct Side {
  Fd socket;
  std::deque<Frame> out;  // to be sent here, the earliest first
};

Result<> run_ip(const std::string& commands) {
  const auto exit = TRY(run_child({"ip", "-batch", "-"}, commands, Deadline::in(Millis(10'000))));
  if (exit.code != 0) return refused(fmt::format("ip: {}", trim(exit.err)));
  return {};
}

// Frames with what is still to be done to them (checksums, cutting), so that they can be passed on as they are.
Result<Fd> open_device(const std::string& device) {
  Fd fd(::socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, htons(ETH_P_ALL)));
  if (!fd) return errno_failure("cannot open a packet socket", errno);
  const int on = 1, room = 16 << 20;
  sockaddr_ll address{};
  address.sll_family = AF_PACKET;
  address.sll_protocol = htons(ETH_P_ALL);
  address.sll_ifindex = static_cast<int>(::if_nametoindex(device.c_str()));
  packet_mreq all{};
  all.mr_ifindex = address.sll_ifindex;
  all.mr_type = PACKET_MR_PROMISC;
  if (::setsockopt(fd.get(), SOL_PACKET, PACKET_VNET_HDR, &on, sizeof on) != 0 ||
      ::setsockopt(fd.get(), SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof on) != 0 ||
      ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof room) != 0 ||
      ::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0 ||
      ::setsockopt(fd.get(), SOL_PACKET, PACKET_ADD_MEMBERSHIP, &all, sizeof all) != 0)
    return errno_failure(fmt::format("cannot listen on {}", device), errno);
  return fd;
}

Result<> read_frames(Side& from, Side& to, Millis delay) {
  static thread_local std::vector<char> buffer(kLargestFrame);
  for (;;) {
    const auto n = ::recv(from.socket.get(), buffer.data(), buffer.size(), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return {};
    if (n < 0) return errno_failure("a relayed port is gone", errno);
    if (to.out.size() < kMostFrames) to.out.push_back({boot_now() + delay, {buffer.begin(), buffer.begin() + n}});
  }
}

// A frame that the other end does not take is lost, as on a wire.
void send_due(Side& side) {
  while (!side.out.empty() && side.out.front().due <= boot_now()) {
    (void)::send(side.socket.get(), side.out.front().bytes.data(), side.out.front().bytes.size(), 0);
    side.out.pop_front();
  }
}

timespec until_due(const Side& one, const Side& other) {
  auto left = std::chrono::nanoseconds(std::chrono::seconds(1));
  for (const auto* side : {&one, &other})
    if (!side->out.empty()) left = std::min(left, side->out.front().due - boot_now());
  left = std::max(left, std::chrono::nanoseconds(0));
  return {left.count() / 1'000'000'000, left.count() % 1'000'000'000};
}

}  // namespace

Result<> relay(const std::string& port, const std::string& bridge, Millis delay) {
  const auto inner = "far-" + port, outer = inner + "b";
  CHECK_OK(run_ip(fmt::format("link set {0} nomaster\nlink add {1} type veth peer name {2}\nlink set {2} master {3} up\nlink set {1} up\n", port, inner,
                              outer, bridge)));
  Side host{TRY(open_device(port)), {}}, network{TRY(open_device(inner)), {}};
  fmt::print("relaying\n");
  std::fflush(stdout);
  for (;;) {
    pollfd polled[2] = {{host.socket.get(), POLLIN, 0}, {network.socket.get(), POLLIN, 0}};
    const auto left = until_due(host, network);
    if (::ppoll(polled, 2, &left, nullptr) < 0 && errno != EINTR) return errno_failure("cannot wait for frames", errno);
    CHECK_OK(read_frames(host, network, delay));
    CHECK_OK(read_frames(network, host, delay));
    send_due(host);
    send_due(network);
  }
}

}  // namespace midstream::lab
