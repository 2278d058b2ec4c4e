// rtnetlink over a raw socket (rtnetlink(7)): addresses, links and routes of the calling thread's network
// namespace. Needs CAP_NET_ADMIN to change anything.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "movers/addresses/ip.h"
#include "sys/fd.h"

namespace midstream {

struct Link {
  unsigned index = 0;
  std::string name;
  Mac mac{};
  bool up = false;
};

struct AddressEntry {
  IpAddress ip;
  int prefix = 0;
  unsigned index = 0;       // of the link
  std::uint32_t flags = 0;  // IFA_F_*
  std::uint8_t scope = 0;
  std::string label;  // IPv4 only
  bool secondary() const;
  bool tentative() const;
};

// A route of the main table over one gateway, set by an administrator or a daemon.
struct GatewayRoute {
  IpAddress gateway;
  bool is_default = false;
  std::string text;  // "default via 198.51.100.1", for people
  std::string raw;   // as the kernel told it
};

class Netlink {
 public:
  static Result<Netlink> open();

  Result<std::vector<Link>> links();
  Result<Link> link(std::string_view name);  // refused where there is none
  // In the kernel's order, which decides who is primary.
  Result<std::vector<AddressEntry>> addresses();

  // All in one message batch. An address that is there already, or is gone already, is success. IPv6
  // addresses are added without duplicate address detection; `deprecated` ones are never chosen as a source.
  Result<> add(std::span<const AddressEntry> entries, bool deprecated = false);
  Result<> remove(std::span<const AddressEntry> entries);

  // The routes that an administrator or daemon set (not the kernel's own, not learnt by RA) and that use the
  // link or prefer one of the sources: as the kernel tells them, to be given back unchanged.
  Result<std::vector<std::string>> routes(unsigned link, std::span<const IpAddress> sources);
  // Those that are there already are success.
  Result<> restore_routes(std::span<const std::string> routes);
  Result<std::vector<GatewayRoute>> gateway_routes();
  // At one instant the route leads over `gateway` on `link`; its preferred source is forgotten.
  Result<> replace_gateway(const GatewayRoute& route, const IpAddress& gateway, unsigned link);
  // The link of the default route, 0 where there is none.
  Result<unsigned> default_route_link(bool v6);

 private:
  explicit Netlink(Fd fd) : fd_(std::move(fd)) {}
  Result<std::vector<std::string>> dump(int type, std::string_view header);
  Result<std::vector<std::string>> dump_once(int type, std::string_view header, bool& interrupted);
  Result<std::vector<int>> batch(int type, int flags, std::span<const std::string> payloads);
  Fd fd_;
};

}  // namespace midstream
