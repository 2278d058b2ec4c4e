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

struct Server {
  ServerConfig config;
  std::vector<Address> addresses;  // in the order in which they are tried
  std::optional<TlsContext> tls;
};

// The cancel keys that clients hold, which are ours, and those of their sessions at their servers. Thread-safe.
class CancelKeys {
 public:
  struct AtServer {
    std::size_t server = 0;  // its place in Shared::servers
    CancelKey key;
  };
  // A key that nobody else holds, for a session whose key is `at_server`.
  Result<CancelKey> issue(AtServer at_server);
  // The session has moved: the key that the client holds stays.
  void moved(const CancelKey& issued, AtServer at_server);
  void withdraw(const CancelKey& issued);
  std::optional<AtServer> at_server(const CancelKey& issued);
  // For a cancel request, until cancelled(): nullopt too while the session is `quiet`: it is at rest, and there is nothing to cancel.
  std::optional<AtServer> cancel(const CancelKey& issued);
  void cancelled(const CancelKey& issued);
  // From now on no cancel request reaches the session's server. False: one may be on its way there.
  bool quiet(const CancelKey& issued, bool on);

 private:
  std::mutex mutex_;
  struct Entry {
    AtServer at;
    int cancelling = 0;
    bool quiet = false;
  };
  std::map<CancelKey, Entry> keys_;
};

// Which server each database is served by at this instant. Thread-safe.
class Primaries {
 public:
  // nullopt: nobody knows yet, or nobody owns it: who wants it waits.
  std::optional<std::size_t> of(const std::string& database);
  void set(const std::string& database, std::optional<std::size_t> server);

 private:
  std::mutex mutex_;
  std::map<std::string, std::size_t> servers_;
};

struct Shared {
  Config config;
  std::vector<Server> servers;
  std::optional<TlsContext> client_tls;
  std::string mock_seed;
  CancelKeys cancel_keys;
  Primaries primaries;

  // The title says who serves a database; else there is one server for all.
  bool titled() const { return servers.size() > 1; }
  bool serves(const std::string& database) const;
  std::optional<std::size_t> primary(const std::string& database);
};

// Bytes from the kernel's random source; 18 of them in printable form for a nonce.
std::string random_bytes(std::size_t count);
std::string random_nonce();

Result<std::vector<Address>> resolve_server(const ServerConfig& server);

}  // namespace midstream::gate
