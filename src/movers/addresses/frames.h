// Ethernet frames that ask and tell who has an address: ARP (RFC 826, 5227) and neighbour discovery (RFC
// 4861). Pure: bytes in, bytes out; the frames carry no FCS and no VLAN tag.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "movers/addresses/ip.h"

namespace midstream {

// "Who has `target`?" without saying anything about the asker, so that nobody learns a thing from it: an ARP
// probe (sender 0.0.0.0), or a solicitation from :: as duplicate address detection sends it.
std::string probe_frame(const Mac& own, const IpAddress& target);

// What makes neighbours send to `own` for `address`, in sending order: for IPv4 a gratuitous request (target
// ff:ff:ff:ff:ff:ff) and a gratuitous reply (target = own, which Linux takes at once, inside its lock time
// too); for IPv6 an unsolicited advertisement to ff02::1 with Override, and Router where `router`.
std::vector<std::string> announcement_frames(const Mac& own, const IpAddress& address, bool router);

// The same said to one neighbour alone: only a unicast ARP reply makes a Linux entry REACHABLE at once.
std::string directed_frame(const Mac& own, const IpAddress& address, bool router, const Mac& to_mac,
                           const IpAddress& to_ip);

// A frame's claim "`address` is at `mac`": the sender fields of any ARP packet but a probe's, the target of a
// neighbour advertisement, the source of a solicitation.
struct Claim {
  IpAddress address;
  Mac mac;
  auto operator<=>(const Claim&) const = default;
};
// nullopt for every frame that claims nothing, malformed ones among them.
std::optional<Claim> parse_claim(std::string_view frame);

}  // namespace midstream
