// The manifest's scalar values: text to value, nullopt for what is not one. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "manifest/manifest.h"

namespace midstream {

// "100ms", "5s", "5m", "2h": whole numbers, at most 31 days.
std::optional<Span> parse_duration(std::string_view text);
// "16G": K, M, G, T are powers of 1024.
std::optional<std::uint64_t> parse_size(std::string_view text);
// "5" or "5%", 1 to 100.
std::optional<int> parse_percent(std::string_view text);
// "1.5x" is 1.5; 1 to 100.
std::optional<double> parse_factor(std::string_view text);
// "1%", "0.5%" to a share of 1; more than 0, at most 100%.
std::optional<double> parse_share(std::string_view text);
std::optional<std::int64_t> parse_integer(std::string_view text);
std::optional<bool> parse_boolean(std::string_view text);
// "mon" or "fri-mon": days in order, 0 = Sunday.
std::optional<std::vector<int>> parse_days(std::string_view text);
// "11:00" to minutes of the day.
std::optional<int> parse_time(std::string_view text);

// A numeric address; 4 bytes of `bytes` count for IPv4, all 16 for IPv6.
struct Address {
  bool v6 = false;
  std::array<std::uint8_t, 16> bytes{};

  auto operator<=>(const Address&) const = default;
};
std::optional<Address> parse_address(std::string_view text);

struct Prefix {
  Address base;
  int length = 0;

  bool contains(const Address& address) const;
  bool overlaps(const Prefix& other) const { return contains(other.base) || other.contains(base); }
  // Whether every bit behind the length is 0.
  bool is_network() const;
  // Whether `address` is the network's or the broadcast address of an IPv4 prefix of at most 30 bits.
  bool is_reserved(const Address& address) const;
};
std::optional<Prefix> parse_prefix(std::string_view text);
// The canonical spelling ("2001:DB8:0::1" is "2001:db8::1").
std::string to_string(const Address& address);

// "host:25", "[::1]:25".
struct HostPort {
  std::string host;
  std::uint16_t port = 0;
};
std::optional<HostPort> parse_host_port(std::string_view text);

// The keyword=value pairs of a libpq connection string; its URI form is not one.
using Conninfo = std::vector<std::pair<std::string, std::string>>;
std::optional<Conninfo> parse_conninfo(std::string_view text);

bool is_ssh_target(std::string_view text);
bool is_zone_name(std::string_view text);      // a time zone
bool is_absolute_name(std::string_view text);  // a DNS name with its final dot
bool is_server_name(std::string_view text);    // a host's name or address
bool is_http_url(std::string_view text);       // no user, no fragment
bool is_probe_conninfo(std::string_view text); // says where and carries no secret
bool is_absolute_path(std::string_view text);  // no "..", ".", empty or control parts; a final slash is fine
bool is_device_name(std::string_view text);
bool is_proxy_name(std::string_view text);     // an HAProxy backend or server
bool is_database_name(std::string_view text);
bool is_unit_name(std::string_view text);      // of systemd, runit or cron.d: no slash, no blank
bool is_acceptance(std::string_view text);     // a line of `accept:`: a kind of thing, and which
bool is_straggler(std::string_view text);      // a numeric address, or SERVICE@ADDRESS
bool is_line(std::string_view text);           // 1 to 1,024 characters without control characters

}  // namespace midstream
