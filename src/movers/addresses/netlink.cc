#include "movers/addresses/netlink.h"

#include <fmt/format.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>

namespace midstream {
namespace {

template <class T>
std::string_view bytes_of(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}

template <class T>
T load(std::string_view from) {
  T value{};
  std::memcpy(&value, from.data(), std::min(sizeof value, from.size()));
  return value;
}

void put_attribute(std::string& message, unsigned short type, std::string_view data) {
  const rtattr header{static_cast<unsigned short>(RTA_LENGTH(data.size())), type};
  message.append(bytes_of(header)).append(data);
  message.resize(NLMSG_ALIGN(message.size()));
}

// The attributes behind a fixed header of `skip` bytes; malformed rests are left out.
std::map<int, std::string_view> attributes(std::string_view payload, std::size_t skip) {
  std::map<int, std::string_view> found;
  payload.remove_prefix(std::min(payload.size(), static_cast<std::size_t>(NLMSG_ALIGN(skip))));
  while (payload.size() >= sizeof(rtattr)) {
    const auto header = load<rtattr>(payload);
    if (header.rta_len < sizeof(rtattr) || header.rta_len > payload.size()) break;
    found[header.rta_type & NLA_TYPE_MASK] = payload.substr(RTA_LENGTH(0), header.rta_len - RTA_LENGTH(0));
    payload.remove_prefix(std::min(payload.size(), static_cast<std::size_t>(RTA_ALIGN(header.rta_len))));
  }
  return found;
}

std::string address_payload(const AddressEntry& entry, bool deprecated) {
  const ifaddrmsg header{static_cast<unsigned char>(entry.ip.v6 ? AF_INET6 : AF_INET),
                         static_cast<unsigned char>(entry.prefix), 0, entry.scope, entry.index};
  std::string payload(bytes_of(header));
  put_attribute(payload, IFA_LOCAL, entry.ip.view());
  put_attribute(payload, IFA_ADDRESS, entry.ip.view());
  if (entry.ip.v6) {
    const std::uint32_t flags = IFA_F_NODAD;
    put_attribute(payload, IFA_FLAGS, bytes_of(flags));
    if (deprecated) {
      const ifa_cacheinfo times{0, 0xffffffff, 0, 0};
      put_attribute(payload, IFA_CACHEINFO, bytes_of(times));
    }
  } else {
    if (entry.prefix < 31) put_attribute(payload, IFA_BROADCAST, broadcast_of(entry.ip, entry.prefix).view());
    if (!entry.label.empty())
      put_attribute(payload, IFA_LABEL, std::string_view(entry.label.c_str(), entry.label.size() + 1));
  }
  return payload;
}

bool uses(const std::map<int, std::string_view>& attrs, unsigned link, std::span<const IpAddress> sources) {
  if (attrs.contains(RTA_OIF) && load<unsigned>(attrs.at(RTA_OIF)) == link) return true;
  if (attrs.contains(RTA_MULTIPATH)) {  // any hop over the link
    std::string_view hops = attrs.at(RTA_MULTIPATH);
    while (hops.size() >= sizeof(rtnexthop)) {
      const auto hop = load<rtnexthop>(hops);
      if (static_cast<unsigned>(hop.rtnh_ifindex) == link) return true;
      if (hop.rtnh_len < sizeof(rtnexthop)) break;
      hops.remove_prefix(std::min(hops.size(), static_cast<std::size_t>(RTNH_ALIGN(hop.rtnh_len))));
    }
  }
  if (!attrs.contains(RTA_PREFSRC)) return false;
  const auto source = ip_from_bytes(attrs.at(RTA_PREFSRC));
  return source && std::ranges::find(sources, *source) != sources.end();
}

// What the kernel tells and what it takes differ in flags and in the cache figures.
std::string restorable(std::string_view payload) {
  auto header = load<rtmsg>(payload);
  header.rtm_flags &= RTNH_F_ONLINK;
  std::string result(bytes_of(header));
  for (const auto& [type, data] : attributes(payload, sizeof(rtmsg)))
    if (type != RTA_CACHEINFO) put_attribute(result, static_cast<unsigned short>(type), data);
  return result;
}

}  // namespace

bool AddressEntry::secondary() const {
  return !ip.v6 && (flags & IFA_F_SECONDARY) != 0;
}
bool AddressEntry::tentative() const {
  return (flags & IFA_F_TENTATIVE) != 0;
}

Result<Netlink> Netlink::open() {
  Fd fd(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!fd) return errno_failure("rtnetlink: socket", errno);
  // The kernel answers within the call that sends; the timeout is for a kernel that does not.
  const timeval patience{5, 0};
  const int room = 4 << 20;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVBUF, &room, sizeof room);
  const int strict = 1;
  ::setsockopt(fd.get(), SOL_NETLINK, NETLINK_GET_STRICT_CHK, &strict, sizeof strict);
  const int cap = 1;  // acknowledgements without the request's bytes
  ::setsockopt(fd.get(), SOL_NETLINK, NETLINK_CAP_ACK, &cap, sizeof cap);
  return Netlink(std::move(fd));
}

