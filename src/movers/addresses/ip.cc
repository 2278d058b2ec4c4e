#include "movers/addresses/ip.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <cstdio>
#include <cstring>

namespace midstream {

std::optional<IpAddress> parse_ip(std::string_view text) {
  IpAddress address;
  const std::string copy(text);
  address.v6 = copy.find(':') != std::string::npos;
  if (inet_pton(address.v6 ? AF_INET6 : AF_INET, copy.c_str(), address.bytes.data()) != 1)
    return std::nullopt;
  return address;
}

std::optional<IpAddress> ip_from_bytes(std::string_view bytes) {
  if (bytes.size() != 4 && bytes.size() != 16) return std::nullopt;
  IpAddress address;
  address.v6 = bytes.size() == 16;
  std::memcpy(address.bytes.data(), bytes.data(), bytes.size());
  return address;
}

std::string to_string(const IpAddress& address) {
  char text[INET6_ADDRSTRLEN] = {};
  inet_ntop(address.v6 ? AF_INET6 : AF_INET, address.bytes.data(), text, sizeof text);
  return text;
}

bool same_subnet(const IpAddress& a, const IpAddress& b, int prefix) {
  if (a.v6 != b.v6 || prefix < 0 || static_cast<std::size_t>(prefix) > a.size() * 8) return false;
  for (int bit = 0; bit < prefix; bit += 8) {
    const int left = prefix - bit;
    const auto mask = static_cast<std::uint8_t>(left >= 8 ? 0xff : 0xff << (8 - left));
    const auto at = static_cast<std::size_t>(bit / 8);
    if ((a.bytes[at] & mask) != (b.bytes[at] & mask)) return false;
  }
  return true;
}

IpAddress broadcast_of(const IpAddress& address, int prefix) {
  IpAddress result = address;
  for (int bit = prefix; bit < static_cast<int>(address.size()) * 8; ++bit)
    result.bytes[static_cast<std::size_t>(bit / 8)] |= static_cast<std::uint8_t>(0x80 >> (bit % 8));
  return result;
}

std::string to_string(const Mac& mac) {
  return fmt::format("{:02x}:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", mac[0], mac[1], mac[2], mac[3], mac[4],
                     mac[5]);
}

std::optional<Mac> parse_mac(std::string_view text) {
  const std::string copy(text);
  unsigned b[6] = {};
  int used = 0;
  if (std::sscanf(copy.c_str(), "%2x:%2x:%2x:%2x:%2x:%2x%n", b, b + 1, b + 2, b + 3, b + 4, b + 5, &used) !=
          6 ||
      static_cast<std::size_t>(used) != copy.size())
    return std::nullopt;
  Mac mac;
  for (std::size_t i = 0; i < 6; ++i) mac[i] = static_cast<std::uint8_t>(b[i]);
  return mac;
}

}  // namespace midstream
