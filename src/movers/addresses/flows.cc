#include "movers/addresses/flows.h"

#include <fmt/format.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "sys/fd.h"

namespace midstream {
namespace {

// Whoever is on the other end may still wait for something.
constexpr std::uint32_t kOpen = 1U << TCP_ESTABLISHED | 1U << TCP_SYN_RECV | 1U << TCP_CLOSE_WAIT;

struct Request {
  nlmsghdr head;
  inet_diag_req_v2 body;
};

Result<> send_request(int fd, std::uint16_t type, std::uint16_t flags, const inet_diag_req_v2& body) {
  const Request request{{sizeof(Request), type, static_cast<std::uint16_t>(NLM_F_REQUEST | flags), 1, 0}, body};
  if (::send(fd, &request, sizeof request, 0) < 0) return errno_failure("sock_diag: send", errno);
  return {};
}

// The payloads of an answer up to its end; `code` is the error that it ended with, 0 or negative.
Result<std::vector<inet_diag_msg>> receive(int fd, int& code) {
  std::vector<inet_diag_msg> found;
  std::vector<char> buffer(1 << 16);
  while (true) {
    const ssize_t got = ::recv(fd, buffer.data(), buffer.size(), 0);
    if (got < 0) return errno_failure("sock_diag: no answer", errno);
    auto left = static_cast<unsigned>(got);
    for (auto* head = reinterpret_cast<nlmsghdr*>(buffer.data()); NLMSG_OK(head, left); head = NLMSG_NEXT(head, left)) {
      if (head->nlmsg_type == NLMSG_DONE) return code = 0, found;
      if (head->nlmsg_type == NLMSG_ERROR) {
        nlmsgerr error;
        std::memcpy(&error, NLMSG_DATA(head), sizeof error);
        return code = error.error, found;
      }
      inet_diag_msg message;
      if (head->nlmsg_len < NLMSG_LENGTH(sizeof message)) return corrupt("sock_diag: a message is cut short");
      std::memcpy(&message, NLMSG_DATA(head), sizeof message);
      found.push_back(message);
    }
  }
}

IpAddress local_of(const inet_diag_msg& socket) {
  const std::string_view bytes(reinterpret_cast<const char*>(socket.id.idiag_src),
                               socket.idiag_family == AF_INET6 ? 16 : 4);
  constexpr std::string_view kMapped("\0\0\0\0\0\0\0\0\0\0\xff\xff", 12);
  return *ip_from_bytes(bytes.starts_with(kMapped) ? bytes.substr(12) : bytes);
}

}  // namespace

Result<std::int64_t> reset_flows(std::span<const IpAddress> addresses) {
  const Fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!fd) return errno_failure("sock_diag: socket", errno);
  const timeval patience{5, 0};
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  std::int64_t reset = 0;
  for (const std::uint8_t family : {AF_INET, AF_INET6}) {
    inet_diag_req_v2 request{};
    request.sdiag_family = family;
    request.sdiag_protocol = IPPROTO_TCP;
    request.idiag_states = kOpen;
    CHECK_OK(send_request(fd.get(), SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, request));
    int code = 0;
    const auto sockets = TRY(receive(fd.get(), code));
    for (const auto& socket : sockets) {
      if (std::ranges::find(addresses, local_of(socket)) == addresses.end()) continue;
      request.id = socket.id;
      CHECK_OK(send_request(fd.get(), SOCK_DESTROY, NLM_F_ACK, request));
      TRY(receive(fd.get(), code));
      if (code == -EOPNOTSUPP) return reset;
      reset += code == 0;  // else it has ended by itself
    }
  }
  return reset;
}

}  // namespace midstream
