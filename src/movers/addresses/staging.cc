// Staging: the addresses on `lo`, so that services bind to them and can be tried from here, while nobody on
// the wire is answered. Tried on Linux 6.1 and 6.18: an IPv6 address on lo is never answered for on another
// device; an IPv4 one is, unless arp_ignore >= 1 (3 is silent too, because of the scope), and without
// arp_announce = 2 it shows up as the sender of ARP requests when a service that is bound to it talks to a
// neighbour.
#include <fmt/format.h>
#include <linux/rtnetlink.h>

#include <algorithm>
#include <mutex>

#include "movers/addresses/local_side.h"
#include "movers/addresses/proc.h"
#include "sys/file.h"

namespace midstream {
namespace {

constexpr const char* kIgnore = "net/ipv4/conf/all/arp_ignore";
constexpr const char* kAnnounce = "net/ipv4/conf/all/arp_announce";

// The record: {"sets": [ids], "before": {sysctl: value}, "during": {sysctl: value}}.
Result<Json> silence_record(const std::filesystem::path& state) {
  std::error_code error;
  if (!std::filesystem::exists(state / "silence", error)) return Json::object();
  return parse_json(TRY(read_file(state / "silence")));
}

std::mutex& silence_mutex() {
  static std::mutex mutex;  // guards the file and the host's sysctls, which are no object's own
  return mutex;
}

std::vector<AddressEntry> staged_entries(const AddressSet& set, unsigned lo) {
  std::vector<AddressEntry> entries;
  for (const IpAddress& address : set.addresses)
    entries.push_back({address,
                       address.v6 ? 128 : 32,
                       lo,
                       0,
                       static_cast<std::uint8_t>(address.v6 ? RT_SCOPE_UNIVERSE : RT_SCOPE_HOST),
                       {}});
  return entries;
}

}  // namespace

Result<> hold_arp_silence(const std::filesystem::path& state, const std::string& id) {
  const std::lock_guard lock(silence_mutex());
  Json record = TRY(silence_record(state));
  if (!record.contains("before")) {
    const std::string ignore = TRY(read_sysctl(kIgnore));
    const std::string announce = TRY(read_sysctl(kAnnounce));
    record = {{"sets", Json::array()},
              {"before", {{kIgnore, ignore}, {kAnnounce, announce}}},
              {"during", {{kIgnore, ignore == "0" ? "1" : ignore}, {kAnnounce, "2"}}}};
  }
  Json& sets = record["sets"];
  if (std::find(sets.begin(), sets.end(), Json(id)) == sets.end()) sets.push_back(id);
  CHECK_OK(write_file_durably(state / "silence", record.dump()));
  for (const char* name : {kIgnore, kAnnounce})
    CHECK_OK(write_sysctl(name, TRY(get_string(record["during"], name))));
  return {};
}

Result<> drop_arp_silence(const std::filesystem::path& state, const std::string& id) {
  const std::lock_guard lock(silence_mutex());
  Json record = TRY(silence_record(state));
  if (!record.contains("before")) return {};
  Json& sets = record["sets"];
  sets.erase(std::remove(sets.begin(), sets.end(), Json(id)), sets.end());
  if (!sets.empty()) return write_file_durably(state / "silence", record.dump());
  for (const char* name : {kIgnore, kAnnounce})  // one that somebody else has set meanwhile is theirs
    if (TRY(read_sysctl(name)) == TRY(get_string(record["during"], name)))
      CHECK_OK(write_sysctl(name, TRY(get_string(record["before"], name))));
  return remove_file_durably(state / "silence");
}

Result<> LocalSide::stage() {
  if (TRY(title()).holding == Holding::owner) return {};
  CHECK_OK(write_file_durably(path("stage"), Json{{"desired", set_.raw}, {"host", host_}}.dump()));
  options_.checkpoint("stage: noted");
  return restage();
}

Result<> LocalSide::restage() {
  if (!TRY(load("stage")) || TRY(title()).holding == Holding::owner) return {};
  CHECK_OK(hold_arp_silence(state_, set_.id));
  options_.checkpoint("stage: silent");
  Netlink netlink = TRY(Netlink::open());
  return netlink.add(staged_entries(set_, TRY(netlink.link("lo")).index), true);
}

Result<> LocalSide::unstage(bool forget) {
  if (!TRY(load("stage"))) return {};
  Netlink netlink = TRY(Netlink::open());
  CHECK_OK(netlink.remove(staged_entries(set_, TRY(netlink.link("lo")).index)));
  CHECK_OK(drop_arp_silence(state_, set_.id));
  if (forget) CHECK_OK(remove_file_durably(path("stage")));
  return {};
}

Result<bool> LocalSide::staged() {
  Netlink netlink = TRY(Netlink::open());
  return TRY(configured(netlink, TRY(netlink.link("lo")).index)).size() == set_.addresses.size();
}

}  // namespace midstream
