// The gate's way into a server, as the client whose proof it holds. Sans-I/O.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "gate/scram.h"
#include "gate/startup.h"

namespace midstream::gate {

class ServerLogin {
 public:
  using Secrets = std::variant<ScramKeys, Md5Verifier, Secret>;  // Secret: a password, for a role of the gate's own
  struct Setting {
    std::vector<std::pair<std::string, std::string>> parameters;  // of the start-up packet
    Secrets secret;
    std::string nonce;  // printable, random, of this login
    bool tls = false;   // required; the caller verifies whom it talks to
  };
  enum class Wants {
    bytes,
    tls,     // a handshake as client, then tls_started()
    ready,   // nothing: the server waits for the first query
    failed,  // to close; error() is what the client is told
  };

  explicit ServerLogin(Setting setting);

  Wants from_server(std::string_view& bytes);
  Wants tls_started();
  Wants wants() const { return wants_; }
  std::string take_output() { return std::exchange(output_, {}); }

  // Everything that the server sent from AuthenticationOk to ReadyForQuery, without its cancel key: `with_key` stands in its
  // place. May be asked for once ready.
  std::string greeting(const CancelKey& with_key) const;
  const CancelKey& key() const { return key_; }
  const std::vector<std::pair<std::string, std::string>>& parameters() const { return parameters_; }
  // An ErrorResponse, the server's own where there was one, with what it said before; and its message alone.
  const std::string& error() const { return error_; }
  const std::string& why() const { return why_; }

 private:
  Wants said(char type, std::string_view body);
  Wants authentication(std::string_view body);
  Wants sasl(std::string_view names);
  Wants answer(std::string_view body);
  Wants fail(std::string what);
  Setting setting_;
  Wants wants_ = Wants::bytes;
  std::string output_;
  std::string before_key_, after_key_;
  bool asked_tls_ = false, authenticated_ = false, has_key_ = false, proved_ = false;
  std::optional<ScramClient> scram_;
  CancelKey key_;
  std::vector<std::pair<std::string, std::string>> parameters_;
  std::string error_, why_;
};

}  // namespace midstream::gate
