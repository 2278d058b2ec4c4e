// What a gate is told to be. Read from gate.yaml by apps/gate_config.cc; docs/formats/gate.md describes the file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "gate/rules.h"
#include "gate/secrets.h"
#include "gate/temporary.h"

namespace midstream::gate {

enum class TlsUse {
  off,
  require,      // encrypted, whoever answers
  verify_ca,    // by someone whom the CA vouches for
  verify_full,  // and whose certificate has the server's name
};

struct ServerConfig {
  std::string label;  // what it is called in answers and messages: "old", "new"; "server" where there is one
  std::string host;  // a name or a numeric address
  std::uint16_t port = 5432;
  TlsUse tls = TlsUse::off;
  std::filesystem::path ca_file;
  std::string name;  // in its certificate; default: host
};

struct Config {
  std::string listen_address;  // numeric
  std::uint16_t listen_port = 0;
  std::filesystem::path certificate_file, key_file;  // for clients; none: no TLS
  std::vector<Rule> rules;
  // One; or two, and the title in each of `databases` says which of them is its primary.
  std::vector<ServerConfig> servers;
  std::vector<std::string> databases;
  // The role that may read pg_authid, and its password (ASCII).
  std::string lookup_user, lookup_database = "postgres";
  Secret lookup_password;
  std::filesystem::path control;  // socket for `midstream gate sessions`
  std::string metrics_address;  // numeric, of the loopback; "": no HTTP
  std::uint16_t metrics_port = 0;
  TemporaryLimits temporary;
  int threads = 2;
};

}  // namespace midstream::gate