Result<std::vector<std::string>> Netlink::dump(int type, std::string_view header) {
  for (int attempt = 0; attempt < 10; ++attempt) {
    bool interrupted = false;
    std::vector<std::string> payloads = TRY(dump_once(type, header, interrupted));
    if (!interrupted) return payloads;
  }
  return retry("rtnetlink: the tables change faster than they can be read");
}

Result<std::vector<std::string>> Netlink::dump_once(int type, std::string_view header, bool& interrupted) {
  const nlmsghdr head{static_cast<std::uint32_t>(NLMSG_LENGTH(header.size())),
                      static_cast<std::uint16_t>(type), NLM_F_REQUEST | NLM_F_DUMP, 1, 0};
  std::string request(bytes_of(head));
  request.append(header);
  if (::send(fd_.get(), request.data(), request.size(), 0) < 0)
    return errno_failure("rtnetlink: dump", errno);
  std::vector<std::string> payloads;
  std::vector<char> buffer(1 << 16);
  while (true) {
    const ssize_t got = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (got < 0) return errno_failure("rtnetlink: dump", errno);
    std::string_view rest(buffer.data(), static_cast<std::size_t>(got));
    while (rest.size() >= sizeof(nlmsghdr)) {
      const auto message = load<nlmsghdr>(rest);
      if (message.nlmsg_len < sizeof(nlmsghdr) || message.nlmsg_len > rest.size())
        return corrupt("rtnetlink: a message is cut short");
      const std::string_view payload = rest.substr(NLMSG_HDRLEN, message.nlmsg_len - NLMSG_HDRLEN);
      interrupted = interrupted || (message.nlmsg_flags & NLM_F_DUMP_INTR) != 0;
      if (message.nlmsg_type == NLMSG_DONE) return payloads;
      if (message.nlmsg_type == NLMSG_ERROR) return errno_failure("rtnetlink: dump", -load<int>(payload));
      payloads.emplace_back(payload);
      rest.remove_prefix(std::min(rest.size(), static_cast<std::size_t>(NLMSG_ALIGN(message.nlmsg_len))));
    }
  }
}

Result<std::vector<int>> Netlink::batch(int type, int flags, std::span<const std::string> payloads) {
  std::string request;
  std::uint32_t sequence = 0;
  for (const std::string& payload : payloads) {
    const nlmsghdr head{static_cast<std::uint32_t>(NLMSG_LENGTH(payload.size())),
                        static_cast<std::uint16_t>(type),
                        static_cast<std::uint16_t>(NLM_F_REQUEST | NLM_F_ACK | flags), ++sequence, 0};
    request.append(bytes_of(head)).append(payload);
    request.resize(NLMSG_ALIGN(request.size()));
  }
  std::vector<int> codes(payloads.size(), 0);
  if (payloads.empty()) return codes;
  if (::send(fd_.get(), request.data(), request.size(), 0) < 0)
    return errno_failure("rtnetlink: send", errno);
  std::vector<char> buffer(1 << 16);
  for (std::size_t answered = 0; answered < payloads.size();) {
    const ssize_t got = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
    if (got < 0)
      return failure(ErrorKind::unknown, fmt::format("rtnetlink: no answer: {}", std::strerror(errno)));
    std::string_view rest(buffer.data(), static_cast<std::size_t>(got));
    while (rest.size() >= sizeof(nlmsghdr)) {
      const auto message = load<nlmsghdr>(rest);
      if (message.nlmsg_len < sizeof(nlmsghdr) || message.nlmsg_len > rest.size()) break;
      if (message.nlmsg_type == NLMSG_ERROR && message.nlmsg_seq >= 1 && message.nlmsg_seq <= codes.size()) {
        codes[message.nlmsg_seq - 1] = -load<int>(rest.substr(NLMSG_HDRLEN));
        ++answered;
      }
      rest.remove_prefix(std::min(rest.size(), static_cast<std::size_t>(NLMSG_ALIGN(message.nlmsg_len))));
    }
  }
  return codes;
}

