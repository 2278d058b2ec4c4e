#include "movers/addresses/address_set.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"

namespace midstream {
namespace {

// FNV-1a: a short name for the set; two sets that share it would have to be equal in all that counts.
std::string name_of(std::vector<IpAddress> addresses, const std::string& hosts) {
  std::ranges::sort(addresses);
  std::string all = hosts;
  for (const IpAddress& address : addresses) all += to_string(address) + " ";
  std::uint64_t hash = 14695981039346656037u;
  for (const char c : all) hash = (hash ^ static_cast<std::uint8_t>(c)) * 1099511628211u;
  return fmt::format("set-{:016x}", hash);
}

Result<IpAddress> address_field(std::string_view text) {
  const auto address = parse_ip(text);
  if (!address) return corrupt(fmt::format("desired: '{}' is not a numeric address", printable(text)));
  return *address;
}

Result<AddressSide> side_field(const Json& desired, std::string_view key) {
  const Json side = TRY(get_object(desired, key));
  AddressSide parsed{TRY(get_string(side, "host")), TRY(get_string(side, "dev"))};
  if (parsed.dev.empty() || parsed.dev.size() > 15 || parsed.dev.find_first_of("/ ") != std::string::npos)
    return corrupt(fmt::format("desired: '{}' is not a device name", printable(parsed.dev)));
  return parsed;
}

Result<int> prefix_field(const Json& desired, std::string_view key, int most) {
  const std::int64_t prefix = get_int_or(desired, key, most);
  if (prefix < 1 || prefix > most)
    return corrupt(fmt::format("desired: field '{}' is not a prefix length", key));
  return static_cast<int>(prefix);
}

Result<std::vector<IpAddress>> optional_addresses(const Json& desired, std::string_view key) {
  std::vector<IpAddress> addresses;
  if (!desired.contains(key)) return addresses;
  for (const std::string& text : TRY(get_strings(desired, key)))
    addresses.push_back(TRY(address_field(text)));
  return addresses;
}

}  // namespace

bool AddressSet::contains(const IpAddress& address) const {
  return std::ranges::find(addresses, address) != addresses.end();
}

std::vector<Prefixed> AddressSet::prefixed() const {
  std::vector<Prefixed> result;
  for (const IpAddress& address : addresses) result.push_back({address, prefix(address)});
  return result;
}

Result<AddressSet> parse_address_set(const Json& desired) {
  AddressSet set;
  set.raw = desired;
  for (const std::string& text : TRY(get_strings(desired, "addresses"))) {
    const IpAddress address = TRY(address_field(text));
    if (set.contains(address)) return corrupt(fmt::format("desired: {} is named twice", text));
    set.addresses.push_back(address);
  }
  if (set.addresses.empty()) return corrupt("desired: 'addresses' is empty");
  set.prefix4 = TRY(prefix_field(desired, "prefix4", 32));
  set.prefix6 = TRY(prefix_field(desired, "prefix6", 128));
  set.from = TRY(side_field(desired, "from"));
  set.to = TRY(side_field(desired, "to"));
  if (set.from.host == set.to.host) return corrupt("desired: 'from' and 'to' are the same host");
  set.verifier = get_string_or(desired, "verifier", "");
  if (set.stays_with(set.verifier)) set.verifier.clear();  // no third host
  for (const std::string_view key : {"gateway4", "gateway6"})
    if (const std::string text = get_string_or(desired, key, ""); !text.empty())
      set.gateways.push_back(TRY(address_field(text)));
  set.fixed = TRY(optional_addresses(desired, "fixed"));
  if (const auto ports = desired.find("ignore_ports"); ports != desired.end() && ports->is_array())
    for (const Json& port : *ports)
      if (port.is_number_unsigned()) set.ignored_ports.insert(port.get<std::uint16_t>());
  set.id = name_of(set.addresses, set.from.host + " " + set.to.host + " ");
  return set;
}

std::string some_of(const std::vector<IpAddress>& addresses) {
  std::string text;
  for (std::size_t i = 0; i < addresses.size() && i < 3; ++i)
    text += (i > 0 ? ", " : "") + to_string(addresses[i]);
  if (addresses.size() > 3) text += fmt::format(" and {} more", addresses.size() - 3);
  return text;
}

}  // namespace midstream
