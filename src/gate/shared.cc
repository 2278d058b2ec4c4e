#include "gate/shared.h"

#include <fmt/format.h>
#include <netdb.h>
#include <sys/random.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "gate/secrets.h"

namespace midstream::gate {

std::string random_bytes(std::size_t count) {
  std::string bytes(count, '\0');
  // Up to 256 bytes come whole and without error once the kernel has booted; without randomness nothing here is safe.
  if (::getrandom(bytes.data(), count, 0) != static_cast<ssize_t>(count)) std::abort();
  return bytes;
}

std::string random_nonce() { return to_base64(random_bytes(18)); }

Result<CancelKey> CancelKeys::issue(AtServer at_server) {
  const std::lock_guard lock(mutex_);
  for (int tries = 0; tries < 100; ++tries) {
    // As long as the server's own secret: what the client's library takes depends on the protocol that it speaks.
    CancelKey key{read_u32(random_bytes(4)) & 0x7fffffff, random_bytes(std::min<std::size_t>(at_server.key.secret.size(), 256))};
    if (keys_.try_emplace(key, Entry{at_server}).second) return key;
  }
  return retry("no free cancel key was found");
}

void CancelKeys::moved(const CancelKey& issued, AtServer at_server) {
  const std::lock_guard lock(mutex_);
  keys_[issued].at = std::move(at_server);
}

void CancelKeys::withdraw(const CancelKey& issued) {
  const std::lock_guard lock(mutex_);
  keys_.erase(issued);
}

std::optional<CancelKeys::AtServer> CancelKeys::at_server(const CancelKey& issued) {
  const std::lock_guard lock(mutex_);
  const auto it = keys_.find(issued);
  return it == keys_.end() ? std::nullopt : std::optional(it->second.at);
}

std::optional<CancelKeys::AtServer> CancelKeys::cancel(const CancelKey& issued) {
  const std::lock_guard lock(mutex_);
  const auto it = keys_.find(issued);
  if (it == keys_.end() || it->second.quiet) return std::nullopt;
  ++it->second.cancelling;
  return it->second.at;
}

void CancelKeys::cancelled(const CancelKey& issued) {
  const std::lock_guard lock(mutex_);
  if (const auto it = keys_.find(issued); it != keys_.end()) --it->second.cancelling;
}

bool CancelKeys::quiet(const CancelKey& issued, bool on) {
  const std::lock_guard lock(mutex_);
  const auto it = keys_.find(issued);
  if (it == keys_.end()) return true;
  it->second.quiet = on;
  return it->second.cancelling == 0;
}

std::optional<std::size_t> Primaries::of(const std::string& database) {
  const std::lock_guard lock(mutex_);
  const auto it = servers_.find(database);
  return it == servers_.end() ? std::nullopt : std::optional(it->second);
}

void Primaries::set(const std::string& database, std::optional<std::size_t> server) {
  const std::lock_guard lock(mutex_);
  if (server) servers_[database] = *server;
  else servers_.erase(database);
}

bool Shared::serves(const std::string& database) const {
  return !titled() || std::ranges::find(config.databases, database) != config.databases.end();
}

std::optional<std::size_t> Shared::primary(const std::string& database) {
  return titled() ? primaries.of(database) : std::optional<std::size_t>(0);
}

Result<std::vector<Address>> resolve_server(const ServerConfig& server) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  if (const int failed = ::getaddrinfo(server.host.c_str(), std::to_string(server.port).c_str(), &hints, &found); failed != 0)
    return retry(fmt::format("cannot resolve the database server {}: {}", server.host, ::gai_strerror(failed)));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owned(found, &::freeaddrinfo);
  std::vector<Address> addresses;
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    Address address{.size = one->ai_addrlen};
    std::memcpy(&address.storage, one->ai_addr, one->ai_addrlen);
    addresses.push_back(address);
  }
  return addresses;
}

}  // namespace midstream::gate
