#include "gate/rules.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>

namespace midstream::gate {

bool Network::contains(std::string_view address) const {
  if (address.size() != bytes.size()) return false;
  for (int bit = 0; bit < prefix; ++bit) {
    const auto at = static_cast<std::size_t>(bit / 8);
    const int mask = 0x80 >> (bit % 8);
    if ((address[at] & mask) != (bytes[at] & mask)) return false;
  }
  return true;
}

std::optional<std::string> parse_address(std::string_view text) {
  const std::string word(text);
  unsigned char bytes[16];
  const auto as_text = [&](std::size_t from, std::size_t size) {
    return std::string(reinterpret_cast<char*>(bytes) + from, size);
  };
  if (::inet_pton(AF_INET, word.c_str(), bytes) == 1) return as_text(0, 4);
  if (::inet_pton(AF_INET6, word.c_str(), bytes) != 1) return std::nullopt;
  const auto whole = as_text(0, 16);
  if (whole.starts_with(std::string(10, '\0') + "\xff\xff")) return whole.substr(12);
  return whole;
}

std::optional<Network> parse_network(std::string_view text) {
  const auto slash = text.find('/');
  auto address = parse_address(text.substr(0, slash));
  if (!address) return std::nullopt;
  const int most = static_cast<int>(address->size()) * 8;
  Network network{std::move(*address), most};
  if (slash == std::string_view::npos) return network;
  const auto digits = text.substr(slash + 1);
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), network.prefix);
  if (error != std::errc() || end != digits.data() + digits.size() || network.prefix < 0 || network.prefix > most)
    return std::nullopt;
  return network;
}

namespace {

bool listed(const std::vector<std::string>& names, const std::string& name) {
  return names.empty() || std::ranges::find(names, name) != names.end();
}

bool fits(const Rule& rule, const Visitor& visitor, const std::optional<std::string>& address) {
  if (rule.tls && *rule.tls != visitor.tls) return false;
  if (!listed(rule.databases, visitor.database) || !listed(rule.users, visitor.user)) return false;
  if (rule.from.empty()) return true;
  return address && std::ranges::any_of(rule.from, [&](const Network& network) { return network.contains(*address); });
}

Fatal turned_away(const Visitor& visitor, std::string_view how) {
  return {"28000", fmt::format("{} host \"{}\", user \"{}\", database \"{}\", {}", how, visitor.address, visitor.user,
                               visitor.database, visitor.tls ? "SSL encryption" : "no encryption"), ""};
}

}  // namespace

std::expected<Method, Fatal> admit(const std::vector<Rule>& rules, const Visitor& visitor) {
  const auto address = parse_address(visitor.address);
  const auto rule = std::ranges::find_if(rules, [&](const Rule& one) { return fits(one, visitor, address); });
  if (rule == rules.end()) return std::unexpected(turned_away(visitor, "no pg_hba.conf entry for"));
  if (rule->method == Method::reject) return std::unexpected(turned_away(visitor, "pg_hba.conf rejects connection for"));
  return rule->method;
}

}  // namespace midstream::gate
