#include "gate/scram.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <expected>
#include <vector>

namespace midstream::gate {

namespace {

constexpr std::size_t kKey = 32;
constexpr int kMockIterations = 4096;
constexpr std::size_t kMockSalt = 16;
constexpr int kMostIterations = 10'000'000;

using Bad = std::unexpected<Fatal>;

Bad malformed(std::string detail) { return Bad(Fatal{"08P01", "malformed SCRAM message", std::move(detail)}); }

std::string character(std::string_view at) {
  if (at.empty()) return "0x00";
  const auto c = static_cast<unsigned char>(at[0]);
  return c >= 0x21 && c <= 0x7e ? fmt::format("'{}'", at[0]) : fmt::format("0x{:02x}", c);
}

// Takes "x=value" and the comma behind it off the front.
std::expected<std::string_view, Fatal> attribute(std::string_view& input, char name) {
  if (input.empty() || input[0] != name)
    return malformed(fmt::format("Expected attribute \"{}\" but found \"{}\".", name, character(input)));
  if (input.size() < 2 || input[1] != '=') return malformed(fmt::format("Expected character \"=\" for attribute \"{}\".", name));
  const auto end = std::min(input.find(','), input.size());
  const auto value = input.substr(2, end - 2);
  input.remove_prefix(std::min(end + 1, input.size()));
  return value;
}

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// Any attribute; its name.
std::expected<char, Fatal> any_attribute(std::string_view& input, std::string_view& value) {
  if (input.empty()) return malformed("Attribute expected, but found end of string.");
  const char name = input[0];
  if (!is_letter(name)) return malformed(fmt::format("Attribute expected, but found invalid character \"{}\".", character(input)));
  auto read = attribute(input, name);
  if (!read) return Bad(read.error());
  value = *read;
  return name;
}

bool printable_nonce(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return c >= 0x21 && c <= 0x7e && c != ','; });
}

std::string exclusive_or(std::string_view a, std::string_view b) {
  std::string out(a);
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = static_cast<char>(out[i] ^ b[i]);
  return out;
}

std::optional<int> number(std::string_view text) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1 || value > kMostIterations) return std::nullopt;
  return value;
}

std::optional<Verifier> parse_scram(std::string_view text) {
  const auto colon = text.find(':');
  const auto dollar = text.find('$', std::min(colon, text.size()));
  const auto second = text.find(':', std::min(dollar, text.size()));
  if (second == std::string_view::npos) return std::nullopt;
  const auto iterations = number(text.substr(0, colon));
  const auto salt = text.substr(colon + 1, dollar - colon - 1);
  const auto stored = from_base64(text.substr(dollar + 1, second - dollar - 1));
  const auto server = from_base64(text.substr(second + 1));
  if (!iterations || !from_base64(salt) || salt.empty() || !stored || stored->size() != kKey || !server || server->size() != kKey)
    return std::nullopt;
  return ScramVerifier{*iterations, std::string(salt), *stored, Secret(*server)};
}

}  // namespace

std::optional<Verifier> parse_verifier(std::string_view text) {
  constexpr std::string_view kPrefix = "SCRAM-SHA-256$";
  if (text.starts_with(kPrefix)) return parse_scram(text.substr(kPrefix.size()));
  const auto hash = text.starts_with("md5") ? text.substr(3) : std::string_view();
  if (hash.size() != 32 || hash.find_first_not_of("0123456789abcdef") != std::string_view::npos) return std::nullopt;
  return Md5Verifier{Secret(std::string(hash))};
}

Fatal password_failed(std::string_view user) {
  return {"28P01", fmt::format("password authentication failed for user \"{}\"", user), ""};
}

std::string md5_answer(const Md5Verifier& verifier, std::string_view salt) {
  return "md5" + md5_hex(verifier.hash.bytes() + std::string(salt));
}

