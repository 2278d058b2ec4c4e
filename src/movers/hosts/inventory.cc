#include "movers/hosts/inventory.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "movers/mover.h"

namespace midstream {

namespace {

struct Known {
  std::string_view prefix;
  std::string_view why;
};

// By the process that listens.
constexpr std::array<Known, 10> kListeners{{{"sshd", "how the host is managed; new has its own"},
                                            {"systemd-resolve", "the host's own resolver"},
                                            {"systemd-network", "the host's own address"},
                                            {"systemd-timesyn", "the host's own clock"},
                                            {"chronyd", "the host's own clock"},
                                            {"ntpd", "the host's own clock"},
                                            {"dhclient", "the host's own address"},
                                            {"dhcpcd", "the host's own address"},
                                            {"NetworkManager", "the host's own address"},
                                            {"midstream", "midstream's own"}}};

constexpr std::string_view kSystem = "the system's own; new has its own";
constexpr std::array<std::string_view, 56> kUnits{"midstream-agent-",
                                                  "midstream-probe-",
                                                  "systemd-",
                                                  "dbus",
                                                  "getty@",
                                                  "serial-getty@",
                                                  "container-getty@",
                                                  "console-getty",
                                                  "user@",
                                                  "user-runtime-dir@",
                                                  "ssh.",
                                                  "sshd",
                                                  "ssh@",
                                                  "cron.",
                                                  "anacron",
                                                  "rsyslog",
                                                  "syslog",
                                                  "networking",
                                                  "ifup@",
                                                  "NetworkManager",
                                                  "polkit",
                                                  "udisks2",
                                                  "unattended-upgrades",
                                                  "apparmor",
                                                  "keyboard-setup",
                                                  "console-setup",
                                                  "e2scrub",
                                                  "kmod-static-nodes",
                                                  "lvm2-",
                                                  "blk-availability",
                                                  "chrony",
                                                  "ntp",
                                                  "qemu-guest-agent",
                                                  "irqbalance",
                                                  "smart",
                                                  "mdmonitor",
                                                  "mdcheck",
                                                  "cloud-",
                                                  "wpa_supplicant",
                                                  "ModemManager",
                                                  "accounts-daemon",
                                                  "apt-daily",
                                                  "dpkg-db-backup",
                                                  "fstrim",
                                                  "logrotate",
                                                  "man-db",
                                                  "motd-news",
                                                  "rc-local",
                                                  "plymouth",
                                                  "open-vm-tools",
                                                  "fwupd",
                                                  "multipathd",
                                                  "ufw",
                                                  "nftables",
                                                  "netfilter-persistent",
                                                  "atop"};
constexpr std::array<std::string_view, 16> kCrons{"/etc/crontab",
                                                  "/etc/cron.d/e2scrub_all",
                                                  "/etc/cron.d/anacron",
                                                  "/etc/cron.d/mdadm",
                                                  "/etc/cron.d/sysstat",
                                                  "/etc/cron.d/zfsutils-linux",
                                                  "/etc/cron.daily/apt-compat",
                                                  "/etc/cron.daily/dpkg",
                                                  "/etc/cron.daily/logrotate",
                                                  "/etc/cron.daily/man-db",
                                                  "/etc/cron.weekly/man-db",
                                                  "/etc/cron.daily/0anacron",
                                                  "/etc/cron.weekly/0anacron",
                                                  "/etc/cron.monthly/0anacron",
                                                  "/etc/cron.daily/sysstat",
                                                  "/etc/cron.daily/mdadm"};

template <class List>
std::string_view why_known(const List& list, std::string_view name) {
  for (const auto& known : list) {
    if (name.starts_with(known.prefix)) return known.why;
  }
  return "";
}

class Taker {
 public:
  Taker(const Inventory& seen, const Cover& cover) : seen_(seen), cover_(cover) {}

