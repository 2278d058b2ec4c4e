#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "lab/guardian.h"

namespace midstream::lab {

Result<> send_message(int socket, const Json& message, int descriptor) {
  std::string text = message.dump();
  iovec part{text.data(), text.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  if (descriptor >= 0) {
    header.msg_control = control;
    header.msg_controllen = sizeof control;
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(rights), &descriptor, sizeof descriptor);
  }
  while (::sendmsg(socket, &header, MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) return errno_failure("cannot send to the other end of the lab's socket", errno);
  }
  return {};
}

Result<Received> receive_message(int socket) {
  std::string text(64 << 10, '\0');
  iovec part{text.data(), text.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control;
  header.msg_controllen = sizeof control;
  ssize_t got = 0;
  while ((got = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC)) < 0) {
    if (errno != EINTR) return errno_failure("cannot read from the lab's socket", errno);
  }
  if (got == 0) return failure(ErrorKind::cancelled, "the other end of the lab's socket is gone");
  Received received;
  for (cmsghdr* item = CMSG_FIRSTHDR(&header); item != nullptr; item = CMSG_NXTHDR(&header, item)) {
    if (item->cmsg_level != SOL_SOCKET || item->cmsg_type != SCM_RIGHTS) continue;
    int descriptor = -1;
    std::memcpy(&descriptor, CMSG_DATA(item), sizeof descriptor);
    received.descriptor = Fd(descriptor);
  }
  text.resize(static_cast<std::size_t>(got));
  received.message = TRY(parse_json(text));
  return received;
}

}  // namespace midstream::lab