ScramServer::ScramServer(Setting setting) : setting_(std::move(setting)) {
  if (setting_.verifier) return;
  doomed_ = true;
  const auto salt = hmac_sha256(setting_.mock_seed, setting_.user).substr(0, kMockSalt);
  setting_.verifier = ScramVerifier{kMockIterations, to_base64(salt), std::string(kKey, '\0'), Secret(std::string(kKey, '\0'))};
}

std::vector<std::string_view> ScramServer::mechanisms() const {
  if (setting_.channel_binding.empty()) return {kScram};
  return {kScramPlus, kScram};
}

// Reads the header that says how the channel is bound; what follows it.
std::expected<std::string_view, Fatal> ScramServer::channel_binding(std::string_view mechanism, std::string_view message) {
  const bool plus = mechanism == kScramPlus;
  auto input = message;
  const char flag = input[0];
  if (flag != 'n' && flag != 'y' && flag != 'p')
    return malformed(fmt::format("Unexpected channel-binding flag \"{}\".", character(input)));
  if (flag == 'p') {
    if (!plus)
      return malformed("The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel binding data.");
    auto kind = attribute(input, 'p');
    if (!kind) return Bad(kind.error());
    if (*kind != "tls-server-end-point")
      return Bad(Fatal{"08P01", fmt::format("unsupported SCRAM channel-binding type \"{}\"", *kind), ""});
  } else {
    if (plus)
      return malformed("The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel binding data.");
    if (flag == 'y' && !setting_.channel_binding.empty())
      return Bad(Fatal{"28000", "SCRAM channel binding negotiation error",
                       "The client supports SCRAM channel binding but thinks the server does not.  "
                       "However, this server does support channel binding."});
    input.remove_prefix(1);
    if (input.empty() || input[0] != ',') return malformed(fmt::format("Comma expected, but found character \"{}\".", character(input)));
    input.remove_prefix(1);
  }
  if (!input.empty() && input[0] == 'a')
    return Bad(Fatal{"0A000", "client uses authorization identity, but it is not supported", ""});
  if (input.empty() || input[0] != ',')
    return malformed(fmt::format("Unexpected attribute \"{}\" in client-first-message.", character(input)));
  input.remove_prefix(1);
  gs2_header_ = message.substr(0, message.size() - input.size());
  return input;
}

std::expected<std::string, Fatal> ScramServer::first(std::string_view mechanism, std::string_view message) {
  const auto offered = mechanisms();
  if (std::ranges::find(offered, mechanism) == offered.end())
    return Bad(Fatal{"08P01", "client selected an invalid SASL authentication mechanism", ""});
  if (message.empty()) return malformed("The message is empty.");
  if (message.find('\0') != std::string_view::npos) return malformed("Message length does not match input length.");
  auto bare = channel_binding(mechanism, message);
  if (!bare) return Bad(bare.error());
  auto input = *bare;
  first_bare_ = input;
  if (input.starts_with('m')) return Bad(Fatal{"0A000", "client requires an unsupported SCRAM extension", ""});
  if (auto name = attribute(input, 'n'); !name) return Bad(name.error());  // PostgreSQL takes that of the start-up packet
  auto nonce = attribute(input, 'r');
  if (!nonce) return Bad(nonce.error());
  if (!printable_nonce(*nonce)) return Bad(Fatal{"08P01", "non-printable characters in SCRAM nonce", ""});
  while (!input.empty()) {
    std::string_view ignored;
    if (auto extension = any_attribute(input, ignored); !extension) return Bad(extension.error());
  }
  nonce_ = std::string(*nonce) + setting_.nonce;
  server_first_ = fmt::format("r={},s={},i={}", nonce_, setting_.verifier->salt, setting_.verifier->iterations);
  return server_first_;
}

