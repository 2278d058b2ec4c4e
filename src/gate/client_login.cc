#include "gate/client_login.h"

#include <fmt/format.h>

#include <utility>

namespace midstream::gate {

namespace {

constexpr std::uint32_t kMd5 = 5;
constexpr std::uint32_t kSasl = 10;
constexpr std::uint32_t kSaslContinue = 11;
constexpr std::uint32_t kSaslFinal = 12;
// What PostgreSQL takes of a password, and of a message of SASL.
constexpr std::uint32_t kLongestPassword = 65'535;
constexpr std::uint32_t kLongestSasl = 1'024;

std::string authentication(std::uint32_t code, std::string_view data = "") {
  std::string body;
  append_u32(body, code);
  return message('R', body.append(data));
}

}  // namespace

ClientLogin::Wants ClientLogin::fail(const Fatal& error) {
  failure_ = error;
  output_ += error_message(error);
  return wants_ = Wants::closing;
}

ClientLogin::Wants ClientLogin::from_client(std::string_view& bytes) {
  while (wants_ == Wants::bytes && !in_session_) {
    const auto before = bytes.size();
    started(bytes);
    if (wants_ != Wants::bytes || bytes.size() == before) return wants_;
  }
  if (wants_ != Wants::bytes || bytes.size() < kHeaderSize) return wants_;
  const char type = bytes[0];
  if (type != 'p')
    return fail({"08P01", fmt::format("expected {} response, got message type {}", scram_ ? "SASL" : "password",
                                      static_cast<unsigned char>(type)), ""});
  const auto length = read_u32(bytes.substr(1));
  // PostgreSQL says no more than this of a message too long.
  if (length < 4 || length - 4 > (scram_ ? kLongestSasl : kLongestPassword)) return fail(password_failed(user_));
  if (bytes.size() < length + 1) return wants_;
  const auto body = bytes.substr(kHeaderSize, length - 4);
  bytes.remove_prefix(length + 1);
  return password_message(body);
}

ClientLogin::Wants ClientLogin::started(std::string_view& bytes) {
  if (std::exchange(first_bytes_, first_bytes_ && bytes.size() < 2) && bytes.size() >= 2 && is_direct_tls(bytes)) {
    if (!setting_.tls_offered) return wants_ = Wants::closing;
    direct_ = true;
    return wants_ = Wants::tls;
  }
  auto taken = take_startup(bytes);
  if (!taken) return fail(taken.error());
  if (!*taken) return wants_;
  auto& packet = **taken;
  switch (packet.kind) {
    case StartupPacket::Kind::ssl:
      // Asked again within TLS, or after it was turned down: a start-up packet of a version that does not exist.
      if (tls_) return fail({"0A000", "unsupported frontend protocol 1234.5679: server supports 3.0 to 3.0", ""});
      output_.push_back(setting_.tls_offered ? 'S' : 'N');
      return setting_.tls_offered ? wants_ = Wants::tls : wants_;
    case StartupPacket::Kind::gssenc:
      if (std::exchange(gss_asked_, true) || tls_)
        return fail({"0A000", "unsupported frontend protocol 1234.5680: server supports 3.0 to 3.0", ""});
      output_.push_back('N');
      return wants_;
    case StartupPacket::Kind::cancel:
      packet_ = std::move(packet);
      return wants_ = Wants::cancel;
    case StartupPacket::Kind::session: break;
  }
  return begin(std::move(packet));
}

ClientLogin::Wants ClientLogin::tls_started(std::string certificate_hash, bool alpn) {
  tls_ = true;
  certificate_hash_ = std::move(certificate_hash);
  if (direct_ && !alpn) return wants_ = Wants::closing;  // PostgreSQL 17 ends such a connection without a word
  return wants_ = Wants::bytes;
}

ClientLogin::Wants ClientLogin::begin(StartupPacket packet) {
  in_session_ = true;
  packet_ = std::move(packet);
  // PostgreSQL's names are 63 bytes at most, and it cuts these off without a word.
  user_ = packet_.parameter("user").substr(0, 63);
  database_ = packet_.parameter("database").substr(0, 63);
  if (database_.empty()) database_ = user_;
  const auto method = admit(*setting_.rules, {setting_.address, tls_, user_, database_});
  if (packet_.minor > 0 || !packet_.unknown_options.empty()) output_ += negotiate_version(packet_.unknown_options);
  if (!method) return fail(method.error());
  method_ = *method;
  return wants_ = Wants::verifier;
}

ClientLogin::Wants ClientLogin::verifier_is(const std::optional<std::string>& rolpassword) {
  auto verifier = rolpassword ? parse_verifier(*rolpassword) : std::nullopt;
  if (method_ == Method::md5 && verifier && std::holds_alternative<Md5Verifier>(*verifier)) {
    md5_ = std::get<Md5Verifier>(*verifier);
    output_ += authentication(kMd5, setting_.salt);
    return wants_ = Wants::bytes;
  }
  return challenge_scram(verifier);
}

ClientLogin::Wants ClientLogin::challenge_scram(const std::optional<Verifier>& verifier) {
  std::optional<ScramVerifier> usable;
  if (verifier && std::holds_alternative<ScramVerifier>(*verifier)) usable = std::get<ScramVerifier>(*verifier);
  scram_.emplace(ScramServer::Setting{usable, user_, setting_.mock_seed, setting_.nonce, certificate_hash_});
  std::string names;
  for (const auto name : scram_->mechanisms()) names.append(name).push_back('\0');
  output_ += authentication(kSasl, names + '\0');
  return wants_ = Wants::bytes;
}

ClientLogin::Wants ClientLogin::password_message(std::string_view body) {
  if (!scram_) return md5_response(body);
  return std::exchange(sasl_begun_, true) ? sasl_last(body) : sasl_first(body);
}

ClientLogin::Wants ClientLogin::sasl_first(std::string_view body) {
  const auto mechanism = take_string(body);
  if (!mechanism || body.size() < 4) return fail({"08P01", "invalid message format", ""});
  const auto size = read_u32(body);
  body.remove_prefix(4);
  if (size == 0xffffffff && body.empty()) {  // no initial response: an empty challenge asks for it
    sasl_begun_ = false;
    return fail({"0A000", "a SASL exchange without an initial response is not supported", ""});
  }
  if (size != body.size()) return fail({"08P01", "invalid message format", ""});
  return sasl_answer(scram_->first(*mechanism, body), kSaslContinue);
}

ClientLogin::Wants ClientLogin::sasl_last(std::string_view body) {
  sasl_answer(scram_->last(body), kSaslFinal);
  if (wants_ != Wants::bytes) return wants_;
  proof_ = scram_->keys();
  return wants_ = Wants::admitted;
}

ClientLogin::Wants ClientLogin::sasl_answer(const std::expected<std::string, Fatal>& answer, std::uint32_t code) {
  if (!answer) return fail(answer.error());
  output_ += authentication(code, *answer);
  return wants_;
}

ClientLogin::Wants ClientLogin::md5_response(std::string_view body) {
  const auto given = take_string(body);
  if (!given || !same_secret(*given, md5_answer(*md5_, setting_.salt))) return fail(password_failed(user_));
  proof_ = *md5_;
  return wants_ = Wants::admitted;
}

}  // namespace midstream::gate
