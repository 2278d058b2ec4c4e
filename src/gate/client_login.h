// The client's way in, up to the moment where a server is needed for it: encryption, start-up packet, rules, proof of who it
// is. Sans-I/O: bytes and answers in, bytes and wishes out.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "gate/rules.h"
#include "gate/scram.h"
#include "gate/startup.h"

namespace midstream::gate {

class ClientLogin {
 public:
  struct Setting {
    const std::vector<Rule>* rules = nullptr;  // outlives this
    std::string address;                       // the client's, numeric
    bool tls_offered = false;
    std::string mock_seed;  // see ScramServer
    std::string nonce;      // printable, random, of this login
    std::string salt;       // four random bytes: an md5 challenge
  };
  // What the caller is to do once `take_output()` is sent.
  enum class Wants {
    bytes,     // more of them from the client
    tls,       // a TLS handshake as server, then tls_started(); bytes already received and not taken belong to it only if
               // it is direct, and are otherwise an attack: see `bytes_belong_to_tls()`
    verifier,  // the rolpassword of user(), then verifier_is()
    admitted,  // nothing: packet() and secret() are ready for the server
    cancel,    // to cancel whatever has packet().key, and to close
    closing,   // to close
  };

  explicit ClientLogin(Setting setting) : setting_(std::move(setting)) {}

  // Goes on with what the client sent; takes off the front what it understood.
  Wants from_client(std::string_view& bytes);
  // `certificate_hash`: of our own certificate, for channel binding; "" if there is none to be had. `alpn`: the handshake
  // agreed on the protocol "postgresql", as a direct one must.
  Wants tls_started(std::string certificate_hash, bool alpn);
  bool bytes_belong_to_tls() const { return direct_; }
  // nullopt: there is no such user, or it has no password that could be valid now.
  Wants verifier_is(const std::optional<std::string>& rolpassword);
  // What the client is told before the end, where the caller finds a reason for one.
  Wants fail(const Fatal& error);

  Wants wants() const { return wants_; }
  std::string take_output() { return std::exchange(output_, {}); }
  const StartupPacket& packet() const { return packet_; }
  const std::string& user() const { return user_; }
  const std::string& database() const { return database_; }
  bool tls() const { return tls_; }
  const std::optional<Fatal>& failure() const { return failure_; }
  // With what to log in to a server as this client.
  using Proof = std::variant<ScramKeys, Md5Verifier>;
  const Proof& proof() const { return *proof_; }

 private:
  Wants started(std::string_view& bytes);
  Wants begin(StartupPacket packet);
  Wants challenge_scram(const std::optional<Verifier>& verifier);
  Wants password_message(std::string_view body);
  Wants sasl_first(std::string_view body);
  Wants sasl_last(std::string_view body);
  Wants sasl_answer(const std::expected<std::string, Fatal>& answer, std::uint32_t code);
  Wants md5_response(std::string_view body);

  const Setting setting_;
  Wants wants_ = Wants::bytes;
  std::string output_;
  StartupPacket packet_;
  std::string user_, database_;
  std::string certificate_hash_;
  bool tls_ = false, direct_ = false, gss_asked_ = false, first_bytes_ = true, in_session_ = false, sasl_begun_ = false;
  Method method_ = Method::reject;
  std::optional<ScramServer> scram_;
  std::optional<Md5Verifier> md5_;
  std::optional<Proof> proof_;
  std::optional<Fatal> failure_;
};

}  // namespace midstream::gate
