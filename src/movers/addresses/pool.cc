#include "movers/addresses/pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/text.h"
#include "movers/addresses/boot_config.h"
#include "movers/addresses/netlink.h"
#include "movers/addresses/proc.h"
#include "movers/mover.h"
#include "sys/file.h"

namespace midstream {
namespace {

namespace fs = std::filesystem;

// Behind midstream-set-*, which configures the subnet's addresses: ifupdown goes by the order of names.
constexpr std::string_view kGatewayFile = "midstream-subnet-gateway";

// What stands in the way, or what is to be done: all of it is known before anything is changed.
struct Farewell {
  std::vector<AddressEntry> leaving;
  std::vector<std::pair<GatewayRoute, IpAddress>> routes;  // and the gateway that takes the place
  std::vector<FileChange> files;
  std::set<IpAddress> at_boot;  // would come back
  std::vector<std::string> obstacles;
  Link link;  // of the subnet
  BootConfig boot;
};

bool reaches(const AddressEntry& entry, const IpAddress& gateway) {
  const int bits = static_cast<int>(entry.ip.size()) * 8;
  return entry.ip.v6 == gateway.v6 && entry.prefix < bits && same_subnet(entry.ip, gateway, entry.prefix);
}

// Routes over gateways that nobody reaches any more once the pool's addresses are gone.
Result<> find_routes(Netlink& netlink, const PoolRelease& pool, const std::vector<AddressEntry>& all, Farewell& farewell) {
  for (const GatewayRoute& route : TRY(netlink.gateway_routes())) {
    const auto on_link = [&](const AddressEntry& entry) { return reaches(entry, route.gateway); };
    const auto stays = [&](const AddressEntry& entry) { return on_link(entry) && std::ranges::find(pool.addresses, entry.ip) == pool.addresses.end(); };
    if (std::ranges::none_of(farewell.leaving, on_link) || std::ranges::any_of(all, stays)) continue;
    const auto other = std::ranges::find_if(pool.gateways, [&](const IpAddress& one) { return one.v6 == route.gateway.v6; });
    if (route.is_default && other != pool.gateways.end()) {
      farewell.routes.emplace_back(route, *other);
    } else {
      farewell.obstacles.push_back(fmt::format("the route {} on {} needs the pool's addresses", route.text, pool.host));
    }
  }
  return {};
}

Result<> find_files(Netlink& netlink, const PoolRelease& pool, const fs::path& root, Farewell& farewell) {
  const std::set<IpAddress> leaving(pool.addresses.begin(), pool.addresses.end());
  for (const Link& link : TRY(netlink.links())) {
    const BootConfig config = TRY(find_boot_config(root, link.name, link.index));
    const bool concerned = link.name == pool.dev || std::ranges::any_of(farewell.leaving, [&](const auto& entry) { return entry.index == link.index; });
    if (link.name == pool.dev) farewell.link = link, farewell.boot = config;
    if (!concerned) continue;
    if (config.manager == NetworkManager::foreign) {
      farewell.obstacles.push_back(fmt::format("{} on {} is configured at boot by {}, which midstream does not edit", link.name, pool.host, config.name));
      continue;
    }
    auto plan = TRY(plan_unpersist(config, link.name, leaving));
    farewell.at_boot.insert(plan.found.begin(), plan.found.end());
    for (const auto& line : plan.unclear) farewell.obstacles.push_back(fmt::format("this cannot be edited safely: {}", line));
    for (auto& change : plan.changes) {
      const bool known = std::ranges::any_of(farewell.files, [&](const auto& one) { return one.path == change.path; });
      if (!known) farewell.files.push_back(std::move(change));
    }
  }
  if (farewell.link.index == 0) return refused(fmt::format("{} has no device {}", pool.host, pool.dev));
  return {};
}

Result<Farewell> look(Netlink& netlink, const PoolRelease& pool, const fs::path& root) {
  Farewell farewell;
  const auto all = TRY(netlink.addresses());
  for (const AddressEntry& entry : all) {
    if (std::ranges::find(pool.addresses, entry.ip) != pool.addresses.end()) farewell.leaving.push_back(entry);
  }
  CHECK_OK(find_routes(netlink, pool, all, farewell));
  CHECK_OK(find_files(netlink, pool, root, farewell));
  return farewell;
}

std::string gateway_text(const Farewell& farewell, const std::string& dev, const std::set<IpAddress>& gateways) {
  std::string text = "# written by midstream: default routes of the subnet that has followed\n";
  const bool networkd = farewell.boot.manager == NetworkManager::networkd;
  if (networkd) text += "[Network]\n";
  for (const auto& gateway : gateways) {
    if (networkd) {
      text += fmt::format("Gateway={}\n", to_string(gateway));
    } else {
      text += fmt::format("iface {0} inet{1} manual\n\tup ip{2} route replace default via {3} dev {0}\n", dev, gateway.v6 ? "6" : "",
                          gateway.v6 ? " -6" : "", to_string(gateway));
    }
  }
  return text;
}

// systemd-networkd keeps a gateway in a line of its own; ifupdown's goes with its address.
void drop_gateways(Farewell& farewell, std::vector<FileChange>& files) {
  for (const auto& path : farewell.boot.manager == NetworkManager::networkd ? farewell.boot.files : std::vector<fs::path>{}) {
    auto change = std::ranges::find_if(files, [&](const auto& one) { return one.path == path; });
    const auto before = change == files.end() ? read_file(path).value_or("") : change->after;
    std::string after;
    for (const auto& line : split(before, '\n')) {
      const bool goes = std::ranges::any_of(farewell.routes, [&](const auto& one) { return trim(line) == "Gateway=" + to_string(one.first.gateway); });
      if (!goes) after += line + "\n";
    }
    after.pop_back();  // behind the last part there was no end of line
    if (after == before) continue;
    if (change == files.end()) {
      files.push_back({path, true, before, after, false});
    } else {
      change->after = after;
    }
  }
}

// Where boot is told of the gateways: a file of ours, or, where ifupdown looks at one file alone, its end.
Result<fs::path> gateway_file(const BootConfig& boot) {
  if (boot.manager == NetworkManager::networkd) return fs::path(boot.main.string() + ".d") / fmt::format("{}.conf", kGatewayFile);
  if (!sources_interfaces_d(TRY(read_file(boot.main)))) return boot.main;
  return boot.main.parent_path() / "interfaces.d" / kGatewayFile;
}

// Those that an earlier, broken off attempt has written stay: the kernel may know them already.
Result<> write_gateways(const Farewell& farewell, const PoolRelease& pool) {
  if (farewell.routes.empty()) return {};
  const auto path = TRY(gateway_file(farewell.boot));
  const auto there = read_file(path).value_or("");
  std::set<IpAddress> gateways;
  for (const auto& [route, gateway] : farewell.routes) gateways.insert(gateway);
  for (const auto& gateway : pool.gateways) {
    for (const auto* way : {"route replace default via {} ", "Gateway={}\n"}) {
      if (path != farewell.boot.main && there.find(fmt::format(fmt::runtime(way), to_string(gateway))) != std::string::npos) gateways.insert(gateway);
    }
  }
  const auto text = gateway_text(farewell, pool.dev, gateways);
  if (path == farewell.boot.main)
    return there.find(text) != std::string::npos ? Result<>() : write_file_durably(path, there + (there.ends_with('\n') ? "\n" : "\n\n") + text, 0644);
  CHECK_OK(make_directories(path.parent_path(), 0755));
  return write_file_durably(path, text, 0644);
}

// A primary address takes the others of its subnet along, unless the kernel is told to promote one of them.
Result<> remove_addresses(Netlink& netlink, const std::vector<AddressEntry>& leaving) {
  std::map<std::string, std::string> promote;
  for (const Link& link : TRY(netlink.links())) {
    if (std::ranges::none_of(leaving, [&](const auto& entry) { return entry.index == link.index && !entry.ip.v6; })) continue;
    const auto name = fmt::format("net/ipv4/conf/{}/promote_secondaries", link.name);
    promote[name] = TRY(read_sysctl(name));
    CHECK_OK(write_sysctl(name, "1"));
  }
  auto removed = netlink.remove(leaving);
  for (const auto& [name, value] : promote) {
    if (auto back = write_sysctl(name, value); removed && !back) removed = back;
  }
  return removed;
}

}  // namespace

Result<PoolRelease> parse_pool_release(const Json& desired) {
  PoolRelease pool{.host = TRY(get_string(desired, "host")), .dev = TRY(get_string(desired, "dev"))};
  const auto ips = [&](std::string_view key) -> Result<std::vector<IpAddress>> {
    std::vector<IpAddress> list;
    for (const auto& text : TRY(get_strings(desired, key))) {
      const auto ip = parse_ip(text);
      if (!ip) return corrupt(fmt::format("desired: '{}' is not a numeric address", printable(text)));
      list.push_back(*ip);
    }
    return list;
  };
  if (pool.dev.empty() || pool.dev.size() > 15 || pool.dev.find_first_of("/ \n") != std::string::npos)
    return corrupt(fmt::format("desired: '{}' is not a device name", printable(pool.dev)));
  pool.addresses = TRY(ips("addresses"));
  pool.gateways = TRY(ips("gateways"));
  return pool;
}

Result<Json> observe_pool(const PoolRelease& pool, const fs::path& root) {
  Netlink netlink = TRY(Netlink::open());
  const auto farewell = TRY(look(netlink, pool, root));
  std::set<IpAddress> left = farewell.at_boot;
  for (const auto& entry : farewell.leaving) left.insert(entry.ip);
  const std::vector<IpAddress> list(left.begin(), left.end());
  Json result = observation(list.empty(), list.empty() ? "" : fmt::format("{} are still on {}", some_of(list), pool.host));
  result["left"] = list.size();
  return result;
}

Result<Json> release_pool(const PoolRelease& pool, const fs::path& root) {
  Netlink netlink = TRY(Netlink::open());
  auto farewell = TRY(look(netlink, pool, root));
  if (!farewell.obstacles.empty())
    return refused(join(farewell.obstacles, "; "), fmt::format("change that on {}, or leave the pool out of the manifest", pool.host));
  // Old friends keep their sessions; those that begin and end on this very host are seen by nobody else.
  if (const auto flows = TRY(count_flows(pool.addresses)); flows > 0)
    return retry(fmt::format("{} connections still end at {} on {}", flows, some_of(pool.addresses), pool.host),
                 "let their programs connect anew: the names lead to the subnet again");
  // Boot first: what the kernel has now can be lost at any time.
  CHECK_OK(write_gateways(farewell, pool));
  auto files = farewell.files;
  drop_gateways(farewell, files);
  // Two devices in one file are two edits of it.
  for (int round = 0; round < 3 && !files.empty(); ++round) {
    CHECK_OK(apply_changes(files));
    files = TRY(look(netlink, pool, root)).files;
  }
  for (const auto& [route, gateway] : farewell.routes) CHECK_OK(netlink.replace_gateway(route, gateway, farewell.link.index));
  CHECK_OK(remove_addresses(netlink, farewell.leaving));
  return Json{{"addresses", farewell.leaving.size()}, {"routes", farewell.routes.size()}};
}

Result<Json> check_pool(const PoolRelease& pool, const fs::path& root) {
  Netlink netlink = TRY(Netlink::open());
  const auto farewell = TRY(look(netlink, pool, root));
  return Json::array({finding(fmt::format("{} can leave {} at the end", some_of(pool.addresses), pool.host), farewell.obstacles.empty(),
                              join(farewell.obstacles, "; "), fmt::format("change that on {}, or leave the pool out of the manifest", pool.host))});
}

}  // namespace midstream