  std::vector<InventoryItem> run() {
    for (const auto& one : seen_.old_side.sockets) add("listen " + one.socket.text(), who(one), by_socket(one));
    for (const auto& one : seen_.old_side.units) {
      if (!one.listens) add("unit " + one.name, "it runs or begins with the host", by_unit(one.name));
    }
    for (const auto& one : seen_.old_side.crons) add(one.line, fmt::format("{} jobs", one.jobs), by_cron(one.line));
    for (const auto& one : seen_.old_side.mounts) add("mount " + one.path, one.type, by_mount(one.path));
    for (const auto& one : seen_.old_side.databases) add("database " + one.path, of_database(one), by_database(one));
    for (const auto& one : seen_.trees)
      add("tree " + one.path,
          one.stopped.empty() ? fmt::format("{} changed within {} days", printable(one.changed), cover_.days)
                              : one.stopped,
          "");
    host();
    return std::move(items_);
  }

 private:
  void add(std::string line, std::string detail, std::string by) {
    if (by.empty() && accepted(line)) by = "accepted in the manifest";
    items_.push_back({std::move(line), std::move(detail), std::move(by)});
  }
  bool accepted(const std::string& line) const { return std::ranges::find(cover_.accept, line) != cover_.accept.end(); }
  bool moves(const std::string& address) const {
    return std::ranges::find(cover_.addresses, address) != cover_.addresses.end();
  }

  static std::string who(const SeenSocket& one) {
    if (one.process.empty()) return "the kernel itself (an NFS server, a tunnel)";
    return one.unit.empty() ? printable(one.process) + ", of no unit"
                            : fmt::format("{}, unit {}", printable(one.process), one.unit);
  }

  std::string by_socket(const SeenSocket& one) const {
    const auto& socket = one.socket;
    if (one.ours) return "midstream's own";
    if (std::ranges::find(cover_.units, one.unit) != cover_.units.end()) return "a unit that is handed over";
    for (const auto& [port, service] : cover_.clusters) {
      if (!socket.udp && one.process == "postgres" && socket.port == port) return "service " + service;
    }
    for (const auto& at : cover_.servers) {
      if (!socket.udp && socket.port == at.port && (socket.any() || socket.address == at.address)) return at.by;
    }
    if (const auto why = why_known(kListeners, one.process);
        !why.empty() && !(moves(socket.address) && one.process == "sshd"))
      return std::string(why);
    if (socket.udp && socket.port >= seen_.ephemeral.first && socket.port <= seen_.ephemeral.second)
      return "a client's: the kernel gave it the port";
    if (!one.unit.empty() && accepted("unit " + one.unit)) return "its unit is accepted in the manifest";
    if (answers_on_new(socket)) return fmt::format("new listens on port {} too", socket.port);
    return "";
  }

  // Loopback answers for loopback; what users reach is reached on new's own addresses before those that move are there.
  bool answers_on_new(const ListeningSocket& socket) const {
    return std::ranges::any_of(seen_.new_side.sockets, [&](const SeenSocket& theirs) {
      const auto& other = theirs.socket;
      if (other.udp != socket.udp || other.port != socket.port) return false;
      return socket.loopback() ? other.any() || other.address == socket.address : !other.loopback();
    });
  }

  std::string by_unit(const std::string& name) const {
    const auto bare = name.ends_with(".service") ? name.substr(0, name.size() - 8) : name;
    for (const auto& unit : cover_.units) {
      if (unit == name || unit == bare) return "handed over";
    }
    for (const auto prefix : kUnits) {
      if (name.starts_with(prefix)) return std::string(kSystem);
    }
    const bool there =
        std::ranges::any_of(seen_.new_side.units, [&](const SeenUnit& theirs) { return theirs.name == name; });
    return there ? "new runs it too" : "";
  }

  std::string by_cron(const std::string& line) const {
    const auto path = line.substr(5);
    if (std::ranges::find(kCrons, path) != kCrons.end()) return std::string(kSystem);
    for (const auto& unit : cover_.units) {
      if (unit.starts_with("cron@") && path == "/etc/cron.d/" + unit.substr(5)) return "handed over";
    }
    return "";
  }

