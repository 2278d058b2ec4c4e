#include "gate/server_link.h"

#include <fmt/format.h>
#include <netinet/tcp.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace midstream::gate {

namespace {

void tune(int fd) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  ::setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on);
}

}  // namespace

ServerLink::ServerLink(const Server& server, std::optional<ServerLogin::Setting> login, Watch watch)
    : server_(server), watch_(std::move(watch)) {
  if (login) {
    login->tls = server.tls.has_value();
    login_.emplace(std::move(*login));
  }
  connect_next();
}

ServerLink::State ServerLink::fail(std::string error, std::string why) {
  error_ = std::move(error);
  why_ = std::move(why);
  socket_.close();
  return state_ = State::failed;
}

ServerLink::State ServerLink::unreachable(std::string why) {
  const auto& server = server_.config;
  auto text = fmt::format("could not connect to the database server {} port {}: {}", server.host, server.port, why);
  return fail(error_message({"08006", text, ""}), text);
}

// False: there is nothing more to try, and the state says so.
bool ServerLink::connect_next() {
  int failed = EHOSTUNREACH;
  while (tried_ < server_.addresses.size()) {
    const auto& address = server_.addresses[tried_++];
    socket_ = TlsSocket(Fd(::socket(address.storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)));
    if (!socket_.open()) {
      failed = errno;
      break;
    }
    tune(socket_.fd());
    const int done = ::connect(socket_.fd(), reinterpret_cast<const sockaddr*>(&address.storage), address.size);
    if (done == 0 || errno == EINPROGRESS) {
      if (watch_(socket_.fd())) return true;
      failed = errno;
      break;
    }
    failed = errno;
  }
  unreachable(std::strerror(failed));
  return false;
}

// True: go on; false: wait, or failed.
bool ServerLink::check_connected() {
  int failed = 0;
  socklen_t size = sizeof failed;
  ::getsockopt(socket_.fd(), SOL_SOCKET, SO_ERROR, &failed, &size);
  if (failed != 0) {
    if (tried_ < server_.addresses.size()) {
      connect_next();
    } else {
      unreachable(std::strerror(failed));
    }
    return false;
  }
  sockaddr_storage peer{};
  socklen_t peer_size = sizeof peer;
  if (::getpeername(socket_.fd(), reinterpret_cast<sockaddr*>(&peer), &peer_size) != 0) return false;  // not yet
  state_ = login_ ? State::logging_in : State::ready;
  return true;
}

bool ServerLink::log_in() {
  out_ += login_->take_output();
  while (!out_.empty()) {
    std::size_t n = 0;
    const auto io = socket_.write(out_, n);
    if (io == Io::blocked) return false;
    if (io != Io::done) return unreachable("the connection was closed"), false;
    out_.erase(0, n);
  }
  const bool before_tls = server_.tls && !socket_.encrypted();
  std::array<char, 16 * 1024> bytes;
  std::size_t n = 0;
  // One byte before TLS: what follows belongs to the handshake.
  const auto io = socket_.read(std::span(bytes).first(before_tls ? 1 : bytes.size()), n);
  if (io == Io::blocked) return false;
  if (io != Io::done) return unreachable("the connection was closed"), false;
  in_.append(bytes.data(), n);
  std::string_view view = in_;
  const auto wants = login_->from_server(view);
  in_.erase(0, in_.size() - view.size());
  switch (wants) {
    case ServerLogin::Wants::bytes: return true;
    case ServerLogin::Wants::ready: state_ = State::ready; return true;
    case ServerLogin::Wants::failed:
      fail(login_->error(), login_->why());
      return false;
    case ServerLogin::Wants::tls: break;
  }
  if (const auto started = socket_.start_tls(*server_.tls, false); !started) return unreachable(started.error().what), false;
  state_ = State::tls;
  return true;
}

ServerLink::State ServerLink::step() {
  for (bool more = true; more;) {
    switch (state_) {
      case State::connecting: more = check_connected(); break;
      case State::logging_in: more = log_in(); break;
      case State::tls: {
        const auto io = socket_.handshake();
        if (io == Io::failed) unreachable("TLS: " + socket_.tls_error());
        more = io == Io::done;
        if (!more) break;
        login_->tls_started();
        state_ = State::logging_in;
        break;
      }
      case State::ready: case State::failed: return state_;
    }
  }
  return state_;
}

}  // namespace midstream::gate
