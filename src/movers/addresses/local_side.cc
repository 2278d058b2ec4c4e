#include "movers/addresses/local_side.h"

#include <fmt/format.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <utility>

#include "base/text.h"
#include "movers/addresses/flows.h"
#include "movers/addresses/proc.h"
#include "sys/file.h"
#include "sys/log.h"

namespace midstream {
namespace {

std::string promote_name(const std::string& dev) {
  return "net/ipv4/conf/" + dev + "/promote_secondaries";
}

double ms_between(std::chrono::nanoseconds from, std::chrono::nanoseconds to) {
  return std::chrono::duration<double, std::milli>(to - from).count();
}

}  // namespace

LocalSide::LocalSide(AddressSet set, std::string host, std::filesystem::path state,
                     const AddressesOptions& options, std::stop_token stop)
    : set_(std::move(set)),
      host_(std::move(host)),
      state_(std::move(state)),
      options_(options),
      stop_(std::move(stop)) {}

std::filesystem::path LocalSide::path(std::string_view suffix) const {
  return state_ / fmt::format("{}.{}", set_.id, suffix);
}

Result<std::optional<Json>> LocalSide::load(std::string_view suffix) const {
  std::error_code error;
  if (!std::filesystem::exists(path(suffix), error)) return std::optional<Json>();
  return std::optional(TRY(parse_json(TRY(read_file(path(suffix))))));
}

Result<Title> LocalSide::title() {
  if (const auto stored = TRY(load("title"))) return title_from_json(TRY(get_object(*stored, "title")));
  Title implied;
  if (host_ != set_.from.host) return implied;
  Netlink netlink = TRY(Netlink::open());
  const Link link = TRY(netlink.link(me().dev));
  if (!TRY(configured(netlink, link.index)).empty()) implied.holding = Holding::owner;
  return implied;
}

Result<> LocalSide::store_title(const Title& title, const Task& task) {
  const Json record{{"title", to_json(title)},
                    {"host", host_},
                    {"move", task.move},
                    {"step", task.step},
                    {"desired", set_.raw}};
  return write_file_durably(path("title"), record.dump());
}

Result<> LocalSide::store_kept(const Kept& kept) {
  Json entries = Json::array();
  for (const AddressEntry& entry : kept.entries)
    entries.push_back({{"address", to_string(entry.ip)},
                       {"prefix", entry.prefix},
                       {"scope", entry.scope},
                       {"label", entry.label}});
  Json routes = Json::array();
  for (const std::string& route : kept.routes) routes.push_back(to_hex(route));
  Json files = Json::array();
  for (const FileChange& change : kept.files) files.push_back(to_json(change));
  const Json record{{"turn", kept.turn},
                    {"entries", entries},
                    {"routes", routes},
                    {"files", files},
                    {"promote", kept.promote}};
  return write_file_durably(path("kept"), record.dump());
}

Result<std::optional<LocalSide::Kept>> LocalSide::load_kept(unsigned link) const {
  const auto record = TRY(load("kept"));
  if (!record) return std::optional<Kept>();
  Kept kept{.turn = static_cast<std::uint64_t>(TRY(get_int(*record, "turn"))),
            .promote = TRY(get_string(*record, "promote"))};
  for (const Json& one : record->value("entries", Json::array())) {
    const auto ip = parse_ip(TRY(get_string(one, "address")));
    if (!ip) return corrupt(fmt::format("{}: an address cannot be read", path("kept").string()));
    kept.entries.push_back({*ip, static_cast<int>(TRY(get_int(one, "prefix"))), link, 0,
                            static_cast<std::uint8_t>(TRY(get_int(one, "scope"))),
                            TRY(get_string(one, "label"))});
  }
  for (const std::string& route : TRY(get_strings(*record, "routes"))) {
    auto bytes = from_hex(route);
    if (!bytes) return corrupt(fmt::format("{}: a route cannot be read", path("kept").string()));
    kept.routes.push_back(std::move(*bytes));
  }
  for (const Json& file : record->value("files", Json::array()))
    kept.files.push_back(TRY(file_change_from_json(file)));
  return std::optional(std::move(kept));
}

// Ours on the link `on`, or on any; `others`: the link's (or host's) other global addresses instead.
Result<std::vector<AddressEntry>> LocalSide::configured(Netlink& netlink, std::optional<unsigned> on,
                                                        bool others) {
  std::vector<AddressEntry> found;
  for (AddressEntry& entry : TRY(netlink.addresses()))
    if ((!on || entry.index == *on) && set_.contains(entry.ip) != others &&
        (!others || entry.scope == RT_SCOPE_UNIVERSE))
      found.push_back(std::move(entry));
  return found;
}

Result<Json> LocalSide::status(bool full) {
  Netlink netlink = TRY(Netlink::open());
  const Link link = TRY(netlink.link(me().dev));
  Json here = Json::array();
  for (const AddressEntry& entry : TRY(configured(netlink, link.index))) here.push_back(to_string(entry.ip));
  Json result{{"title", to_json(TRY(title()))},
              {"configured", here},
              {"mac", to_string(link.mac)},
              {"staged", TRY(staged())}};
  if (!full) return result;
  Json others = Json::array();
  for (const AddressEntry& entry : TRY(configured(netlink, std::nullopt, true)))
    others.push_back(to_string(entry.ip));
  const BootConfig config = TRY(find_boot_config(options_.root, me().dev, link.index));
  Json persisted = Json::array();
  Json unclear = Json::array();
  if (config.manager != NetworkManager::foreign) {
    const Unpersisting plan = TRY(plan_unpersist(config, me().dev, set_.as_set()));
    for (const IpAddress& address : plan.found) persisted.push_back(to_string(address));
    unclear = plan.unclear;
  }
  result.update({{"others", others},
                 {"up", link.up},
                 {"manager", config.name},
                 {"manager_known", config.manager != NetworkManager::foreign},
                 {"persisted", persisted},
                 {"unclear", unclear},
                 {"capable", TRY(may_change_network())},
                 {"default4", TRY(netlink.default_route_link(false)) != 0},
                 {"default6", TRY(netlink.default_route_link(true)) != 0}});
  return result;
}

Result<LocalSide::Kept> LocalSide::gather(Netlink& netlink, const Link& link, std::uint64_t turn) {
  Kept kept{.turn = turn, .entries = TRY(configured(netlink, link.index))};
  if (kept.entries.size() < set_.addresses.size())
    return refused(fmt::format("{} has only {} of the {} addresses on {}", host_, kept.entries.size(),
                               set_.addresses.size(), link.name),
                   "correct `addresses` in the manifest, or configure them");
  kept.routes = TRY(netlink.routes(link.index, set_.addresses));
  const BootConfig config = TRY(find_boot_config(options_.root, link.name, link.index));
  if (config.manager == NetworkManager::foreign)
    return refused(fmt::format("{} on {} is configured at boot by {}, which midstream does not edit",
                               link.name, host_, config.name),
                   "let ifupdown or systemd-networkd configure it");
  Unpersisting plan = TRY(plan_unpersist(config, link.name, set_.as_set()));
  if (!plan.unclear.empty())
    return refused(fmt::format("{} cannot be edited safely: {}", config.main.string(), plan.unclear.front()),
                   "write one `up ip addr add` line for each address");
  kept.files = std::move(plan.changes);
  return kept;
}

Result<Json> LocalSide::prepare(std::uint64_t turn, const Task& task) {
  const Title before = TRY(title());
  const Title next = TRY(begin_yield(before, turn, task.epoch));
  if (next.holding == Holding::yielded) return Json::object();
  Netlink netlink = TRY(Netlink::open());
  const Link link = TRY(netlink.link(me().dev));
  std::optional<Kept> kept;
  if (before.holding == Holding::yielding) kept = TRY(load_kept(link.index));
  if (!kept || kept->turn != turn) {
    kept = TRY(gather(netlink, link, turn));
    CHECK_OK(store_kept(*kept));
  }
  options_.checkpoint("prepare: kept");
  CHECK_OK(store_title(next, task));
  options_.checkpoint("prepare: yielding");
  if (auto done = apply_changes(kept->files); !done) {
    CHECK_OK(keep(turn, task));
    return std::unexpected(done.error());
  }
  options_.checkpoint("prepare: unpersisted");
  return Json::object();
}

Result<> LocalSide::delete_addresses(Netlink& netlink, const Link& link, Kept& kept) {
  std::vector<AddressEntry> ours;
  std::vector<IpAddress> stays;
  for (AddressEntry& entry : TRY(netlink.addresses())) {
    if (set_.contains(entry.ip))
      ours.push_back(std::move(entry));
    else if (entry.secondary() && entry.index == link.index)
      stays.push_back(entry.ip);
  }
  if (!stays.empty() && kept.promote.empty()) {  // else they go with their primary
    kept.promote = TRY(read_sysctl(promote_name(link.name)));
    CHECK_OK(store_kept(kept));
    CHECK_OK(write_sysctl(promote_name(link.name), "1"));
  }
  CHECK_OK(netlink.remove(ours));
  if (!kept.promote.empty()) CHECK_OK(write_sysctl(promote_name(link.name), kept.promote));
  std::vector<IpAddress> left;
  for (const AddressEntry& entry : TRY(netlink.addresses())) {
    if (set_.contains(entry.ip)) left.push_back(entry.ip);
    std::erase(stays, entry.ip);
  }
  if (!left.empty())
    return retry(fmt::format("{} came back on {} right after being deleted", some_of(left), host_));
  if (!stays.empty())
    return retry(fmt::format("{} on {} went away with the addresses that move", some_of(stays), host_));
  return {};
}

Result<Json> LocalSide::release(std::uint64_t turn, const Task& task) {
  const Title before = TRY(title());
  const Title next = TRY(finish_yield(before, turn, task.epoch));
  if (before.holding == Holding::yielded) return Json{{"flows_cut", 0}};
  Netlink netlink = TRY(Netlink::open());
  const Link link = TRY(netlink.link(me().dev));
  std::optional<Kept> kept = TRY(load_kept(link.index));
  if (!kept || kept->turn != turn) return corrupt(fmt::format("{} is missing", path("kept").string()));
  const std::int64_t flows = TRY(count_flows(set_.addresses));
  // A client that waits for an answer would not learn otherwise that nobody is there any more. Not worth a failure.
  if (const auto reset = reset_flows(set_.addresses); !reset) log_warn("addresses", "{}", reset.error().text());
  auto done = delete_addresses(netlink, link, *kept);
  if (done) {
    options_.checkpoint("release: deleted");
    done = store_title(next, task);
  }
  if (!done) {  // not yielded: still ours alone
    CHECK_OK(put_back(netlink, link, kept));
    return std::unexpected(done.error());
  }
  options_.checkpoint("release: yielded");
  return Json{{"flows_cut", flows}};
}

// The addresses and routes as they were kept, or as the desired state has them.
Result<> LocalSide::put_back(Netlink& netlink, const Link& link, const std::optional<Kept>& kept) {
  std::vector<AddressEntry> entries;
  if (kept && !kept->entries.empty()) {
    entries = kept->entries;
    // The kernel tells IPv6 addresses newest first.
    const auto v6 =
        std::ranges::stable_partition(entries, [](const AddressEntry& entry) { return !entry.ip.v6; });
    std::ranges::reverse(v6);
  } else {
    for (const Prefixed& one : set_.prefixed())
      entries.push_back({one.address, one.prefix, link.index, 0, RT_SCOPE_UNIVERSE, {}});
  }
  CHECK_OK(netlink.add(entries));
  if (kept && !kept->promote.empty()) CHECK_OK(write_sysctl(promote_name(link.name), kept->promote));
  if (kept) CHECK_OK(netlink.restore_routes(kept->routes));
  return {};
}

Result<Json> LocalSide::keep(std::uint64_t turn, const Task& task) {
  const Title before = TRY(title());
  const Title next = TRY(midstream::keep(before, turn, task.epoch));
  if (before.holding == Holding::owner) return Json::object();
  Netlink netlink = TRY(Netlink::open());
  const Link link = TRY(netlink.link(me().dev));
  CHECK_OK(put_back(netlink, link, TRY(load_kept(link.index))));
  CHECK_OK(persist());
  CHECK_OK(store_title(next, task));
  return Json::object();
}

Result<Json> LocalSide::ready(const Task& task) {
  Title now = TRY(title());
  if (task.epoch < now.epoch)
    return failure(ErrorKind::fenced, "title of the addresses: a newer epoch has acted");
  now.epoch = task.epoch;
  CHECK_OK(store_title(now, task));
  Netlink netlink = TRY(Netlink::open());
  const Link link = TRY(netlink.link(me().dev));
  const BootConfig config = TRY(find_boot_config(options_.root, link.name, link.index));
  if (config.manager == NetworkManager::foreign)
    return refused(fmt::format("{} on {} is configured at boot by {}, which midstream does not edit",
                               link.name, host_, config.name),
                   "let ifupdown or systemd-networkd configure it");
  return Json::object();
}

// Who else claims one of the addresses; what was heard of the gateways goes to `gateways`.
Result<std::vector<Claim>> LocalSide::contested(Wire& wire, std::vector<Claim>& gateways) {
  std::vector<IpAddress> all = set_.addresses;
  all.insert(all.end(), set_.gateways.begin(), set_.gateways.end());
  std::vector<Claim> ours;
  // Not to be stopped half-way: it is over in milliseconds, and until then the addresses may be with nobody.
  for (const Claim& claim : TRY(wire.ask(all, Asking{}, {})))
    (set_.contains(claim.address) ? ours : gateways).push_back(claim);
  return ours;
}

bool LocalSide::forwards() const {
  return read_sysctl("net/ipv6/conf/" + me().dev + "/forwarding").value_or("0") != "0";
}

Result<Json> LocalSide::take(std::uint64_t turn, bool force, const Task& task) {
  const Title before = TRY(title());
  const Title next = TRY(midstream::take(before, turn, task.epoch));
  Netlink netlink = TRY(Netlink::open());
  const Link link = TRY(netlink.link(me().dev));
  const auto kept = TRY(load_kept(link.index));
  const bool there = TRY(configured(netlink, link.index)).size() == set_.addresses.size();
  Wire wire = TRY(Wire::open(link.name));
  std::vector<Claim> gateways;
  if (!there) {
    const std::vector<Claim> others = TRY(contested(wire, gateways));
    if (!others.empty() && !force)
      return refused(fmt::format("{} is answered by {} although nobody should own it",
                                 to_string(others[0].address), to_string(others[0].mac)),
                     "find the host with that hardware address and take the address from it");
    options_.checkpoint("take: probed");
  }
  CHECK_OK(store_title(next, task));
  options_.checkpoint("take: owner");
  CHECK_OK(put_back(netlink, link, kept));
  options_.checkpoint("take: added");
  const auto said = TRY(wire.announce(set_.addresses, forwards(), gateways, {}));
  options_.checkpoint("take: announced");
  CHECK_OK(unstage(false));
  Json since = Json::array();
  for (const auto at : said) since.push_back(ms_between(at, boot_now()));
  return Json{{"since_announced_ms", since}};
}

Result<Json> LocalSide::persist() {
  Netlink netlink = TRY(Netlink::open());
  const Link link = TRY(netlink.link(me().dev));
  const BootConfig config = TRY(find_boot_config(options_.root, link.name, link.index));
  if (const auto kept = TRY(load_kept(link.index)))
    if (!TRY(revert_changes(kept->files)))
      log_warn("addresses", "a file of {} was edited meanwhile and is left as it is", config.name);
  // Whatever the files lack now, be it that they never had it or that somebody edited them, is added.
  const Unpersisting plan = TRY(plan_unpersist(config, link.name, set_.as_set()));
  std::vector<Prefixed> missing = set_.prefixed();
  std::erase_if(missing, [&](const Prefixed& one) { return plan.found.contains(one.address); });
  const bool never_was = host_ == set_.from.host && plan.found.empty() && plan.changes.empty();
  if (!missing.empty() && !never_was) {
    const std::string comment =
        fmt::format("written by midstream: addresses that {} owns since they moved from {}", host_,
                    set_.other(host_).host);
    CHECK_OK(persist_addresses(config, link.name, missing, set_.id, comment));
  }
  options_.checkpoint("persist: written");
  CHECK_OK(remove_file_durably(path("kept")));
  return Json::object();
}

Result<Json> LocalSide::renounce(std::uint64_t turn, const Task& task) {
  CHECK_OK(store_title(TRY(midstream::renounce(TRY(title()), turn, task.epoch)), task));
  return Json::object();
}

Result<bool> LocalSide::announce_again(std::uint64_t turn) {
  const Title now = TRY(title());
  if (now.holding != Holding::owner || now.turn != turn) return false;
  Wire wire = TRY(Wire::open(me().dev));
  CHECK_OK(wire.announce(set_.addresses, forwards(), {}, stop_));
  return true;
}

Result<std::string> LocalSide::recover(const Task& task) {
  const Title now = TRY(title());
  Netlink netlink = TRY(Netlink::open());
  const Link link = TRY(netlink.link(me().dev));
  const std::vector<AddressEntry> here = TRY(configured(netlink, link.index));
  if (now.holding == Holding::yielding) {  // nobody else may own at this turn: go back
    CHECK_OK(keep(now.turn, task));
    return "the handover was cut short before the addresses were yielded; they stayed here";
  }
  if (now.holding == Holding::owner) {
    if (!link.up) return retry(fmt::format("{} is down", link.name), "bring the device up");
    CHECK_OK(take(now.turn, false, task));
    CHECK_OK(persist());
    return "";
  }
  std::string note;
  if (!here.empty() && now.turn > 0) {
    CHECK_OK(netlink.remove(here));
    note = fmt::format("{} addresses were configured again on {} although {} has yielded them: removed",
                       here.size(), me().dev, host_);
  }
  CHECK_OK(restage());
  return note;
}

}  // namespace midstream