  std::string by_mount(const std::string& path) const {
    if (path == "/" || path == "/boot" || path.starts_with("/boot/")) return std::string(kSystem);
    for (const auto& tree : cover_.trees) {
      if (tree.path == path || tree.path.starts_with(path + "/")) return tree.by;
    }
    const bool there =
        std::ranges::any_of(seen_.new_side.mounts, [&](const SeenMount& theirs) { return theirs.path == path; });
    return there ? "new mounts something there too; what changes in it is looked for" : "";
  }

  static std::string of_database(const SeenDatabase& one) {
    return one.port > 0 ? fmt::format("{} on port {}", one.kind, one.port) : fmt::format("data of {}", one.kind);
  }

  std::string by_database(const SeenDatabase& one) const {
    for (const auto& [port, service] : cover_.clusters) {
      if (one.kind == "PostgreSQL" && one.port == port) return "service " + service;
    }
    return "";
  }

  void host() {
    const auto& old_side = seen_.old_side;
    const bool managed_at_moving = std::ranges::any_of(old_side.sockets, [&](const SeenSocket& one) {
      return one.process == "sshd" && (moves(one.socket.address) || (one.socket.any() && !cover_.addresses.empty()));
    });
    if (managed_at_moving) {
      const bool same = old_side.host_keys == seen_.new_side.host_keys;
      add("ssh host keys",
          same ? "the same on both"
               : "sshd answers at an address that moves, and new has other keys: who logs in there will be warned",
          same ? "new has the same" : "");
    }
    if (old_side.firewall_rules > 0)
      add("firewall", fmt::format("{} rules on old, {} on new", old_side.firewall_rules, seen_.new_side.firewall_rules),
          seen_.new_side.firewall_rules > 0 ? "new has rules of its own; compare them" : "");
    for (const auto& name : old_side.certificates) {
      const bool there = std::ranges::find(seen_.new_side.certificates, name) != seen_.new_side.certificates.end();
      add("certificates " + name, "/etc/letsencrypt/live", there ? "new has one of that name" : "");
    }
  }

  const Inventory& seen_;
  const Cover& cover_;
  std::vector<InventoryItem> items_;
};

}  // namespace

Result<Cover> parse_cover(const Json& desired) {
  Cover cover;
  cover.addresses = TRY(get_strings(desired, "addresses"));
  cover.units = TRY(get_strings(desired, "units"));
  cover.accept = TRY(get_strings(desired, "accept"));
  cover.mail = get_string_or(desired, "mail", "");
  cover.days = static_cast<int>(get_int_or(desired, "days", cover.days));
  for (const auto& one : desired.value("servers", Json::array()))
    cover.servers.push_back({TRY(get_string(one, "address")), static_cast<std::uint16_t>(TRY(get_int(one, "port"))),
                             TRY(get_string(one, "by"))});
  for (const auto& one : desired.value("clusters", Json::array()))
    cover.clusters.emplace_back(static_cast<int>(TRY(get_int(one, "port"))), TRY(get_string(one, "by")));
  for (const auto& one : desired.value("trees", Json::array()))
    cover.trees.push_back({TRY(get_string(one, "path")), TRY(get_string(one, "by"))});
  return cover;
}

std::vector<InventoryItem> take_inventory(const Inventory& seen, const Cover& cover) {
  return Taker(seen, cover).run();
}

Json findings_of(const std::vector<InventoryItem>& items, const std::string& old_host) {
  Json list = Json::array();
  for (const auto& item : items) {
    if (!item.cover.empty()) {
      list.push_back(finding(item.line + " is covered", true, fmt::format("{} ({})", item.cover, item.detail)));
      continue;
    }
    list.push_back(finding(
        item.line + " is covered", false, item.detail,
        fmt::format("let the manifest move it, or accept in writing that it stays behind on {}: accept: [ \"{}\" ]",
                    old_host, item.line)));
  }
  return list;
}

}  // namespace midstream
