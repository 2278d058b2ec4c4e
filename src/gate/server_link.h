// A connection to the server, from the first packet to ReadyForQuery: connecting, TLS, login. Non-blocking: step() goes on as
// far as it can.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "gate/server_login.h"
#include "gate/shared.h"

namespace midstream::gate {

// Watches a socket for its session; see Worker.
using Watch = std::function<bool(int fd)>;

class ServerLink {
 public:
  enum class State { connecting, logging_in, tls, ready, failed };

  // To log in, or only to connect (a cancel request): without `login` it is ready once connected. `server` outlives it.
  ServerLink(const Server& server, std::optional<ServerLogin::Setting> login, Watch watch);
  State step();
  State state() const { return state_; }

  TlsSocket& socket() { return socket_; }
  // Another connection takes its place, which is logged in already.
  void replace(TlsSocket socket) { socket_ = std::move(socket); }
  const ServerLogin& login() const { return *login_; }
  // What came behind ReadyForQuery.
  std::string take_rest() { return std::exchange(in_, {}); }
  // For the client: a whole ErrorResponse. `why()` for the log.
  const std::string& error() const { return error_; }
  const std::string& why() const { return why_; }

 private:
  bool connect_next();
  bool check_connected();
  bool log_in();
  State fail(std::string error, std::string why);
  State unreachable(std::string why);
  const Server& server_;
  const Watch watch_;
  TlsSocket socket_;
  std::size_t tried_ = 0;
  std::optional<ServerLogin> login_;
  std::string out_, in_;
  std::string error_, why_;
  State state_ = State::connecting;
};

}  // namespace midstream::gate
