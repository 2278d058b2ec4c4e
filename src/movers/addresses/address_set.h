// The desired state of the kinds `stage` and `own` (docs/formats/desired.md), parsed. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "movers/addresses/interfaces.h"

namespace midstream {

struct AddressSide {
  std::string host;
  std::string dev;
};

struct AddressSet {
  std::string id;  // a plain name, the same for stage and own of one set, on both hosts
  std::vector<IpAddress> addresses;
  int prefix4 = 32;
  int prefix6 = 128;
  AddressSide from;
  AddressSide to;
  std::string verifier;  // a host that is neither side, or ""
  std::vector<IpAddress> gateways;
  std::vector<IpAddress> fixed;           // what midstream's own paths ride on
  std::set<std::uint16_t> ignored_ports;  // need not answer on new
  Json raw;

  bool stays_with(const std::string& host) const { return host == from.host || host == to.host; }
  const AddressSide& side(const std::string& host) const { return host == to.host ? to : from; }
  const AddressSide& other(const std::string& host) const { return host == to.host ? from : to; }
  int prefix(const IpAddress& address) const { return address.v6 ? prefix6 : prefix4; }
  bool contains(const IpAddress& address) const;
  std::set<IpAddress> as_set() const { return {addresses.begin(), addresses.end()}; }
  std::vector<Prefixed> prefixed() const;
};

Result<AddressSet> parse_address_set(const Json& desired);

// "192.0.2.10, 192.0.2.11 and 22 more"
std::string some_of(const std::vector<IpAddress>& addresses);

}  // namespace midstream
