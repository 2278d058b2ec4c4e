// The parts that need no kernel: addresses, frames, titles, configuration files, socket tables.
#include <gtest/gtest.h>

#include "movers/addresses/address_set.h"
#include "movers/addresses/frames.h"
#include "movers/addresses/interfaces.h"
#include "movers/addresses/proc.h"
#include "movers/title.h"

namespace midstream {
namespace {

IpAddress ip(std::string_view text) {
  return *parse_ip(text);
}
const Mac kOwn{0x02, 0, 0, 0, 0, 0x0a};
const Mac kOther{0x02, 0, 0, 0, 0, 0x0b};

TEST(Ip, Subnets) {
  EXPECT_TRUE(same_subnet(ip("192.0.2.10"), ip("192.0.2.63"), 26));
  EXPECT_FALSE(same_subnet(ip("192.0.2.10"), ip("192.0.2.64"), 26));
  EXPECT_FALSE(same_subnet(ip("192.0.2.10"), ip("2001:db8::1"), 0));
  EXPECT_TRUE(same_subnet(ip("2001:db8:26::10"), ip("2001:db8:26::ffff"), 64));
  EXPECT_EQ(to_string(broadcast_of(ip("192.0.2.10"), 26)), "192.0.2.63");
  EXPECT_FALSE(parse_ip("192.0.2.256"));
  EXPECT_FALSE(parse_ip("192.0.2.10/26"));
  EXPECT_EQ(parse_mac(to_string(kOwn)), kOwn);
  EXPECT_FALSE(parse_mac("02:00:00:00:00:0g"));
}

TEST(Frames, ArpAnnouncementClaims) {
  const auto frames = announcement_frames(kOwn, ip("192.0.2.10"), false);
  ASSERT_EQ(frames.size(), 2u);
  EXPECT_EQ(frames[0][21], 1);  // request, target hardware address all ones
  EXPECT_EQ(frames[0].substr(32, 6), std::string(6, '\xff'));
  EXPECT_EQ(frames[1][21], 2);  // reply, target = sender
  EXPECT_EQ(frames[1].substr(32, 6), frames[1].substr(22, 6));
  for (const std::string& frame : frames) EXPECT_EQ(parse_claim(frame), (Claim{ip("192.0.2.10"), kOwn}));
  const std::string directed = directed_frame(kOwn, ip("192.0.2.10"), false, kOther, ip("192.0.2.1"));
  EXPECT_EQ(directed.substr(0, 6), std::string_view("\x02\0\0\0\0\x0b", 6));
  EXPECT_EQ(parse_claim(directed), (Claim{ip("192.0.2.10"), kOwn}));
}

TEST(Frames, ProbesClaimNothing) {
  EXPECT_FALSE(parse_claim(probe_frame(kOwn, ip("192.0.2.10"))));
  EXPECT_FALSE(parse_claim(probe_frame(kOwn, ip("2001:db8:26::10"))));
}

TEST(Frames, Ipv6AnnouncementHasOverrideAndAValidChecksum) {
  const auto frames = announcement_frames(kOwn, ip("2001:db8:26::10"), true);
  ASSERT_EQ(frames.size(), 1u);
  const std::string& frame = frames[0];
  EXPECT_EQ(frame.size(), 14u + 40 + 32);
  EXPECT_EQ(static_cast<unsigned char>(frame[58]), 0xa0);
  EXPECT_EQ(parse_claim(frame), (Claim{ip("2001:db8:26::10"), kOwn}));
  std::string pseudo = frame.substr(22, 32) + std::string("\0\0\0\x20\0\0\0\x3a", 8) + frame.substr(54);
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < pseudo.size(); i += 2)
    sum += static_cast<std::uint32_t>(static_cast<unsigned char>(pseudo[i]) << 8 |
                                      static_cast<unsigned char>(pseudo[i + 1]));
  while (sum >> 16) sum = (sum & 0xffff) + (sum >> 16);
  EXPECT_EQ(sum, 0xffffu);
}

TEST(Frames, CutFramesClaimNothing) {
  for (const auto& whole : {announcement_frames(kOwn, ip("192.0.2.10"), false)[0],
                            announcement_frames(kOwn, ip("2001:db8::1"), false)[0]})
    for (std::size_t size = 0; size < 42; ++size)
      EXPECT_FALSE(parse_claim(std::string_view(whole).substr(0, size))) << size;
}

TEST(Titles, HandoverToAndFro) {
  Title from{Holding::owner, 0, 1};
  Title to{};
  from = begin_yield(from, 1, 1).value();
  EXPECT_EQ(take(from, 2, 1).error().kind, ErrorKind::fenced);  // still owner in effect
  from = finish_yield(from, 1, 1).value();
  to = take(to, 1, 1).value();
  EXPECT_EQ(to.holding, Holding::owner);
  EXPECT_EQ(take(to, 1, 1).value(), to);  // repeated
  to = finish_yield(begin_yield(to, 2, 1).value(), 2, 1).value();
  from = take(from, 2, 1).value();
  EXPECT_EQ(begin_yield(from, 1, 1).error().kind, ErrorKind::fenced);  // a late request of the first handover
  EXPECT_EQ(take(to, 1, 1).error().kind, ErrorKind::fenced);
  EXPECT_EQ(take(to, 2, 1).error().kind, ErrorKind::fenced);
}

TEST(Titles, RenouncedTurnIsNeverTaken) {
  const Title to = renounce(Title{}, 3, 1).value();
  EXPECT_EQ(take(to, 2, 1).error().kind, ErrorKind::fenced);
  EXPECT_EQ(take(to, 3, 1).error().kind, ErrorKind::fenced);
  EXPECT_TRUE(take(to, 4, 1));
  EXPECT_FALSE(renounce(Title{Holding::owner, 2, 1}, 3, 1));
  EXPECT_FALSE(renounce(Title{Holding::yielding, 2, 1}, 3, 1));
}

TEST(Titles, LowerEpochIsFenced) {
  const Title owner{Holding::owner, 4, 7};
  EXPECT_EQ(begin_yield(owner, 5, 6).error().kind, ErrorKind::fenced);
  EXPECT_EQ(take(Title{Holding::yielded, 4, 7}, 5, 6).error().kind, ErrorKind::fenced);
  EXPECT_EQ(keep(Title{Holding::yielding, 4, 7}, 4, 6).error().kind, ErrorKind::fenced);
  EXPECT_EQ(title_from_json(to_json(owner)).value(), owner);
  EXPECT_FALSE(title_from_json(Json{{"state", "king"}, {"turn", 1}, {"epoch", 1}}));
}

// Every order of every request, some of them repeated: two owners never, where requests follow the rule that
// a side is told to take a turn only after the other has written it.
TEST(Titles, NeverTwoOwnersInAnyOrder) {
  std::vector<std::pair<Title, Title>> seen{{Title{Holding::owner, 0, 0}, Title{}}};
  for (std::size_t i = 0; i < seen.size(); ++i) {
    const auto [a, b] = seen[i];
    const auto owns = [](const Title& t) {
      return t.holding == Holding::owner || t.holding == Holding::yielding;
    };
    ASSERT_FALSE(owns(a) && owns(b)) << to_json(a).dump() << to_json(b).dump();
    const auto add = [&](const Title& x, const Title& y) {
      if (std::pair next{x, y}; std::ranges::find(seen, next) == seen.end()) seen.push_back(next);
    };
    for (std::uint64_t turn = 1; turn <= 4; ++turn) {
      for (const auto verb : {begin_yield, finish_yield, keep, renounce}) {
        if (const auto next = verb(a, turn, 0)) add(*next, b);
        if (const auto next = verb(b, turn, 0)) add(a, *next);
      }
      // The proof: the other side was seen at this turn, not owning. It cannot have moved on at this turn
      // since.
      if (!owns(b) && b.turn >= turn)
        if (const auto next = take(a, turn, 0)) add(*next, b);
      if (!owns(a) && a.turn >= turn)
        if (const auto next = take(b, turn, 0)) add(a, *next);
    }
  }
  EXPECT_GT(seen.size(), 20u);
}

constexpr std::string_view kInterfaces = R"(# the host's own
auto lo eth0 eth0:1
iface lo inet loopback

allow-hotplug mgmt0
iface mgmt0 inet static
    address 10.77.0.11/24

iface eth0 inet static
    address 192.0.2.10/26
    gateway 192.0.2.1
    # the web sites
    up ip addr add 192.0.2.11/26 dev eth0
    up   /sbin/ip -4 a add 192.0.2.12/26 dev $IFACE || true
    down ip addr del 192.0.2.11/26 dev eth0
    up ip addr add 192.0.2.40/26 dev eth0
    up ethtool -K eth0 gro on

iface eth0 inet6 static
    address 2001:db8:26::10/64
iface eth0:1 inet static
    address 192.0.2.13
    netmask 255.255.255.192
)";

