#include "movers/addresses/checks.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"

namespace midstream {
namespace {

Json found(std::string what, bool ok, std::string detail, std::string todo) {
  return {{"what", std::move(what)},
          {"ok", ok},
          {"detail", std::move(detail)},
          {"todo", ok ? "" : std::move(todo)}};
}

std::vector<std::string> strings(const Json& object, std::string_view key) {
  return get_strings(object, key).value_or(std::vector<std::string>{});
}

std::vector<std::string> missing_of(const AddressSet& set, const std::vector<std::string>& have) {
  std::vector<std::string> missing;
  for (const IpAddress& address : set.addresses)
    if (std::ranges::find(have, to_string(address)) == have.end()) missing.push_back(to_string(address));
  return missing;
}

void check_host(Json& list, const AddressSide& side, const Json& status) {
  list.push_back(found(fmt::format("{} on {}", side.dev, side.host), get_bool_or(status, "up", false),
                       get_bool_or(status, "up", false) ? "up" : "down", "bring the device up"));
  list.push_back(found(fmt::format("rights of the agent on {}", side.host),
                       get_bool_or(status, "capable", false), "CAP_NET_ADMIN and CAP_NET_RAW",
                       "run the agent as root"));
  list.push_back(found(fmt::format("who configures {} on {} at boot", side.dev, side.host),
                       get_bool_or(status, "manager_known", false), get_string_or(status, "manager", "?"),
                       "let ifupdown or systemd-networkd configure it: nobody else's files are edited"));
}

void check_from(Json& list, const AddressSet& set, const Json& status) {
  const auto missing = missing_of(set, strings(status, "configured"));
  list.push_back(found("the addresses are on " + set.from.host, missing.empty(),
                       missing.empty() ? fmt::format("{} addresses on {}", set.addresses.size(), set.from.dev)
                                       : "not configured: " + join(missing, ", "),
                       "correct `addresses` in the manifest"));
  const auto unclear = strings(status, "unclear");
  const auto unknown = missing_of(set, strings(status, "persisted"));
  list.push_back(found("what configures the addresses at boot can be edited",
                       unclear.empty() && unknown.empty(),
                       !unclear.empty()  ? unclear.front()
                       : unknown.empty() ? "each found"
                                         : "in no file that is known: " + join(unknown, ", "),
                       "write one stanza or one `up ip addr add` line for each address"));
  const auto others = strings(status, "others");
  list.push_back(found(set.from.host + " keeps an address of its own", !others.empty(),
                       others.empty() ? "all its addresses move" : others.front(),
                       "give it a pool or management address first"));
}

void check_to(Json& list, const AddressSet& set, const Json& status) {
  for (const bool v6 : {false, true}) {
    if (std::ranges::none_of(set.addresses, [&](const IpAddress& a) { return a.v6 == v6; })) continue;
    const bool ok = get_bool_or(status, v6 ? "default6" : "default4", false);
    list.push_back(found(fmt::format("{} has a way out ({})", set.to.host, v6 ? "IPv6" : "IPv4"), ok,
                         ok ? "a default route" : "no default route",
                         "give it a default route: answers from the addresses need one"));
  }
  for (const IpAddress& gateway : set.gateways) {
    const auto peer = std::ranges::find(set.addresses, gateway.v6, &IpAddress::v6);
    const bool ok = peer == set.addresses.end() || same_subnet(*peer, gateway, set.prefix(gateway));
    list.push_back(found("gateway " + to_string(gateway), ok,
                         ok ? "in the subnet of the addresses" : "outside the subnet of the addresses",
                         "correct the gateway or the prefix length"));
  }
}

void check_fixed(Json& list, const AddressSet& set) {
  std::vector<IpAddress> riding = set.fixed;
  std::erase_if(riding, [&](const IpAddress& address) { return !set.contains(address); });
  list.push_back(found("no path of midstream rides on an address that moves", riding.empty(),
                       riding.empty() ? fmt::format("{} paths looked at", set.fixed.size()) : some_of(riding),
                       "use an address of the pool or of the management network"));
}

// Who answers for the addresses, as `ask` sees it from its segment: all must be `mac`.
void check_segment(Json& list, const AddressSet& set, const Ask& ask, const std::string& from,
                   const std::string& mac) {
  const std::string what =
      fmt::format("seen from {}, {} alone answers for the addresses", from, set.from.host);
  const auto answer = ask("who", {{"addresses", set.raw["addresses"]}});
  if (!answer) {
    list.push_back(found(what, false, answer.error().text(),
                         "put it on the same segment, with an address in the subnet"));
    return;
  }
  std::vector<std::string> wrong;
  for (const IpAddress& address : set.addresses) {
    const Json macs = answer->value("answers", Json::object()).value(to_string(address), Json::array());
    if (macs != Json::array({mac}))
      wrong.push_back(fmt::format("{}: {}", to_string(address), macs.empty() ? "nobody" : macs.dump()));
  }
  list.push_back(found(what, wrong.empty(), wrong.empty() ? mac : join(wrong, ", "),
                       "both hosts must be on one segment, and no third may answer"));
}

}  // namespace

Json check_addresses(const AddressSet& set, const Ask& from, const Ask& to, const Ask& witness,
                     const Ask& here, bool staging) {
  Json list = Json::array();
  check_fixed(list, set);
  const auto old_side = from("status", {{"full", true}});
  const auto new_side = to("status", {{"full", true}});
  for (const auto& [side, status] : {std::pair{&set.from, &old_side}, std::pair{&set.to, &new_side}}) {
    if (*status)
      check_host(list, *side, **status);
    else
      list.push_back(found("the agent on " + side->host, false, status->error().text(),
                           "correct the manifest or start the agent"));
  }
  if (!old_side || !new_side) return list;
  check_from(list, set, *old_side);
  check_to(list, set, *new_side);
  const std::string mac = get_string_or(*old_side, "mac", "");
  check_segment(list, set, here, set.to.host, mac);
  if (!set.verifier.empty()) check_segment(list, set, witness, set.verifier, mac);
  if (!staging && get_bool_or(*new_side, "staged", false)) {
    const auto ports = check_listeners(set, from, to);
    list.push_back(found("every port that answers on " + set.from.host + " answers on " + set.to.host,
                         ports.has_value(), ports ? "" : ports.error().what,
                         ports ? "" : ports.error().todo));
  }
  return list;
}

Result<Json> check_listeners(const AddressSet& set, const Ask& from, const Ask& to) {
  const Json there = TRY(get_object(TRY(from("listeners", Json::object())), "ports"));
  const Json here = TRY(get_object(TRY(to("listeners", Json::object())), "ports"));
  std::vector<std::string> lacking;
  int compared = 0;
  for (const auto& [address, ports] : there.items()) {
    const Json ours = here.value(address, Json::array());
    for (const Json& port : ports) {
      if (!port.is_number_unsigned() || set.ignored_ports.contains(port.get<std::uint16_t>())) continue;
      ++compared;
      if (std::find(ours.begin(), ours.end(), port) == ours.end())
        lacking.push_back(fmt::format("{} port {}", address, port.dump()));
    }
  }
  if (lacking.empty()) return Json{{"ports", compared}};
  const std::size_t more = lacking.size() > 5 ? lacking.size() - 5 : 0;
  lacking.resize(std::min<std::size_t>(lacking.size(), 5));
  return refused(
      fmt::format("{} answers on old, nothing listens for it on {}{}", join(lacking, ", "), set.to.host,
                  more > 0 ? fmt::format(" (and {} more)", more) : ""),
      fmt::format("start the service on {}; the address is on lo there, so it can bind", set.to.host));
}

}  // namespace midstream
