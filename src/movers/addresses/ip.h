// Addresses as values: IPv4, IPv6 and Ethernet. Pure.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace midstream {

struct IpAddress {
  bool v6 = false;
  std::array<std::uint8_t, 16> bytes{};  // network order; IPv4 uses the first four

  auto operator<=>(const IpAddress&) const = default;
  std::size_t size() const { return v6 ? 16 : 4; }
  std::string_view view() const { return {reinterpret_cast<const char*>(bytes.data()), size()}; }
};

// Numeric text only ("192.0.2.10", "2001:db8::1"); no prefix length, no scope.
std::optional<IpAddress> parse_ip(std::string_view text);
// From 4 or 16 bytes in network order.
std::optional<IpAddress> ip_from_bytes(std::string_view bytes);
std::string to_string(const IpAddress& address);
// Whether both lie in one subnet of this prefix length (and family).
bool same_subnet(const IpAddress& a, const IpAddress& b, int prefix);
// 192.0.2.10/26 -> 192.0.2.63
IpAddress broadcast_of(const IpAddress& address, int prefix);

using Mac = std::array<std::uint8_t, 6>;
inline constexpr Mac kBroadcastMac{0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
std::string to_string(const Mac& mac);  // "02:00:00:00:00:01"
std::optional<Mac> parse_mac(std::string_view text);

}  // namespace midstream