TEST(Interfaces, TakesOutWhatMovesAndNothingElse) {
  const std::set<IpAddress> moving{ip("192.0.2.10"), ip("192.0.2.11"), ip("192.0.2.12"), ip("192.0.2.13"),
                                   ip("2001:db8:26::10")};
  const ConfigEdit edit = edit_interfaces(kInterfaces, "eth0", moving);
  EXPECT_EQ(edit.text, R"(# the host's own
auto lo eth0
iface lo inet loopback

allow-hotplug mgmt0
iface mgmt0 inet static
    address 10.77.0.11/24

iface eth0 inet manual
    # the web sites
    up ip addr add 192.0.2.40/26 dev eth0
    up ethtool -K eth0 gro on

)");
  EXPECT_EQ(edit.found, moving);
  EXPECT_TRUE(edit.unclear.empty());
  EXPECT_EQ(edit_interfaces(edit.text, "eth0", moving).text, edit.text);
}

TEST(Interfaces, OtherDevicesAndAddressesStay) {
  EXPECT_EQ(edit_interfaces(kInterfaces, "eth1", {ip("192.0.2.10"), ip("192.0.2.13")}).text, kInterfaces);
  EXPECT_EQ(edit_interfaces(kInterfaces, "eth0", {ip("198.51.100.1")}).text, kInterfaces);
}

