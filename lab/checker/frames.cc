#include "lab/checker/frames.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <cstdint>
#include <cstring>

namespace midstream::lab {
namespace {

constexpr std::size_t kEthernet = 14;
constexpr std::size_t kIpv6 = 40;
constexpr unsigned char kArpRequest = 1;
constexpr unsigned char kArpReply = 2;
constexpr unsigned char kSolicitation = 135;
constexpr unsigned char kAdvertisement = 136;

unsigned char byte(std::string_view bytes, std::size_t at) {
  return static_cast<unsigned char>(bytes[at]);
}

std::string mac_text(std::string_view bytes) {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", byte(bytes, 0), byte(bytes, 1),
                     byte(bytes, 2), byte(bytes, 3), byte(bytes, 4), byte(bytes, 5));
}

std::string address_text(std::string_view bytes) {
  char text[INET6_ADDRSTRLEN];
  return ::inet_ntop(bytes.size() == 4 ? AF_INET : AF_INET6, bytes.data(), text, sizeof text);
}

bool all_zero(std::string_view bytes) {
  return bytes.find_first_not_of('\0') == std::string_view::npos;
}

Spoken parse_arp(std::string_view arp) {
  static constexpr std::string_view kEthernetIpv4("\x00\x01\x08\x00\x06\x04", 6);
  if (arp.size() < 28 || !arp.starts_with(kEthernetIpv4)) return {};
  const unsigned operation = byte(arp, 7);
  const auto sender_mac = arp.substr(8, 6);
  const auto sender = arp.substr(14, 4);
  const auto target_mac = arp.substr(18, 6);
  const auto target = arp.substr(24, 4);
  if (operation != kArpRequest && operation != kArpReply) return {};
  const bool announcement = sender == target;
  Spoken out;
  if (!all_zero(sender)) {
    out.claim = Claim{address_text(sender), mac_text(sender_mac), "arp-request", ""};
    if (operation == kArpReply) out.claim->how = "arp-reply";
    if (announcement) out.claim->how = "arp-announce";
    if (operation == kArpReply && !announcement) out.claim->to = mac_text(target_mac);
  }
  if (operation == kArpRequest && !announcement)
    out.question = Question{address_text(target), mac_text(sender_mac)};
  return out;
}

// The link-layer address option of `type`, or "".
std::string_view option_of(std::string_view options, unsigned char type) {
  while (options.size() >= 8 && byte(options, 1) > 0) {
    if (byte(options, 0) == type) return options.substr(2, 6);
    const std::size_t size = byte(options, 1) * 8u;
    if (size > options.size()) break;
    options.remove_prefix(size);
  }
  return {};
}

Spoken parse_discovery(std::string_view frame) {
  constexpr std::size_t kBody = kEthernet + kIpv6;
  if (frame.size() < kBody + 24 || byte(frame, kEthernet + 6) != 58) return {};
  const auto source = frame.substr(kEthernet + 8, 16);
  const auto destination = frame.substr(kEthernet + 24, 16);
  const auto body = frame.substr(kBody);
  const auto target = body.substr(8, 16);
  const auto frame_source = frame.substr(6, 6);
  Spoken out;
  if (byte(body, 0) == kAdvertisement) {
    const auto mac = option_of(body.substr(24), 2);
    out.claim = Claim{address_text(target), mac_text(mac.empty() ? frame_source : mac), "nd-advert", ""};
    if (byte(destination, 0) != 0xff) out.claim->to = mac_text(frame.substr(0, 6));
  } else if (byte(body, 0) == kSolicitation) {
    out.question = Question{address_text(target), mac_text(frame_source)};
    if (!all_zero(source)) out.claim = Claim{address_text(source), mac_text(frame_source), "nd-solicit", ""};
  }
  return out;
}

std::string as_text(const void* bytes, std::size_t size) {
  return std::string(static_cast<const char*>(bytes), size);
}

std::string make_arp(const in_addr& target, const in_addr& from, const std::string& mac) {
  std::string out = std::string(6, '\xff') + mac + std::string("\x08\x06", 2);
  out += std::string("\x00\x01\x08\x00\x06\x04\x00\x01", 8) + mac + as_text(&from, 4);
  return out + std::string(6, '\0') + as_text(&target, 4);
}

// RFC 1071 over the pseudo-header and `body`.
std::uint16_t icmp6_checksum(const std::string& source, const std::string& destination,
                             const std::string& body) {
  std::string all = source + destination + std::string("\0\0", 2);
  all.push_back(static_cast<char>(body.size() >> 8));
  all.push_back(static_cast<char>(body.size()));
  all += std::string("\0\0\0\x3a", 4) + body;
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i + 1 < all.size(); i += 2)
    sum += static_cast<std::uint32_t>(byte(all, i) << 8 | byte(all, i + 1));
  while (sum >> 16 != 0) sum = (sum & 0xffff) + (sum >> 16);
  return static_cast<std::uint16_t>(~sum);
}

std::string make_solicitation(const in6_addr& target, const in6_addr& from, const std::string& mac) {
  const std::string wanted = as_text(&target, 16);
  const std::string source = as_text(&from, 16);
  // To the solicited-node group of the target, RFC 4291, 2.7.1.
  const std::string group = std::string("\xff\x02\0\0\0\0\0\0\0\0\0\x01\xff", 13) + wanted.substr(13);
  std::string body = std::string("\x87\0\0\0\0\0\0\0", 8) + wanted + std::string("\x01\x01", 2) + mac;
  const auto sum = icmp6_checksum(source, group, body);
  body[2] = static_cast<char>(sum >> 8);
  body[3] = static_cast<char>(sum);
  std::string out = std::string("\x33\x33\xff", 3) + wanted.substr(13) + mac + std::string("\x86\xdd", 2);
  out += std::string("\x60\0\0\0\0", 5) + static_cast<char>(body.size()) + std::string("\x3a\xff", 2);
  return out + source + group + body;
}

}  // namespace

Spoken parse_frame(std::string_view frame) {
  if (frame.size() < kEthernet) return {};
  const auto type = frame.substr(12, 2);
  if (type == std::string_view("\x08\x06", 2)) return parse_arp(frame.substr(kEthernet));
  if (type == std::string_view("\x86\xdd", 2)) return parse_discovery(frame);
  return {};
}

std::string make_question(const std::string& address, const std::string& from, const Mac& mac) {
  const std::string mac_bytes(mac.begin(), mac.end());
  in_addr target4{}, from4{};
  if (::inet_pton(AF_INET, address.c_str(), &target4) == 1) {
    return ::inet_pton(AF_INET, from.c_str(), &from4) == 1 ? make_arp(target4, from4, mac_bytes) : "";
  }
  in6_addr target6{}, from6{};
  if (::inet_pton(AF_INET6, address.c_str(), &target6) != 1) return "";
  return ::inet_pton(AF_INET6, from.c_str(), &from6) == 1 ? make_solicitation(target6, from6, mac_bytes) : "";
}

std::string link_local_of(const Mac& mac) {
  const unsigned char bytes[16] = {
      0xfe,   0x80,   0,    0,    0,      0,      0,     0, static_cast<unsigned char>(mac[0] ^ 2),
      mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]};
  return address_text(as_text(bytes, 16));
}

}  // namespace midstream::lab
