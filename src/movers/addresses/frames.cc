#include "movers/addresses/frames.h"

#include <cstring>

namespace midstream {
namespace {

constexpr std::size_t kEthernet = 14;
constexpr std::size_t kArp = 28;
constexpr std::size_t kIpv6 = 40;
constexpr char kSolicitation = static_cast<char>(135);
constexpr char kAdvertisement = static_cast<char>(136);

std::string_view view(const Mac& mac) {
  return {reinterpret_cast<const char*>(mac.data()), mac.size()};
}

Mac mac_at(std::string_view frame, std::size_t at) {
  Mac mac;
  std::memcpy(mac.data(), frame.data() + at, mac.size());
  return mac;
}

std::string ethernet(const Mac& to, const Mac& from, std::string_view type) {
  std::string frame(view(to));
  frame.append(view(from)).append(type);
  return frame;
}

// operation: 1 request, 2 reply
std::string arp(const Mac& to, const Mac& sender_mac, const IpAddress& sender, const Mac& target_mac,
                const IpAddress& target, char operation) {
  std::string frame = ethernet(to, sender_mac, {"\x08\x06", 2});
  frame.append("\x00\x01\x08\x00\x06\x04\x00", 7).push_back(operation);
  frame.append(view(sender_mac)).append(sender.view()).append(view(target_mac)).append(target.view());
  return frame;
}

void put_checksum(std::string& frame) {  // ICMPv6 over the pseudo header, RFC 4443 2.3
  const std::string_view bytes(frame);
  const std::string_view body = bytes.substr(kEthernet + kIpv6);
  std::string sum_over(bytes.substr(kEthernet + 8, 32));
  sum_over.append("\0\0", 2).push_back(static_cast<char>(body.size() >> 8));
  sum_over.push_back(static_cast<char>(body.size()));
  sum_over.append("\0\0\0\x3a", 4).append(body);
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i + 1 < sum_over.size(); i += 2)
    sum += static_cast<std::uint32_t>(static_cast<std::uint8_t>(sum_over[i]) << 8 |
                                      static_cast<std::uint8_t>(sum_over[i + 1]));
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  const auto check = static_cast<std::uint16_t>(~sum);
  frame[kEthernet + kIpv6 + 2] = static_cast<char>(check >> 8);
  frame[kEthernet + kIpv6 + 3] = static_cast<char>(check);
}

// `body`: the ICMPv6 message with a zero checksum, of even length.
std::string icmp6(const Mac& to, const Mac& from, const IpAddress& source, const IpAddress& destination,
                  std::string_view body) {
  std::string frame = ethernet(to, from, {"\x86\xdd", 2});
  frame.append("\x60\0\0\0\0", 5).push_back(static_cast<char>(body.size()));
  frame.push_back(0x3a);
  frame.push_back(static_cast<char>(255));  // hop limit: receivers drop anything else
  frame.append(source.view()).append(destination.view()).append(body);
  put_checksum(frame);
  return frame;
}

std::string advertisement(const Mac& own, const IpAddress& address, bool router, const Mac& to_mac,
                          const IpAddress& to_ip) {
  std::string body{kAdvertisement, 0, 0, 0, static_cast<char>(router ? 0xa0 : 0x20), 0, 0, 0};
  body.append(address.view()).append("\x02\x01", 2).append(view(own));
  return icmp6(to_mac, own, address, to_ip, body);
}

Mac multicast_mac(const IpAddress& group) {
  return {0x33, 0x33, group.bytes[12], group.bytes[13], group.bytes[14], group.bytes[15]};
}

std::optional<Claim> arp_claim(std::string_view frame) {
  if (frame.size() < kEthernet + kArp ||
      frame.substr(kEthernet, 6) != std::string_view("\0\x01\x08\0\x06\x04", 6))
    return std::nullopt;
  Claim claim{*ip_from_bytes(frame.substr(kEthernet + 14, 4)), mac_at(frame, kEthernet + 8)};
  if (claim.address == IpAddress{}) return std::nullopt;  // a probe
  return claim;
}

std::optional<Claim> neighbour_claim(std::string_view frame) {
  const std::size_t icmp = kEthernet + kIpv6;
  if (frame.size() < icmp + 24 || frame[kEthernet + 6] != 0x3a ||
      frame[kEthernet + 7] != static_cast<char>(255))
    return std::nullopt;
  Claim claim{*ip_from_bytes(frame.substr(icmp + 8, 16)), mac_at(frame, 6)};
  if (frame[icmp] == kSolicitation) claim.address = *ip_from_bytes(frame.substr(kEthernet + 8, 16));
  if (frame[icmp] != kAdvertisement && frame[icmp] != kSolicitation) return std::nullopt;
  if (claim.address == IpAddress{.v6 = true}) return std::nullopt;  // duplicate address detection
  if (frame.size() >= icmp + 32 && (frame[icmp + 24] == 1 || frame[icmp + 24] == 2) && frame[icmp + 25] == 1)
    claim.mac = mac_at(frame, icmp + 26);
  return claim;
}

}  // namespace

std::string probe_frame(const Mac& own, const IpAddress& target) {
  if (!target.v6) return arp(kBroadcastMac, own, IpAddress{}, Mac{}, target, 1);
  IpAddress group = *parse_ip("ff02::1:ff00:0");
  for (std::size_t i = 13; i < 16; ++i) group.bytes[i] = target.bytes[i];
  std::string body{kSolicitation, 0, 0, 0, 0, 0, 0, 0};
  body.append(target.view());
  return icmp6(multicast_mac(group), own, IpAddress{.v6 = true}, group, body);
}

std::vector<std::string> announcement_frames(const Mac& own, const IpAddress& address, bool router) {
  if (!address.v6)
    return {arp(kBroadcastMac, own, address, kBroadcastMac, address, 1),
            arp(kBroadcastMac, own, address, own, address, 2)};
  const IpAddress all_nodes = *parse_ip("ff02::1");
  return {advertisement(own, address, router, multicast_mac(all_nodes), all_nodes)};
}

std::string directed_frame(const Mac& own, const IpAddress& address, bool router, const Mac& to_mac,
                           const IpAddress& to_ip) {
  if (!address.v6) return arp(to_mac, own, address, to_mac, to_ip, 2);
  return advertisement(own, address, router, to_mac, to_ip);
}

std::optional<Claim> parse_claim(std::string_view frame) {
  if (frame.size() < kEthernet) return std::nullopt;
  const std::string_view type = frame.substr(12, 2);
  if (type == std::string_view("\x08\x06", 2)) return arp_claim(frame);
  if (type == std::string_view("\x86\xdd", 2)) return neighbour_claim(frame);
  return std::nullopt;
}

}  // namespace midstream
