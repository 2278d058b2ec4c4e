#include "gate/startup.h"

#include <fmt/format.h>

#include <algorithm>

namespace midstream::gate {

namespace {

constexpr std::uint32_t kLongest = 10'000;
constexpr std::uint32_t kCancel = 80877102;
constexpr std::uint32_t kSsl = 80877103;
constexpr std::uint32_t kGssenc = 80877104;

using Bad = std::unexpected<Fatal>;

Bad bad_layout() {
  return Bad(Fatal{"08P01", "invalid startup packet layout: expected terminator as last byte", ""});
}

std::expected<StartupPacket, Fatal> session(std::uint32_t version, std::string_view body) {
  if (version >> 16 != 3)
    return Bad(Fatal{"0A000", fmt::format("unsupported frontend protocol {}.{}: server supports 3.0 to 3.0", version >> 16,
                                          version & 0xffff), ""});
  StartupPacket packet{.minor = static_cast<std::uint16_t>(version & 0xffff)};
  while (!body.empty() && body[0] != '\0') {
    const auto name = take_string(body);
    const auto value = name ? take_string(body) : name;
    if (!value) return bad_layout();
    if (name->starts_with("_pq_.")) packet.unknown_options.emplace_back(*name);
    else packet.parameters.emplace_back(*name, *value);
  }
  if (body.size() != 1) return bad_layout();
  if (packet.parameter("user").empty())
    return Bad(Fatal{"28000", "no PostgreSQL user name specified in startup packet", ""});
  return packet;
}

}  // namespace

std::string StartupPacket::parameter(std::string_view name) const {
  const auto found = std::find_if(parameters.rbegin(), parameters.rend(), [&](const auto& one) { return one.first == name; });
  return found == parameters.rend() ? std::string() : found->second;
}

std::expected<std::optional<StartupPacket>, Fatal> take_startup(std::string_view& bytes) {
  if (bytes.size() < 4) return std::nullopt;
  const auto length = read_u32(bytes);
  if (length < 8 || length > kLongest) return Bad(Fatal{"08P01", "invalid length of startup packet", ""});
  if (bytes.size() < length) return std::nullopt;
  const auto version = read_u32(bytes.substr(4));
  const auto body = bytes.substr(8, length - 8);
  bytes.remove_prefix(length);
  if (version == kSsl) return StartupPacket{.kind = StartupPacket::Kind::ssl};
  if (version == kGssenc) return StartupPacket{.kind = StartupPacket::Kind::gssenc};
  if (version != kCancel) return session(version, body);
  if (body.size() < 8) return Bad(Fatal{"08P01", "invalid length of cancel request packet", ""});
  return StartupPacket{.kind = StartupPacket::Kind::cancel, .key = {read_u32(body), std::string(body.substr(4))}};
}

// A TLS record of a handshake: type 22, version 3.x. As a start-up packet its length would be beyond all bounds.
bool is_direct_tls(std::string_view bytes) { return bytes.size() >= 2 && bytes[0] == 0x16 && bytes[1] == 0x03; }

std::string startup_packet(const std::vector<std::pair<std::string, std::string>>& parameters) {
  std::string body;
  for (const auto& [name, value] : parameters) {
    body.append(name).push_back('\0');
    body.append(value).push_back('\0');
  }
  body.push_back('\0');
  std::string packet;
  append_u32(packet, static_cast<std::uint32_t>(body.size() + 8));
  append_u32(packet, 3u << 16);
  return packet + body;
}

std::string ssl_request() {
  std::string packet;
  append_u32(packet, 8);
  append_u32(packet, kSsl);
  return packet;
}

std::string cancel_request(const CancelKey& key) {
  std::string packet;
  append_u32(packet, static_cast<std::uint32_t>(12 + key.secret.size()));
  append_u32(packet, kCancel);
  append_u32(packet, key.process);
  return packet + key.secret;
}

std::string backend_key_data(const CancelKey& key) {
  std::string body;
  append_u32(body, key.process);
  return message('K', body + key.secret);
}

std::string negotiate_version(const std::vector<std::string>& unknown_options) {
  std::string body;
  append_u32(body, 0);  // the newest minor version that we speak
  append_u32(body, static_cast<std::uint32_t>(unknown_options.size()));
  for (const auto& name : unknown_options) body.append(name).push_back('\0');
  return message('v', body);
}

}  // namespace midstream::gate
