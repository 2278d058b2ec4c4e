#include "sys/net.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "sys/stream.h"

namespace midstream {

namespace {

using Addresses = std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)>;

Result<Addresses> resolve(const std::string& host, std::uint16_t port, int flags) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int failed = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (failed != 0) return retry(fmt::format("cannot resolve {}: {}", host, ::gai_strerror(failed)));
  return Addresses(found, &::freeaddrinfo);
}

void tune(int fd) {
  const int on = 1;
  const int seconds = 10;
  const int probes = 3;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof seconds);
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &seconds, sizeof seconds);
  ::setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof probes);
}

Result<Fd> connect_one(const addrinfo& address, Deadline deadline, const std::stop_token& stop) {
  Fd fd(::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return errno_failure("cannot make a socket", errno);
  if (::connect(fd.get(), address.ai_addr, address.ai_addrlen) != 0) {
    if (errno != EINPROGRESS) return errno_failure("cannot connect", errno);
    CHECK_OK(wait_fd(fd.get(), POLLOUT, deadline, stop));
    int failed = 0;
    socklen_t size = sizeof failed;
    ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &failed, &size);
    if (failed != 0) return errno_failure("cannot connect", failed);
  }
  tune(fd.get());
  return fd;
}

Result<sockaddr_un> unix_address(const std::filesystem::path& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.native().size() >= sizeof address.sun_path)
    return refused(fmt::format("socket path {} is too long", path.string()));
  std::strcpy(address.sun_path, path.c_str());
  return address;
}

}  // namespace

Result<Fd> connect_tcp(const std::string& host, std::uint16_t port, Deadline deadline, const std::stop_token& stop) {
  const auto addresses = TRY(resolve(host, port, 0));
  Error last{ErrorKind::retry, "no address", ""};
  for (const addrinfo* one = addresses.get(); one != nullptr; one = one->ai_next) {
    auto fd = connect_one(*one, deadline, stop);
    if (fd) return fd;
    last = fd.error();
  }
  return with_context(std::move(last), fmt::format("{} port {}", host, port));
}

Result<Fd> listen_tcp(const std::string& address, std::uint16_t port) {
  const auto addresses = TRY(resolve(address, port, AI_NUMERICHOST | AI_PASSIVE));
  Fd fd(::socket(addresses->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return errno_failure("cannot make a socket", errno);
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  if (::bind(fd.get(), addresses->ai_addr, addresses->ai_addrlen) != 0 || ::listen(fd.get(), 128) != 0) {
    return errno_failure(fmt::format("cannot listen on {} port {}", address, port), errno);
  }
  return fd;
}

Result<std::uint16_t> local_port(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0) return errno_failure("getsockname", errno);
  if (address.ss_family == AF_INET) return ntohs(reinterpret_cast<sockaddr_in&>(address).sin_port);
  return ntohs(reinterpret_cast<sockaddr_in6&>(address).sin6_port);
}

Result<Fd> connect_unix(const std::filesystem::path& path, Deadline deadline) {
  const auto address = TRY(unix_address(path));
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return errno_failure("cannot make a socket", errno);
  while (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno != EAGAIN && errno != EINTR)
      return errno_failure(fmt::format("cannot connect to {}", path.string()), errno);
    if (deadline.expired()) return retry(fmt::format("{} did not accept in time", path.string()));
    pause_for(Millis(5), {});
  }
  return fd;
}

Result<Fd> listen_unix(const std::filesystem::path& path) {
  const auto address = TRY(unix_address(path));
  Fd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return errno_failure("cannot make a socket", errno);
  ::unlink(path.c_str());
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    return errno_failure(fmt::format("cannot bind {}", path.string()), errno);
  }
  if (::chmod(path.c_str(), 0600) != 0 || ::listen(fd.get(), 64) != 0) {
    return errno_failure(fmt::format("cannot listen on {}", path.string()), errno);
  }
  return fd;
}

Result<Fd> accept_one(int listener, const std::stop_token& stop) {
  while (true) {
    auto ready = wait_fd(listener, POLLIN, Deadline::in(Millis(3'600'000)), stop);
    if (!ready && ready.error().kind == ErrorKind::retry) continue;
    CHECK_OK(ready);
    Fd fd(::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC));
    if (fd) {
      tune(fd.get());
      return fd;
    }
    const int why = errno;
    // Out of descriptors or memory for the moment: a listener that gave up here would be deaf for good.
    if (why == EMFILE || why == ENFILE || why == ENOBUFS || why == ENOMEM) {
      pause_for(Millis(50), stop);
      continue;
    }
    if (why != EAGAIN && why != EINTR && why != ECONNABORTED) return errno_failure("accept failed", why);
  }
}

}  // namespace midstream