TEST(Interfaces, CompoundCommandsAreNotTouched) {
  const std::string text =
      "iface eth0 inet manual\n  up ip addr add 192.0.2.10/26 dev eth0 && touch /run/up\n";
  const ConfigEdit edit = edit_interfaces(text, "eth0", {ip("192.0.2.10")});
  EXPECT_EQ(edit.text, text);
  EXPECT_EQ(edit.unclear.size(), 1u);
  const std::string route =
      "iface eth0 inet manual\n  up ip route add default via 192.0.2.1 src 192.0.2.10\n";
  EXPECT_TRUE(edit_interfaces(route, "eth0", {ip("192.0.2.10")}).unclear.empty());
}

TEST(Interfaces, WrittenStanzasAreFoundAndGoWhole) {
  const std::vector<Prefixed> addresses{{ip("192.0.2.10"), 26}, {ip("2001:db8:26::10"), 64}};
  const std::string text = interfaces_stanzas("eth0", addresses, "ours");
  const ConfigEdit edit = edit_interfaces(text, "eth0", {ip("192.0.2.10"), ip("2001:db8:26::10")});
  EXPECT_EQ(edit.found.size(), 2u);
  EXPECT_TRUE(is_blank_config(edit.text)) << edit.text;
}

TEST(Interfaces, LastLineWithoutNewlineAndContinuations) {
  EXPECT_EQ(edit_interfaces("iface eth0 inet manual\n up ip addr add \\\n 192.0.2.10/26 dev eth0", "eth0",
                            {ip("192.0.2.10")})
                .text,
            "iface eth0 inet manual\n");
  EXPECT_EQ(edit_interfaces("", "eth0", {ip("192.0.2.10")}).text, "");
}

