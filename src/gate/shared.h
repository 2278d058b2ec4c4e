// What all sessions of a gate share. Constant while it runs, but for the registry.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "gate/config.h"
#include "gate/startup.h"
#include "gate/tls_socket.h"

namespace midstream::gate {

struct Address {
  sockaddr_storage storage{};
  socklen_t size = 0;
};

// The cancel keys that clients hold, which are ours, and those of their sessions at the server. Thread-safe.
class CancelKeys {
 public:
  // A key that nobody else holds, for a session whose key at the server is `at_server`.
  Result<CancelKey> issue(CancelKey at_server);
  void withdraw(const CancelKey& issued);
  std::optional<CancelKey> at_server(const CancelKey& issued);

 private:
  std::mutex mutex_;
  std::map<CancelKey, CancelKey> keys_;
};

struct Shared {
  Config config;
  std::vector<Address> server;  // its addresses, in the order in which they are tried
  std::optional<TlsContext> client_tls, server_tls;
  std::string mock_seed;
  CancelKeys cancel_keys;
};

// Bytes from the kernel's random source; 18 of them in printable form for a nonce.
std::string random_bytes(std::size_t count);
std::string random_nonce();

Result<std::vector<Address>> resolve_server(const ServerConfig& server);

}  // namespace midstream::gate
