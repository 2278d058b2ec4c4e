// What configures addresses at boot: Debian's ifupdown (interfaces(5)) and systemd-networkd
// (systemd.network(5)). Pure text editing: bytes that do not configure one of the addresses stay as they are.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "movers/addresses/ip.h"

namespace midstream {

struct ConfigEdit {
  std::string text;                  // the file without the addresses
  std::set<IpAddress> found;         // those that the file configured on the device
  std::vector<std::string> unclear;  // lines that name one in a way that cannot be edited safely
};

// Takes `addresses` on `dev` out of an interfaces file:
//  - "up ip addr add" (and down/del) lines for them, in any of ip's spellings;
//  - `iface dev[:label] inet|inet6 static` stanzas whose address is one of them. Where the stanza holds more
//  than the
//    address (hooks, mtu ...) or the device would be left without a stanza that auto or allow-hotplug names,
//    it becomes `manual` and only the lines that belong to the address go.
ConfigEdit edit_interfaces(std::string_view text, std::string_view dev, const std::set<IpAddress>& addresses);

// Whether the file `interfaces` pulls in any plain name in interfaces.d.
bool sources_interfaces_d(std::string_view text);

struct Prefixed {
  IpAddress address;
  int prefix = 0;
};
// Stanzas that configure `addresses` on `dev`.
std::string interfaces_stanzas(std::string_view dev, const std::vector<Prefixed>& addresses,
                               std::string_view comment);

// The same for a .network file or a drop-in: Address= lines of [Network], and whole [Address] sections.
ConfigEdit edit_networkd(std::string_view text, const std::set<IpAddress>& addresses);
std::string networkd_addresses(const std::vector<Prefixed>& addresses, std::string_view comment);

// Whether nothing but comments and blank lines is in `text`.
bool is_blank_config(std::string_view text);

}  // namespace midstream
