#include "gate/server_login.h"

#include <fmt/format.h>

namespace midstream::gate {

namespace {

// What a server says before the first query is small; one that says more is none.
constexpr std::uint32_t kLongestMessage = 64 * 1024;
constexpr std::size_t kLongestGreeting = 256 * 1024;

}  // namespace

ServerLogin::ServerLogin(Setting setting) : setting_(std::move(setting)), asked_tls_(setting_.tls) {
  output_ = setting_.tls ? ssl_request() : startup_packet(setting_.parameters);
}

ServerLogin::Wants ServerLogin::fail(std::string what) {
  error_ = error_message({"08006", what, ""});
  why_ = std::move(what);
  return wants_ = Wants::failed;
}

ServerLogin::Wants ServerLogin::tls_started() {
  asked_tls_ = false;
  output_ += startup_packet(setting_.parameters);
  return wants_ = Wants::bytes;
}

ServerLogin::Wants ServerLogin::from_server(std::string_view& bytes) {
  if (asked_tls_ && !bytes.empty()) {
    // Nothing may follow the letter: it would be taken for something said under encryption.
    if (bytes != "S") return fail("the database server does not offer TLS");
    bytes.remove_prefix(1);
    return wants_ = Wants::tls;
  }
  while (wants_ == Wants::bytes && bytes.size() >= kHeaderSize) {
    const char type = bytes[0];
    const auto length = read_u32(bytes.substr(1));
    if (!message_kind(Sender::server, type).known || length < 4 || length > kLongestMessage)
      return fail("the database server does not speak PostgreSQL's protocol");
    if (bytes.size() < length + 1) break;
    const auto whole = bytes.substr(0, length + 1);
    bytes.remove_prefix(length + 1);
    if (said(type, whole.substr(kHeaderSize)) == Wants::failed) break;
    if (!authenticated_ || type == 'K') continue;
    (has_key_ ? after_key_ : before_key_) += whole;
    if (before_key_.size() + after_key_.size() > kLongestGreeting) return fail("the database server says too much at the start");
  }
  return wants_;
}

ServerLogin::Wants ServerLogin::said(char type, std::string_view body) {
  switch (type) {
    case 'R': return authentication(body);
    case 'E':
      // With what came before: a client that has heard AuthenticationOk does not try again without TLS.
      why_ = error_field(body, 'M');
      error_ = before_key_ + message('E', body);
      return wants_ = Wants::failed;
    case 'N': case 'v': return wants_;
    default: break;
  }
  if (!authenticated_) return fail("the database server speaks out of turn");
  switch (type) {
    case 'S': {
      const auto name = take_string(body);
      const auto value = take_string(body);
      if (name && value) parameters_.emplace_back(*name, *value);
      return wants_;
    }
    case 'K':
      if (body.size() < 8 || has_key_) return fail("the database server's cancel key cannot be read");
      key_ = {read_u32(body), std::string(body.substr(4))};
      has_key_ = true;
      return wants_;
    case 'Z': return wants_ = Wants::ready;
    default: return fail("the database server speaks out of turn");
  }
}

ServerLogin::Wants ServerLogin::authentication(std::string_view body) {
  if (body.size() < 4 || authenticated_) return fail("the database server's authentication request cannot be read");
  const auto code = read_u32(body);
  const auto data = body.substr(4);
  switch (code) {
    case 0:
      if (scram_ && !proved_) return fail("the database server did not prove that it knows the password's verifier");
      authenticated_ = true;
      return wants_;
    case 3:
      if (const auto* password = std::get_if<Secret>(&setting_.secret)) return answer(password->bytes() + '\0');
      break;
    case 5:
      if (const auto* md5 = std::get_if<Md5Verifier>(&setting_.secret); md5 != nullptr && data.size() == 4)
        return answer(md5_answer(*md5, data) + '\0');
      break;
    case 10: return sasl(data);
    case 11: {
      auto proof = scram_ ? scram_->proof(data) : std::unexpected(Fatal{});
      if (!proof) return fail("the database server's SCRAM challenge cannot be read");
      return answer(*proof);
    }
    case 12:
      if (!scram_ || !scram_->check(data)) return fail("the database server does not know the password's verifier");
      proved_ = true;
      return wants_;
    default: break;
  }
  return fail(fmt::format("the database server asks for a proof of a kind ({}) that the gate cannot give for this user; its pg_hba.conf "
                          "must have scram-sha-256 (or md5, for a password stored so) for the gate's address", code));
}

ServerLogin::Wants ServerLogin::sasl(std::string_view names) {
  bool offered = false;
  while (const auto name = take_string(names)) offered = offered || *name == kScram;
  if (!offered || std::holds_alternative<Md5Verifier>(setting_.secret))
    return fail("the database server asks for SCRAM-SHA-256, for which there is no verifier of this user");
  if (const auto* keys = std::get_if<ScramKeys>(&setting_.secret)) scram_.emplace(*keys, setting_.nonce);
  else scram_.emplace(std::get<Secret>(setting_.secret), setting_.nonce);
  const auto first = scram_->first();
  std::string body(kScram);
  body.push_back('\0');
  append_u32(body, static_cast<std::uint32_t>(first.size()));
  return answer(body + first);
}

ServerLogin::Wants ServerLogin::answer(std::string_view body) {
  output_ += message('p', body);
  return wants_;
}

std::string ServerLogin::greeting(const CancelKey& with_key) const {
  return before_key_ + (has_key_ ? backend_key_data(with_key) : std::string()) + after_key_;
}

}  // namespace midstream::gate
