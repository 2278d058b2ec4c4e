#include "manifest/values.h"

#include <arpa/inet.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "base/text.h"

namespace midstream {

namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_alnum(char c) { return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_control(char c) { return (static_cast<unsigned char>(c) < 0x20) || c == 0x7f; }

// Whether `text` has 1 to `most` characters, all alphanumeric or in `others`.
bool only(std::string_view text, std::string_view others, std::size_t most) {
  return !text.empty() && text.size() <= most &&
         std::ranges::all_of(text, [&](char c) { return is_alnum(c) || others.contains(c); });
}

template <class Number>
std::optional<Number> whole(std::string_view text) {
  Number number{};
  if (text.empty() || !is_digit(text[0])) return std::nullopt;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failed != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

constexpr std::array<std::string_view, 7> kDays{"sun", "mon", "tue", "wed", "thu", "fri", "sat"};

std::optional<int> parse_day(std::string_view text) {
  const auto found = std::ranges::find(kDays, text);
  if (found == kDays.end()) return std::nullopt;
  return static_cast<int>(found - kDays.begin());
}

bool bit(const Address& address, int index) { return ((address.bytes[index / 8] >> (7 - index % 8)) & 1) != 0; }

}  // namespace

std::optional<Span> parse_duration(std::string_view text) {
  struct Unit {
    std::string_view name;
    std::int64_t ms;
  };
  constexpr Unit kUnits[] = {{"ms", 1}, {"s", 1'000}, {"m", 60'000}, {"h", 3'600'000}};
  constexpr std::int64_t kMost = 31ll * 24 * 3'600'000;
  for (const auto& unit : kUnits) {
    if (!text.ends_with(unit.name)) continue;
    const auto count = whole<std::int64_t>(text.substr(0, text.size() - unit.name.size()));
    if (count && *count <= kMost / unit.ms) return Span(*count * unit.ms);
  }
  return std::nullopt;
}

std::optional<std::uint64_t> parse_size(std::string_view text) {
  constexpr std::string_view kUnits = "KMGT";
  if (text.empty()) return std::nullopt;
  const auto unit = kUnits.find(text.back());
  if (unit == std::string_view::npos || text.size() > 10) return std::nullopt;
  const auto count = whole<std::uint64_t>(text.substr(0, text.size() - 1));
  const auto shift = 10 * (static_cast<int>(unit) + 1);
  if (!count || *count == 0 || *count > (~0ull >> 1 >> shift)) return std::nullopt;
  return *count << shift;
}

std::optional<int> parse_percent(std::string_view text) {
  if (text.ends_with('%')) text.remove_suffix(1);
  const auto percent = whole<int>(text);
  if (!percent || *percent < 1 || *percent > 100) return std::nullopt;
  return percent;
}

std::optional<double> parse_factor(std::string_view text) {
  if (!text.ends_with('x') || text.size() > 10 || text.find_first_not_of("0123456789.") != text.size() - 1) return std::nullopt;
  double factor = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size() - 1, factor, std::chars_format::fixed);
  if (error != std::errc() || end != text.data() + text.size() - 1 || factor < 1 || factor > 100) return std::nullopt;
  return factor;
}

namespace {

// "12", "1.5", "0.25" in hundredths.
std::optional<int> hundredths(std::string_view text) {
  const auto point = text.find('.');
  const auto fraction = point == text.npos ? "" : std::string(text.substr(point + 1));
  if (point != text.npos && (fraction.empty() || fraction.size() > 2)) return std::nullopt;
  const auto units = whole<int>(text.substr(0, point));
  const auto parts = whole<int>(fraction.empty() ? "0" : fraction.size() == 1 ? fraction + "0" : fraction);
  if (!units || !parts || *units < 0 || *units > 1'000) return std::nullopt;
  return *units * 100 + *parts;
}

}  // namespace

std::optional<double> parse_share(std::string_view text) {
  if (!text.ends_with('%')) return std::nullopt;
  const auto share = hundredths(text.substr(0, text.size() - 1));
  if (!share || *share < 1 || *share > 10'000) return std::nullopt;
  return *share / 10'000.0;
}

std::optional<std::int64_t> parse_integer(std::string_view text) { return whole<std::int64_t>(text); }

std::optional<bool> parse_boolean(std::string_view text) {
  if (text == "true") return true;
  if (text == "false") return false;
  return std::nullopt;
}

std::optional<std::vector<int>> parse_days(std::string_view text) {
  const auto dash = text.find('-');
  const auto first = parse_day(text.substr(0, dash));
  const auto last = dash == std::string_view::npos ? first : parse_day(text.substr(dash + 1));
  if (!first || !last) return std::nullopt;
  std::vector<int> days{*first};
  while (days.back() != *last) days.push_back((days.back() + 1) % 7);
  return days;
}

std::optional<int> parse_time(std::string_view text) {
  if (text.size() != 5 || text[2] != ':') return std::nullopt;
  const auto hours = whole<int>(text.substr(0, 2));
  const auto minutes = whole<int>(text.substr(3));
  if (!hours || !minutes || *hours > 23 || *minutes > 59) return std::nullopt;
  return *hours * 60 + *minutes;
}

std::optional<Address> parse_address(std::string_view text) {
  Address address;
  const std::string name(text);
  if (name.size() != std::strlen(name.c_str())) return std::nullopt;
  if (::inet_pton(AF_INET, name.c_str(), address.bytes.data()) == 1) return address;
  address.v6 = true;
  if (::inet_pton(AF_INET6, name.c_str(), address.bytes.data()) == 1) return address;
  return std::nullopt;
}

std::optional<Prefix> parse_prefix(std::string_view text) {
  const auto slash = text.find('/');
  if (slash == std::string_view::npos || text.size() - slash > 4) return std::nullopt;
  const auto base = parse_address(text.substr(0, slash));
  const auto length = whole<int>(text.substr(slash + 1));
  if (!base || !length || *length > (base->v6 ? 128 : 32)) return std::nullopt;
  return Prefix{*base, *length};
}

bool Prefix::contains(const Address& address) const {
  if (address.v6 != base.v6) return false;
  for (int i = 0; i < length; ++i) {
    if (bit(address, i) != bit(base, i)) return false;
  }
  return true;
}

bool Prefix::is_network() const {
  for (int i = length; i < (base.v6 ? 128 : 32); ++i) {
    if (bit(base, i)) return false;
  }
  return true;
}

bool Prefix::is_reserved(const Address& address) const {
  if (base.v6 || length > 30) return false;
  bool zeros = true;
  bool ones = true;
  for (int i = length; i < 32; ++i) (bit(address, i) ? zeros : ones) = false;
  return zeros || ones;
}

std::string to_string(const Address& address) {
  char text[INET6_ADDRSTRLEN] = {};
  ::inet_ntop(address.v6 ? AF_INET6 : AF_INET, address.bytes.data(), text, sizeof text);
  return text;
}

std::optional<HostPort> parse_host_port(std::string_view text) {
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::nullopt;
  auto host = text.substr(0, colon);
  const auto port = whole<std::uint16_t>(text.substr(colon + 1));
  if (!port || *port == 0) return std::nullopt;
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
    const auto address = parse_address(host);
    if (!address || !address->v6) return std::nullopt;
  } else if (host.contains(':') || !is_server_name(host)) {
    return std::nullopt;
  }
  return HostPort{std::string(host), *port};
}

std::optional<Conninfo> parse_conninfo(std::string_view text) {
  Conninfo pairs;
  while (true) {
    text = trim(text);
    if (text.empty()) return pairs;
    const auto equals = text.find('=');
    if (equals == std::string_view::npos) return std::nullopt;
    const auto key = trim(text.substr(0, equals));
    if (!only(key, "_", 63)) return std::nullopt;
    text = text.substr(equals + 1);
    text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
    const bool quoted = text.starts_with('\'');
    if (quoted) text.remove_prefix(1);
    std::string value;
    std::size_t i = 0;
    for (; i < text.size() && (quoted ? text[i] != '\'' : !std::string_view(" \t\r\n").contains(text[i])); ++i) {
      if (text[i] == '\\') ++i;
      if (i == text.size()) return std::nullopt;
      value += text[i];
    }
    if (quoted && i++ == text.size()) return std::nullopt;
    pairs.emplace_back(key, std::move(value));
    text.remove_prefix(i);
  }
}

bool is_ssh_target(std::string_view text) {
  const auto at = text.find('@');
  if (at != std::string_view::npos) {
    const auto user = text.substr(0, at);
    if (!only(user, "_.-", 64) || user[0] == '-' || user[0] == '.') return false;
    text = text.substr(at + 1);
  }
  return only(text, "_.:%-", 253) && text[0] != '-' && text[0] != '.' && text[0] != '%';
}

bool is_zone_name(std::string_view text) {
  const auto parts = split(text, '/');
  return std::ranges::all_of(parts, [](const std::string& part) { return only(part, "_+-", 64); });
}

bool is_absolute_name(std::string_view text) {
  if (text.size() < 2 || text.size() > 254 || !text.ends_with('.')) return false;
  const auto labels = split(text.substr(0, text.size() - 1), '.');
  return std::ranges::all_of(labels, [](const std::string& label) {
    return only(label, "_-", 63) && label.front() != '-' && label.back() != '-';
  });
}

bool is_server_name(std::string_view text) {
  return only(text, "_.:-", 253) && text[0] != '-' && text[0] != '.';
}

bool is_http_url(std::string_view text) {
  if (text.size() > 1'024) return false;
  if (text.starts_with("http://")) {
    text.remove_prefix(7);
  } else if (text.starts_with("https://")) {
    text.remove_prefix(8);
  } else {
    return false;
  }
  const auto slash = text.find('/');
  const auto authority = text.substr(0, slash);
  const bool numeric6 = authority.starts_with('[') && authority.ends_with(']');
  const bool good = numeric6 ? parse_address(authority.substr(1, authority.size() - 2)).has_value()
                    : authority.contains(':') ? parse_host_port(authority).has_value()
                                              : is_server_name(authority);
  if (!good) return false;
  return std::ranges::none_of(text, [](char c) { return is_control(c) || c == ' ' || c == '#' || c < 0; });
}

bool is_probe_conninfo(std::string_view text) {
  const auto pairs = parse_conninfo(text);
  if (!pairs) return false;
  bool where = false;
  for (const auto& [key, value] : *pairs) {
    if (key == "password" || key == "sslpassword" || key == "passfile" || key == "service") return false;
    where = where || ((key == "host" || key == "hostaddr") && !value.empty());
  }
  return where;
}

bool is_absolute_path(std::string_view text) {
  if (!text.starts_with('/') || text.size() > 4'000 || std::ranges::any_of(text, is_control)) return false;
  auto parts = split(text.substr(1), '/');
  if (parts.back().empty()) parts.pop_back();
  return std::ranges::none_of(parts, [](const std::string& part) {
    return part.empty() || part == "." || part == ".." || part.size() > 255;
  });
}

bool is_device_name(std::string_view text) { return only(text, "_.@-", 15) && text[0] != '-' && text[0] != '.'; }

bool is_proxy_name(std::string_view text) { return only(text, "_.:-", 128); }

bool is_database_name(std::string_view text) {
  return !text.empty() && text.size() <= 63 && std::ranges::none_of(text, is_control);
}

bool is_unit_name(std::string_view text) {
  return only(text, "_.:@-", 100) && text[0] != '-' && text[0] != '.' && text[0] != '@' && text[0] != ':' && !text.starts_with("midstream-") &&
         (!text.starts_with("cron@") || (text.size() > 5 && text.find_first_of(".:@", 5) == std::string_view::npos));
}

bool is_acceptance(std::string_view text) {
  constexpr std::array<std::string_view, 9> kKinds{"listen", "unit", "cron", "mount", "database", "tree", "firewall", "ssh", "certificates"};
  const auto blank = text.find(' ');
  return is_line(text) && std::ranges::find(kKinds, text.substr(0, blank)) != kKinds.end() && text.back() != ' ';
}

bool is_straggler(std::string_view text) {
  const auto at = text.find('@');
  const bool named = at == std::string_view::npos || is_plain_name(text.substr(0, at));
  return named && parse_address(text.substr(at == std::string_view::npos ? 0 : at + 1)).has_value();
}

bool is_line(std::string_view text) {
  return !text.empty() && text.size() <= 1'024 && std::ranges::none_of(text, is_control);
}

}  // namespace midstream
