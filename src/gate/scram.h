// SCRAM-SHA-256 (RFC 5802, 7677) from both sides, as PostgreSQL speaks it. Pure.
//
// The gate proves itself twice without ever knowing a password. To it, a client proves that it has the ClientKey behind the
// stored verifier, and gives that key away in doing so (ClientProof XOR ClientSignature). With the key the gate proves itself
// to a server that has the same verifier, byte by byte: the same salt, iterations and keys.
//
// Passwords are prepared by whoever has one: the client. The gate meets only verifiers and keys, so it has no SASLprep; its
// own password (a lookup role's) must be ASCII, of which SASLprep is the identity.
#pragma once

#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "gate/secrets.h"
#include "gate/wire.h"

namespace midstream::gate {

struct ScramVerifier {
  int iterations = 0;
  std::string salt;        // base64, as it is stored and sent
  std::string stored_key;  // 32 bytes each
  Secret server_key;
};
struct Md5Verifier {
  Secret hash;  // 32 hex digits
};
// pg_authid.rolpassword; nullopt for what is neither.
using Verifier = std::variant<ScramVerifier, Md5Verifier>;
std::optional<Verifier> parse_verifier(std::string_view rolpassword);

// What logs in to a server in place of a password.
struct ScramKeys {
  Secret client_key;
  Secret server_key;
};

inline constexpr std::string_view kScram = "SCRAM-SHA-256";
inline constexpr std::string_view kScramPlus = "SCRAM-SHA-256-PLUS";

class ScramServer {
 public:
  struct Setting {
    // Without one (no such user, no password, a password of another kind) the exchange is gone through all the same, and
    // fails in the end, so that nobody learns which users there are.
    std::optional<ScramVerifier> verifier;
    std::string user;
    std::string mock_seed;  // secret of this gate: makes the salt of a user that does not exist, always the same
    std::string nonce;      // printable and random, of this exchange
    // The hash of our certificate (RFC 5929, tls-server-end-point) where the client speaks TLS with us; "" where not.
    std::string channel_binding;
  };
  explicit ScramServer(Setting setting);

  // The mechanisms to offer.
  std::vector<std::string_view> mechanisms() const;
  // The client's first message, for the mechanism that it chose: our answer, or the error to end with.
  std::expected<std::string, Fatal> first(std::string_view mechanism, std::string_view message);
  // Its last: our last answer, and then `keys()` are those of the client.
  std::expected<std::string, Fatal> last(std::string_view message);
  const ScramKeys& keys() const { return keys_; }

 private:
  std::expected<std::string_view, Fatal> channel_binding(std::string_view mechanism, std::string_view message);
  Setting setting_;
  bool doomed_ = false;
  std::string gs2_header_;
  std::string nonce_;  // the client's and ours
  std::string first_bare_;
  std::string server_first_;
  ScramKeys keys_;
};

class ScramClient {
 public:
  // With keys, or with a password (ASCII).
  ScramClient(std::variant<ScramKeys, Secret> secret, std::string nonce, std::string_view name = "");
  std::string first() const { return "n,," + first_bare_; }
  // The server's first message: our proof.
  std::expected<std::string, Fatal> proof(std::string_view server_first);
  // The server's last: whether it knows the verifier.
  std::expected<void, Fatal> check(std::string_view server_final) const;

 private:
  std::variant<ScramKeys, Secret> secret_;
  const std::string nonce_;
  std::string first_bare_;
  Secret server_signature_;
};

// The answer to an md5 challenge, from the stored hash.
std::string md5_answer(const Md5Verifier& verifier, std::string_view salt);

Fatal password_failed(std::string_view user);

}  // namespace midstream::gate
