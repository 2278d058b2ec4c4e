// What is found on a host, whose it is, and what of it is covered; real sockets and files, and sizes as sums.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include <fmt/format.h>

#include "movers/hosts/inventory.h"
#include "movers/hosts/size.h"
#include "sys/fd.h"

namespace midstream {
namespace {

namespace fs = std::filesystem;

SeenSocket socket_of(const std::string& address, int port, const std::string& process, const std::string& unit = "",
                     bool udp = false) {
  return {{udp, address, static_cast<std::uint16_t>(port), 1}, process, unit, false};
}

// What covers `line`; "nothing" where it is listed and not covered, "absent" where it is not listed.
std::string cover_of(const std::vector<InventoryItem>& items, const std::string& line) {
  for (const auto& item : items)
    if (item.line == line) return item.cover.empty() ? "nothing" : item.cover;
  return "absent";
}

class InventoryTest : public testing::Test {
 protected:
  std::vector<InventoryItem> take() { return take_inventory({old_, new_, trees_, {32768, 60999}}, cover_); }

  Survey old_, new_;
  std::vector<SeenTree> trees_;
  Cover cover_{.addresses = {"192.0.2.10", "2001:db8::10"},
               .servers = {{"10.77.0.11", 8081, "server web-1 of service web"}},
               .clusters = {{5432, "db"}},
               .trees = {{"/srv/shop", "service web"}},
               .units = {"invoices", "cron@report"}};
};

TEST_F(InventoryTest, SocketsAreCoveredByWhoKnowsThem) {
  old_.sockets = {socket_of("10.77.0.11", 5432, "postgres"),
                  socket_of("10.77.0.11", 5433, "postgres"),
                  socket_of("10.77.0.11", 8081, "lab-shop"),
                  socket_of("10.77.0.11", 8082, "lab-shop"),
                  socket_of("0.0.0.0", 9000, "worker", "invoices"),
                  socket_of("10.77.0.11", 22, "sshd"),
                  socket_of("::", 80, "haproxy"),
                  socket_of("192.0.2.10", 443, "nginx"),
                  socket_of("2001:db8::10", 443, "nginx"),
                  socket_of("127.0.0.1", 6379, "redis-server", "redis"),
                  socket_of("127.0.0.1", 11211, "memcached"),
                  socket_of("0.0.0.0", 2049, ""),
                  socket_of("0.0.0.0", 40000, "named", "", true),
                  socket_of("0.0.0.0", 514, "rsyslogd", "", true)};
  new_.sockets = {socket_of("::", 80, "haproxy"), socket_of("127.0.0.1", 443, "nginx"),
                  socket_of("127.0.0.1", 11211, "memcached"), socket_of("10.77.0.12", 6379, "redis")};
  const auto items = take();
  EXPECT_EQ(cover_of(items, "listen 10.77.0.11:5432"), "service db");
  EXPECT_EQ(cover_of(items, "listen 10.77.0.11:5433"), "nothing") << "another cluster";
  EXPECT_EQ(cover_of(items, "listen 10.77.0.11:8081"), "server web-1 of service web");
  EXPECT_EQ(cover_of(items, "listen 10.77.0.11:8082"), "nothing");
  EXPECT_EQ(cover_of(items, "listen 0.0.0.0:9000"), "a unit that is handed over");
  EXPECT_EQ(cover_of(items, "listen 10.77.0.11:22"), "how the host is managed; new has its own");
  EXPECT_EQ(cover_of(items, "listen [::]:80"), "new listens on port 80 too");
  EXPECT_EQ(cover_of(items, "listen 192.0.2.10:443"), "nothing") << "on new it answers on loopback alone";
  EXPECT_EQ(cover_of(items, "listen [2001:db8::10]:443"), "nothing");
  EXPECT_EQ(cover_of(items, "listen 127.0.0.1:6379"), "nothing") << "on new it does not answer on loopback";
  EXPECT_EQ(cover_of(items, "listen 127.0.0.1:11211"), "new listens on port 11211 too");
  EXPECT_EQ(cover_of(items, "listen 0.0.0.0:2049"), "nothing");
  EXPECT_EQ(cover_of(items, "listen udp 0.0.0.0:40000"), "a client's: the kernel gave it the port");
  EXPECT_EQ(cover_of(items, "listen udp 0.0.0.0:514"), "nothing");
}

TEST_F(InventoryTest, WhatIsAcceptedInWritingIsCovered) {
  old_.sockets = {socket_of("127.0.0.1", 6379, "redis-server", "redis"),
                  socket_of("127.0.0.1", 6380, "redis-server", "redis-2")};
  old_.units = {{"redis", true}, {"backup.timer", false}};
  trees_ = {{"/data/x", "/data/x/f", ""}};
  auto items = take();
  for (const char* line : {"listen 127.0.0.1:6379", "listen 127.0.0.1:6380", "unit backup.timer", "tree /data/x"})
    EXPECT_EQ(cover_of(items, line), "nothing");
  EXPECT_EQ(cover_of(items, "unit redis"), "absent") << "its socket stands for it";
  const auto findings = findings_of(items, "pluto");
  EXPECT_TRUE(std::ranges::any_of(findings, [](const Json& one) {
    return one["ok"] == false &&
           one["todo"].get<std::string>().find("accept: [ \"listen 127.0.0.1:6379\" ]") != std::string::npos;
  })) << findings.dump(1);
  cover_.accept = {"unit redis", "listen 127.0.0.1:6380", "unit backup.timer", "tree /data/x"};
  items = take();
  for (const auto& item : items) EXPECT_FALSE(item.cover.empty()) << item.line;
}

TEST_F(InventoryTest, UnitsCronMountsDatabases) {
  old_.units = {{"invoices", false},
                {"systemd-journald.service", false},
                {"nightly.timer", false},
                {"both.service", false},
                {"midstream-agent-m.service", false}};
  new_.units = {{"both.service", false}};
  old_.crons = {{"cron /etc/cron.d/report", 1},
                {"cron /etc/crontab", 4},
                {"cron user root", 2},
                {"cron /etc/cron.daily/logrotate", 1}};
  old_.mounts = {{"/", "ext4"}, {"/srv/shop", "ext4"}, {"/mnt/nas", "nfs4"}, {"/usr", "ext4"}};
  new_.mounts = {{"/usr", ""}};
  old_.databases = {{"/var/lib/postgresql/15/main", "PostgreSQL", 5432},
                    {"/var/lib/postgresql/13/main", "PostgreSQL", 0},
                    {"/var/lib/mysql", "MySQL or MariaDB", 0}};
  const auto items = take();
  EXPECT_EQ(cover_of(items, "unit invoices"), "handed over");
  EXPECT_EQ(cover_of(items, "unit systemd-journald.service"), "the system's own; new has its own");
  EXPECT_EQ(cover_of(items, "unit midstream-agent-m.service"), "the system's own; new has its own");
  EXPECT_EQ(cover_of(items, "unit nightly.timer"), "nothing");
  EXPECT_EQ(cover_of(items, "unit both.service"), "new runs it too");
  EXPECT_EQ(cover_of(items, "cron /etc/cron.d/report"), "handed over");
  EXPECT_EQ(cover_of(items, "cron user root"), "nothing");
  EXPECT_EQ(cover_of(items, "cron /etc/cron.daily/logrotate"), "the system's own; new has its own");
  EXPECT_EQ(cover_of(items, "mount /srv/shop"), "service web");
  EXPECT_EQ(cover_of(items, "mount /mnt/nas"), "nothing");
  EXPECT_NE(cover_of(items, "mount /usr"), "nothing");
  EXPECT_EQ(cover_of(items, "database /var/lib/postgresql/15/main"), "service db");
  EXPECT_EQ(cover_of(items, "database /var/lib/postgresql/13/main"), "nothing");
  EXPECT_EQ(cover_of(items, "database /var/lib/mysql"), "nothing");
}

TEST_F(InventoryTest, KeysFirewallCertificates) {
  old_.sockets = {socket_of("0.0.0.0", 22, "sshd")};
  new_.sockets = old_.sockets;
  old_.host_keys = {"ssh-ed25519 AAAA"};
  new_.host_keys = {"ssh-ed25519 BBBB"};
  old_.firewall_rules = 3;
  old_.certificates = {"shop.example"};
  auto items = take();
  EXPECT_EQ(cover_of(items, "ssh host keys"), "nothing");
  EXPECT_EQ(cover_of(items, "firewall"), "nothing");
  EXPECT_EQ(cover_of(items, "certificates shop.example"), "nothing");
  new_.host_keys = old_.host_keys;
  new_.firewall_rules = 1;
  new_.certificates = old_.certificates;
  items = take();
  for (const auto& item : items) EXPECT_FALSE(item.cover.empty()) << item.line;
  old_.sockets = {socket_of("10.77.0.11", 22, "sshd")};  // managed over an address that stays
  EXPECT_EQ(cover_of(take(), "ssh host keys"), "absent");
}

TEST(Sockets, TablesOfTheKernel) {
  const std::string tcp =
      "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
      "   0: 0100007F:18EB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0 100 0 0 10 "
      "0\n"
      "   1: 0100007F:18EB 0100007F:9000 01 00000000:00000000 00:00000000 00000000     0        0 4243 1 0 100 0 0 10 "
      "0\n"
      "   2: garbage\n";
  const auto parsed = parse_socket_table(tcp, false, false);
  ASSERT_EQ(parsed.size(), 1u);
  EXPECT_EQ(parsed[0].text(), "127.0.0.1:6379");
  EXPECT_EQ(parsed[0].inode, 4242u);
  const std::string udp6 =
      "   0: 00000000000000000000000001000000:0143 00000000000000000000000000000000:0000 07 0:0 0:0 0 0 0 7 2 0 0\n";
  const auto v6 = parse_socket_table(udp6, true, true);
  ASSERT_EQ(v6.size(), 1u);
  EXPECT_EQ(v6[0].text(), "udp [::1]:323");
}

// A socket of this very process is found, with its holder.
TEST(Sockets, OfAProcessThatRuns) {
  const Fd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(fd.get(), 1), 0);
  socklen_t size = sizeof address;
  ::getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &size);
  const auto sockets = listening_sockets();
  ASSERT_TRUE(sockets);
  const auto found = std::ranges::find(*sockets, ntohs(address.sin_port), &ListeningSocket::port);
  ASSERT_NE(found, sockets->end());
  const auto holders = socket_holders();
  ASSERT_TRUE(holders.contains(found->inode));
  EXPECT_NE(std::ranges::find(holders.at(found->inode), ::getpid()), holders.at(found->inode).end());
}

