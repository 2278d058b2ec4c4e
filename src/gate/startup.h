// The packets that come before there are messages: start-up, encryption requests, cancel requests. Pure.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gate/wire.h"

namespace midstream::gate {

// What finds a session to cancel: 4 bytes of process number and as many of secret (longer from PostgreSQL 18 on).
struct CancelKey {
  std::uint32_t process = 0;
  std::string secret;
  auto operator<=>(const CancelKey&) const = default;
};

struct StartupPacket {
  enum class Kind { session, ssl, gssenc, cancel };
  Kind kind = Kind::session;
  std::uint16_t minor = 0;                                         // of session: protocol 3.minor
  std::vector<std::pair<std::string, std::string>> parameters;  // of session, in their order
  std::vector<std::string> unknown_options;                        // of session: names with _pq_. in front
  CancelKey key;                                                   // of cancel

  std::string parameter(std::string_view name) const;  // the last of that name, "" if there is none
};

// Takes one packet off the front of `bytes`; nullopt while it is not whole. A packet is at most 10,000 bytes, as with
// PostgreSQL; an error is what the client is told before the end.
std::expected<std::optional<StartupPacket>, Fatal> take_startup(std::string_view& bytes);

// True if these first bytes begin a TLS handshake without a request for one (PostgreSQL 17: sslnegotiation=direct).
bool is_direct_tls(std::string_view bytes);

std::string startup_packet(const std::vector<std::pair<std::string, std::string>>& parameters);
std::string ssl_request();
std::string cancel_request(const CancelKey& key);
std::string backend_key_data(const CancelKey& key);
// Answers a start-up that asked for more than 3.0, or for options of the protocol that we do not know.
std::string negotiate_version(const std::vector<std::string>& unknown_options);

}  // namespace midstream::gate