Result<std::vector<Link>> Netlink::links() {
  const ifinfomsg header{};
  std::vector<Link> links;
  for (const std::string& payload : TRY(dump(RTM_GETLINK, bytes_of(header)))) {
    const auto info = load<ifinfomsg>(payload);
    const auto attrs = attributes(payload, sizeof info);
    Link link{.index = static_cast<unsigned>(info.ifi_index), .up = (info.ifi_flags & IFF_UP) != 0};
    if (attrs.contains(IFLA_IFNAME))
      link.name = attrs.at(IFLA_IFNAME).substr(0, attrs.at(IFLA_IFNAME).find('\0'));
    if (attrs.contains(IFLA_ADDRESS) && attrs.at(IFLA_ADDRESS).size() == 6)
      link.mac = load<Mac>(attrs.at(IFLA_ADDRESS));
    links.push_back(std::move(link));
  }
  return links;
}

Result<Link> Netlink::link(std::string_view name) {
  for (Link& link : TRY(links()))
    if (link.name == name) return std::move(link);
  return refused(fmt::format("there is no device {}", name), "correct `dev` in the manifest");
}

Result<std::vector<AddressEntry>> Netlink::addresses() {
  const ifaddrmsg header{};
  std::vector<AddressEntry> entries;
  for (const std::string& payload : TRY(dump(RTM_GETADDR, bytes_of(header)))) {
    const auto info = load<ifaddrmsg>(payload);
    const auto attrs = attributes(payload, sizeof info);
    const int key = attrs.contains(IFA_LOCAL) ? IFA_LOCAL : IFA_ADDRESS;
    const auto ip = attrs.contains(key) ? ip_from_bytes(attrs.at(key)) : std::nullopt;
    if (!ip) continue;
    AddressEntry entry{*ip, info.ifa_prefixlen, info.ifa_index, info.ifa_flags, info.ifa_scope, {}};
    if (attrs.contains(IFA_FLAGS)) entry.flags = load<std::uint32_t>(attrs.at(IFA_FLAGS));
    if (attrs.contains(IFA_LABEL))
      entry.label = attrs.at(IFA_LABEL).substr(0, attrs.at(IFA_LABEL).find('\0'));
    entries.push_back(std::move(entry));
  }
  return entries;
}

Result<> Netlink::add(std::span<const AddressEntry> entries, bool deprecated) {
  std::vector<std::string> payloads;
  for (const AddressEntry& entry : entries) payloads.push_back(address_payload(entry, deprecated));
  const std::vector<int> codes = TRY(batch(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, payloads));
  for (std::size_t i = 0; i < codes.size(); ++i)
    if (codes[i] != 0 && codes[i] != EEXIST)
      return errno_failure("adding " + to_string(entries[i].ip), codes[i]);
  return {};
}

Result<> Netlink::remove(std::span<const AddressEntry> entries) {
  // A primary's deletion takes its secondaries along, or promotes one: so secondaries first.
  std::vector<AddressEntry> sorted(entries.begin(), entries.end());
  std::ranges::stable_partition(sorted, [](const AddressEntry& entry) { return entry.secondary(); });
  std::vector<std::string> payloads;
  for (const AddressEntry& entry : sorted) {
    AddressEntry plain = entry;
    plain.label.clear();
    payloads.push_back(address_payload(plain, false));
  }
  const std::vector<int> codes = TRY(batch(RTM_DELADDR, 0, payloads));
  for (std::size_t i = 0; i < codes.size(); ++i)
    if (codes[i] != 0 && codes[i] != EADDRNOTAVAIL)
      return errno_failure("deleting " + to_string(sorted[i].ip), codes[i]);
  return {};
}