std::expected<std::string, Fatal> ScramServer::last(std::string_view message) {
  if (message.empty()) return malformed("The message is empty.");
  if (message.find('\0') != std::string_view::npos) return malformed("Message length does not match input length.");
  auto input = message;
  auto bound = attribute(input, 'c');
  if (!bound) return Bad(bound.error());
  const bool plus = gs2_header_.starts_with('p');
  if (*bound != to_base64(gs2_header_ + (plus ? setting_.channel_binding : "")))
    return plus ? Bad(Fatal{"28000", "SCRAM channel binding check failed", ""})
                : Bad(Fatal{"08P01", "unexpected SCRAM channel-binding attribute in client-final-message", ""});
  auto nonce = attribute(input, 'r');
  if (!nonce) return Bad(nonce.error());
  std::string_view value;
  std::string_view without_proof;
  for (char name = 0; name != 'p';) {
    without_proof = message.substr(0, message.size() - input.size() - 1);
    auto next = any_attribute(input, value);
    if (!next) return Bad(next.error());
    name = *next;
  }
  const auto proof = from_base64(value);
  if (!proof || proof->size() != kKey) return malformed("Malformed proof in client-final-message.");
  if (!input.empty()) return malformed("Garbage found at the end of client-final-message.");
  if (*nonce != nonce_) return Bad(Fatal{"08P01", "invalid SCRAM response", "Nonce does not match."});

  const auto& verifier = *setting_.verifier;
  const auto exchange = first_bare_ + ',' + server_first_ + ',' + std::string(without_proof);
  Secret client_key(exclusive_or(*proof, hmac_sha256(verifier.stored_key, exchange)));
  if (!same_secret(sha256(client_key.bytes()), verifier.stored_key) || doomed_) return Bad(password_failed(setting_.user));
  keys_ = {std::move(client_key), verifier.server_key};
  return "v=" + to_base64(hmac_sha256(verifier.server_key.bytes(), exchange));
}

ScramClient::ScramClient(std::variant<ScramKeys, Secret> secret, std::string nonce, std::string_view name)
    : secret_(std::move(secret)), nonce_(std::move(nonce)), first_bare_(fmt::format("n={},r={}", name, nonce_)) {}

std::expected<std::string, Fatal> ScramClient::proof(std::string_view server_first) {
  const Bad bad(Fatal{"08P01", "malformed SCRAM message", "The server's first message cannot be read."});
  auto input = server_first;
  const auto nonce = attribute(input, 'r');
  if (!nonce || !nonce->starts_with(nonce_) || nonce->size() == nonce_.size()) return bad;
  const auto salt_text = attribute(input, 's');
  const auto iterations_text = salt_text ? attribute(input, 'i') : salt_text;
  if (!iterations_text || !input.empty()) return bad;
  const auto salt = from_base64(*salt_text);
  const auto iterations = number(*iterations_text);
  if (!salt || !iterations) return bad;
  if (const auto* password = std::get_if<Secret>(&secret_)) {
    const Secret salted(pbkdf2_sha256(password->bytes(), *salt, *iterations));
    secret_ = ScramKeys{Secret(hmac_sha256(salted.bytes(), "Client Key")), Secret(hmac_sha256(salted.bytes(), "Server Key"))};
  }
  const auto& keys = std::get<ScramKeys>(secret_);
  const auto without_proof = fmt::format("c=biws,r={}", *nonce);
  const auto exchange = first_bare_ + ',' + std::string(server_first) + ',' + without_proof;
  server_signature_ = Secret(hmac_sha256(keys.server_key.bytes(), exchange));
  const auto signature = hmac_sha256(sha256(keys.client_key.bytes()), exchange);
  return without_proof + ",p=" + to_base64(exclusive_or(keys.client_key.bytes(), signature));
}

std::expected<void, Fatal> ScramClient::check(std::string_view server_final) const {
  const auto given = server_final.starts_with("v=") ? from_base64(server_final.substr(2)) : std::nullopt;
  if (!given || server_signature_.empty() || !same_secret(*given, server_signature_.bytes()))
    return Bad(Fatal{"08P01", "the server does not know the password's verifier", ""});
  return {};
}

}  // namespace midstream::gate