TEST(Interfaces, SourceLines) {
  EXPECT_TRUE(sources_interfaces_d("source /etc/network/interfaces.d/*\n"));
  EXPECT_TRUE(sources_interfaces_d("source-directory interfaces.d\n"));
  EXPECT_FALSE(
      sources_interfaces_d("# source /etc/network/interfaces.d/*\nsource /etc/network/interfaces.d/*.cfg\n"));
}

TEST(Networkd, AddressLinesAndSections) {
  const std::string text =
      "[Match]\nName=eth0\n\n[Network]\nAddress=192.0.2.10/26\nAddress=192.0.2.40/26\nGateway=192.0.2.1\n\n"
      "[Address]\nAddress=192.0.2.11/26\nLabel=eth0:x\n\n[Route]\nDestination=0.0.0.0/0\n";
  const ConfigEdit edit = edit_networkd(text, {ip("192.0.2.10"), ip("192.0.2.11")});
  EXPECT_EQ(edit.text,
            "[Match]\nName=eth0\n\n[Network]\nAddress=192.0.2.40/"
            "26\nGateway=192.0.2.1\n\n[Route]\nDestination=0.0.0.0/0\n");
  EXPECT_EQ(edit.found.size(), 2u);
}

TEST(TcpTable, Parsing) {
  const auto v4 = parse_tcp_table(
      "  sl  local_address rem_address   st\n"
      "   0: 0A0200C0:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1 1\n"
      "   1: 0100007F:1F90 0100007F:C000 01 0\n   2: broken 1 01\n",
      false);
  ASSERT_EQ(v4.size(), 2u);
  EXPECT_EQ(v4[0].local, ip("192.0.2.10"));
  EXPECT_EQ(v4[0].port, 80);
  EXPECT_TRUE(v4[0].listening);
  EXPECT_TRUE(v4[1].established);
  const auto v6 = parse_tcp_table(
      "  0: B80D0120000026000000000010000000:01BB 00000000000000000000000000000000:0000 0A 0\n"
      "  1: 0000000000000000FFFF00000A0200C0:01BB 0000000000000000FFFF0000010200C0:0001 01 0\n",
      true);
  ASSERT_EQ(v6.size(), 2u);
  EXPECT_EQ(v6[0].local, ip("2001:db8:26::10"));
  EXPECT_EQ(v6[1].local, ip("192.0.2.10"));
}

TEST(Desired, Parsing) {
  Json desired{{"kind", "own"},
               {"addresses", {"192.0.2.10", "2001:db8:26::10"}},
               {"prefix4", 26},
               {"prefix6", 64},
               {"from", {{"host", "old"}, {"dev", "eth0"}}},
               {"to", {{"host", "new"}, {"dev", "eth0"}}},
               {"gateway4", "192.0.2.1"}};
  const auto set = parse_address_set(desired);
  ASSERT_TRUE(set);
  EXPECT_EQ(set->prefix(set->addresses[1]), 64);
  desired["kind"] = "stage";
  EXPECT_EQ(parse_address_set(desired)->id, set->id);
  for (const auto& [key, bad] : std::map<std::string, Json>{{"addresses", {"192.0.2.10", "192.0.2.10"}},
                                                            {"prefix4", 33},
                                                            {"gateway4", "gw"},
                                                            {"from", {{"host", "old"}, {"dev", "a/b"}}}}) {
    Json broken = desired;
    broken[key] = bad;
    EXPECT_FALSE(parse_address_set(broken)) << key;
  }
}

}  // namespace
}  // namespace midstream
