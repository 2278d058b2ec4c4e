// Who may come in, from where, and how they prove who they are: what pg_hba.conf is to PostgreSQL. The first rule that fits
// decides; where none fits, the client is refused in PostgreSQL's words. Pure.
#pragma once

#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gate/wire.h"

namespace midstream::gate {

struct Network {
  std::string bytes;  // 4 or 16, in network order
  int prefix = 0;
  bool contains(std::string_view address) const;
};
// "192.0.2.0/24", "2001:db8::/32", "192.0.2.7"; nullopt for anything else.
std::optional<Network> parse_network(std::string_view text);
// A numeric address as bytes; an IPv4-mapped one as IPv4.
std::optional<std::string> parse_address(std::string_view text);

enum class Method {
  scram,   // scram-sha-256: only for users with such a verifier
  md5,     // as in PostgreSQL: SCRAM for users with a SCRAM verifier, md5 for those with an old one
  reject,
};

struct Rule {
  std::optional<bool> tls;             // only with, only without
  std::vector<std::string> databases;  // none: all
  std::vector<std::string> users;      // none: all
  std::vector<Network> from;           // none: anywhere
  Method method = Method::md5;
};

struct Visitor {
  std::string address;  // numeric
  bool tls = false;
  std::string user;
  std::string database;
};

// How the visitor must prove who it is, or what it is told.
std::expected<Method, Fatal> admit(const std::vector<Rule>& rules, const Visitor& visitor);

}  // namespace midstream::gate