Result<std::vector<std::string>> Netlink::routes(unsigned link, std::span<const IpAddress> sources) {
  std::vector<std::string> found;
  for (const int family : {AF_INET, AF_INET6}) {
    rtmsg header{};
    header.rtm_family = static_cast<unsigned char>(family);
    for (const std::string& payload : TRY(dump(RTM_GETROUTE, bytes_of(header)))) {
      const auto info = load<rtmsg>(payload);
      if (info.rtm_protocol == RTPROT_KERNEL || info.rtm_protocol == RTPROT_RA ||
          info.rtm_table == RT_TABLE_LOCAL || (info.rtm_flags & RTM_F_CLONED) != 0)
        continue;
      if (uses(attributes(payload, sizeof info), link, sources)) found.push_back(restorable(payload));
    }
  }
  return found;
}

Result<> Netlink::restore_routes(std::span<const std::string> routes) {
  // A gateway must be on a link route: those without a gateway first.
  std::vector<std::string> sorted(routes.begin(), routes.end());
  std::ranges::stable_partition(sorted, [](const std::string& route) {
    const auto attrs = attributes(route, sizeof(rtmsg));
    return !attrs.contains(RTA_GATEWAY) && !attrs.contains(RTA_MULTIPATH) && !attrs.contains(RTA_VIA);
  });
  const std::vector<int> codes = TRY(batch(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, sorted));
  for (const int code : codes)
    if (code != 0 && code != EEXIST) return errno_failure("putting a route back", code);
  return {};
}

Result<std::vector<GatewayRoute>> Netlink::gateway_routes() {
  std::vector<GatewayRoute> found;
  for (const int family : {AF_INET, AF_INET6}) {
    rtmsg header{};
    header.rtm_family = static_cast<unsigned char>(family);
    for (const std::string& payload : TRY(dump(RTM_GETROUTE, bytes_of(header)))) {
      const auto info = load<rtmsg>(payload);
      const auto attrs = attributes(payload, sizeof info);
      const auto gateway = attrs.contains(RTA_GATEWAY) ? ip_from_bytes(attrs.at(RTA_GATEWAY)) : std::nullopt;
      if (!gateway || info.rtm_table != RT_TABLE_MAIN || info.rtm_protocol == RTPROT_RA || (info.rtm_flags & RTM_F_CLONED) != 0)
        continue;
      const auto to = attrs.contains(RTA_DST) ? ip_from_bytes(attrs.at(RTA_DST)) : std::nullopt;
      const auto text = fmt::format("{} via {}", to ? fmt::format("{}/{}", to_string(*to), info.rtm_dst_len) : "default", to_string(*gateway));
      found.push_back({*gateway, info.rtm_dst_len == 0, text, payload});
    }
  }
  return found;
}

Result<> Netlink::replace_gateway(const GatewayRoute& route, const IpAddress& gateway, unsigned link) {
  auto header = load<rtmsg>(route.raw);
  header.rtm_flags = 0;
  std::string payload(bytes_of(header));
  for (const auto& [type, data] : attributes(route.raw, sizeof(rtmsg))) {
    if (type == RTA_CACHEINFO || type == RTA_PREFSRC || type == RTA_GATEWAY || type == RTA_OIF) continue;
    put_attribute(payload, static_cast<unsigned short>(type), data);
  }
  put_attribute(payload, RTA_GATEWAY, gateway.view());
  put_attribute(payload, RTA_OIF, bytes_of(link));
  const std::vector<std::string> one{payload};
  const int code = TRY(batch(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, one))[0];
  if (code != 0) return errno_failure(fmt::format("leading '{}' over {}", route.text, to_string(gateway)), code);
  return {};
}

Result<unsigned> Netlink::default_route_link(bool v6) {
  rtmsg header{};
  header.rtm_family = v6 ? AF_INET6 : AF_INET;
  for (const std::string& payload : TRY(dump(RTM_GETROUTE, bytes_of(header)))) {
    const auto info = load<rtmsg>(payload);
    const auto attrs = attributes(payload, sizeof info);
    if (info.rtm_dst_len == 0 && info.rtm_table == RT_TABLE_MAIN && info.rtm_type == RTN_UNICAST &&
        attrs.contains(RTA_OIF))
      return load<unsigned>(attrs.at(RTA_OIF));
  }
  return 0u;
}

}  // namespace midstream