class TreesTest : public testing::Test {
 protected:
  void SetUp() override {
    // Not on tmpfs, which holds no data that outlives the host.
    root_ = fs::absolute(fmt::format("inventory-test-{}", ::getpid()));
    fs::create_directories(root_);
  }
  void TearDown() override { fs::remove_all(root_); }
  void file(const std::string& path, int days_old = 0) {
    const auto at = root_ / path.substr(1);
    fs::create_directories(at.parent_path());
    std::ofstream(at) << "x";
    fs::last_write_time(at, fs::file_time_type::clock::now() - std::chrono::hours(24 * days_old));
  }
  std::vector<std::string> changed(const std::vector<std::string>& covered = {}) {
    std::vector<std::string> paths;
    for (const auto& tree : changed_trees(root_, covered, 7, Deadline::in(Millis(10'000)))) paths.push_back(tree.path);
    return paths;
  }
  fs::path root_;
};

TEST_F(TreesTest, WhatChangedAndIsNotCovered) {
  file("/srv/shop/uploads/a");
  file("/srv/wiki/pages/deep/b");
  file("/srv/old/c", 30);
  file("/var/lib/app/state");
  file("/var/lib/dpkg/status");
  file("/var/log/syslog");
  file("/etc/hosts");
  file("/data/big/d");
  file("/root/.bash_history");
  file("/root/scripts/run");
  file("/usr/local/share/e");
  file("/usr/lib/f");
  fs::create_symlink("/srv/old/c", root_ / "srv/old/link");
  EXPECT_EQ(changed({"/srv/shop"}),
            (std::vector<std::string>{"/data", "/root/scripts", "/srv/wiki", "/usr/local/share", "/var/lib/app"}));
  EXPECT_EQ(changed({"/srv/shop", "/srv/wiki/pages", "/data", "/root", "/usr/local", "/var/lib/app"}),
            std::vector<std::string>{});
}

TEST_F(TreesTest, WhatTakesTooLongIsSaid) {
  for (int i = 0; i < 300; ++i) file("/srv/many/f" + std::to_string(i), 30);
  const auto found = changed_trees(root_, {}, 7, Deadline::in(Millis(0)));
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].path, "/srv/many");
  EXPECT_FALSE(found[0].stopped.empty());
}

TEST(Cron, JobsAreCountedAndSettingsAreNot) {
  EXPECT_EQ(
      count_jobs(
          "# m h\nSHELL=/bin/sh\nMAILTO = root\n\n*/5 * * * * root /usr/bin/x A=b\n@daily root y\n17 * * * * z\n"),
      3u);
  EXPECT_EQ(count_jobs(""), 0u);
}

TEST(Mounts, VirtualOnesAreLeftOut) {
  const auto mounts = parse_mounts(
      "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n23 22 0:21 / /proc rw - proc proc rw\n"
      "24 22 0:40 / /mnt/nas rw shared:2 master:1 - nfs4 nas:/x rw\nbroken\n");
  ASSERT_EQ(mounts.size(), 2u);
  EXPECT_EQ(mounts[1].path, "/mnt/nas");
  EXPECT_EQ(mounts[1].type, "nfs4");
}

constexpr std::uint64_t kMiB = 1u << 20;

std::string failed(const Json& findings) {
  std::string text;
  for (const auto& one : findings)
    if (one["ok"] == false) text += one["what"].get<std::string>() + ": " + one["detail"].get<std::string>() + "\n";
  return text;
}

TEST(Size, EachWishWithItsSum) {
  const HostSize host{
      .memory = 1'000 * kMiB, .cpus = 4, .rooms = {{"/", 1, 300 * kMiB, 500}, {"/srv", 2, 100 * kMiB, 500}}};
  EXPECT_EQ(failed(judge_size({.memory = 1'000 * kMiB, .disk = 400 * kMiB, .inodes = 1'000, .cpus = 4}, host, {}, {})),
            "");
  EXPECT_EQ(failed(judge_size({.memory = 1'001 * kMiB, .disk = 401 * kMiB, .inodes = 1'001, .cpus = 5}, host, {}, {})),
            "memory at least 1001.0 MiB: has 1000.0 MiB\nprocessors at least 5: has 4\n"
            "free disk at least 401.0 MiB: has 400.0 MiB = 300.0 MiB at / + 100.0 MiB at /srv\nfree inodes at least "
            "1001: has 1000\n");
}

TEST(Size, NewGrowsAndHoldsWhatMoves) {
  const HostSize host{.memory = 1'500 * kMiB, .cpus = 4};
  const HostSize old_side{.memory = 1'000 * kMiB, .cpus = 2};
  const Room room{"/srv/shop", 1, 120 * kMiB, 240};
  const std::vector<Landing> fits{{{"/srv/shop", 60 * kMiB, 100, false}, room},
                                  {{"PostgreSQL of db", 40 * kMiB, 100, false}, room}};
  EXPECT_EQ(failed(judge_size({.grow = 1.5}, host, old_side, fits)), "");
  EXPECT_EQ(failed(judge_size({.grow = 2.5}, host, old_side, {})),
            "memory at least 2.5x that of old: needs 2.5 x 1000.0 MiB = 2.4 GiB, has 1.5 GiB\n"
            "processors at least 2.5x that of old: needs 2.5 x 2 = 5, has 4\n");
  auto much = fits;
  much[1].use.bytes += kMiB;
  EXPECT_EQ(failed(judge_size({.grow = 1}, host, old_side, much)),
            "room for what moves to the file system of /srv/shop: /srv/shop 60.0 MiB + PostgreSQL of db 41.0 MiB and a "
            "fifth more: "
            "needs 121.2 MiB and 240 inodes, has 120.0 MiB and 240\n");
  // On two file systems each has its own sum.
  much[1].room = {"/var/lib", 2, 50 * kMiB, 200};
  EXPECT_EQ(failed(judge_size({.grow = 1}, host, old_side, much)), "");
}

TEST_F(TreesTest, UseCountsHardLinksOnce) {
  const std::string bytes(100'000, 'x');
  fs::create_directories(root_ / "t");
  std::ofstream(root_ / "t/a") << bytes;
  fs::create_hard_link(root_ / "t/a", root_ / "t/b");
  const auto use = use_of("t", (root_ / "t").string(), Deadline::in(Millis(5'000)));
  ASSERT_TRUE(use);
  EXPECT_EQ(use->inodes, 1u);
  EXPECT_GE(use->bytes, 98'304u);
  EXPECT_LT(use->bytes, 200'000u);
  EXPECT_FALSE(use->bound);
}

TEST(Size, RoomOfAPathThatIsNotThereYet) {
  const auto room = room_at("/srv/not/there/yet");
  ASSERT_TRUE(room);
  EXPECT_GT(room->bytes, 0u);
}

}  // namespace
}  // namespace midstream
