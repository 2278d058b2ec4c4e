#include "movers/end/talk.h"

#include <gtest/gtest.h>

namespace midstream {
namespace {

const Heard kShop{false, "203.0.113.50", "10.77.0.11", 8081};
const Heard kSsh{false, "10.77.0.60", "10.77.0.11", 22};

bool reached(const Json& judged) { return judged["reached"].get<bool>(); }

class TalkTest : public ::testing::Test {
 protected:
  Talk talk_{1'000};
  Silence silence_{.span_ms = 500};
};

TEST_F(TalkTest, SilenceHasToBeListenedFor) {
  EXPECT_FALSE(reached(talk_.judge(silence_, 1'499)));
  EXPECT_EQ(talk_.judge(silence_, 1'499)["why"], "listened for 0.5 s of 0.5 s");
  EXPECT_TRUE(reached(talk_.judge(silence_, 1'500)));
}

TEST_F(TalkTest, AConnectionThatStandsIsTalk) {
  talk_.standing({{kShop, 2}}, 2'000);
  const auto judged = talk_.judge(silence_, 9'000);
  EXPECT_FALSE(reached(judged));
  EXPECT_EQ(judged["why"], "1 still talk here: 203.0.113.50 to ? port 8081 (2 sessions)");
  // Its end counts from the last look that saw it.
  talk_.standing({}, 9'000);
  EXPECT_FALSE(reached(talk_.judge(silence_, 9'499)));
  EXPECT_TRUE(reached(talk_.judge(silence_, 9'500)));
}

TEST_F(TalkTest, AnAttemptIsTalkThoughNothingStands) {
  talk_.came(kShop, 2'000);
  talk_.standing({}, 2'100);
  EXPECT_FALSE(reached(talk_.judge(silence_, 2'499)));
  const auto judged = talk_.judge(silence_, 2'500);
  EXPECT_TRUE(reached(judged));
  EXPECT_EQ(judged["sources"][0]["attempts"], 1);
  EXPECT_EQ(judged["sources"][0]["silent_ms"], 500);
}

TEST_F(TalkTest, OursIsNoTalk) {
  talk_.standing({{kSsh, 1}, {{false, "10.77.0.12", "10.77.0.11", 40'000}, 3}}, 2'000);
  EXPECT_FALSE(reached(talk_.judge(silence_, 2'000)));
  talk_.own({40'000}, {{"10.77.0.60", 22}});
  EXPECT_TRUE(reached(talk_.judge(silence_, 2'000)));
  EXPECT_TRUE(talk_.judge(silence_, 2'000)["sources"].empty());
  // Another host's ssh is somebody's.
  talk_.came({false, "10.77.0.61", "10.77.0.11", 22}, 2'000);
  EXPECT_FALSE(reached(talk_.judge(silence_, 2'000)));
}

TEST_F(TalkTest, WhatIsCountedElsewhereOrAcceptedIsToldAndDoesNotHold) {
  talk_.standing({{kShop, 1}}, 2'000);
  auto silence = silence_;
  silence.ignored["203.0.113.50"] = "HAProxy on edge";
  EXPECT_TRUE(reached(talk_.judge(silence, 2'000)));
  EXPECT_EQ(talk_.judge(silence, 2'000)["sources"][0]["counted_by"], "HAProxy on edge");
  silence = silence_;
  silence.accepted = {"203.0.113.50"};
  EXPECT_TRUE(reached(talk_.judge(silence, 2'000)));
  silence.accepted = {"web@203.0.113.50"};
  EXPECT_FALSE(reached(talk_.judge(silence, 2'000)));
  silence.services[8081] = "web";
  EXPECT_TRUE(reached(talk_.judge(silence, 2'000)));
}

TEST_F(TalkTest, OnlySomeAddressesMayCount) {
  talk_.standing({{kShop, 1}}, 2'000);
  auto silence = silence_;
  silence.addresses = {"198.51.100.10"};
  EXPECT_TRUE(reached(talk_.judge(silence, 2'000)));
  silence.addresses = {"10.77.0.11"};
  EXPECT_FALSE(reached(talk_.judge(silence, 2'000)));
}

TEST(Asked, InTheWordsOfThePlan) {
  const auto silence = parse_silence({{"kind", "silent"},
                                      {"silence_ms", 2'000},
                                      {"ignore", {{"10.77.0.1", "HAProxy on edge"}}},
                                      {"services", {{"5432", "db"}}},
                                      {"accept", {"203.0.113.50"}}});
  ASSERT_TRUE(silence);
  EXPECT_EQ(silence->ignored.at("10.77.0.1"), "HAProxy on edge");
  EXPECT_EQ(silence->services.at(5432), "db");
  EXPECT_TRUE(silence->accepted.contains("203.0.113.50"));
  EXPECT_FALSE(parse_silence({{"silence_ms", 2'000}, {"ignore", {{"10.77.0.1", 7}}}}));
  EXPECT_FALSE(parse_silence({{"kind", "silent"}}));
}

TEST(Packet, BeginningsOfConnections) {
  std::string ip("\x45\0\0\x28\0\0\x40\0\x40\x06\0\0\xcb\0\x71\x32\xc0\0\x02\x0a", 20);
  std::string tcp("\xc0\x01\x1f\x91\0\0\0\0\0\0\0\0\x50\x02\0\0\0\0\0\0", 20);
  Heard heard;
  ASSERT_TRUE(parse_packet(ip + tcp, heard));
  EXPECT_EQ(heard, (Heard{false, "203.0.113.50", "192.0.2.10", 8081}));
  tcp[13] = 0x12;  // the answer to one of ours
  EXPECT_FALSE(parse_packet(ip + tcp, heard));
  tcp[13] = 0x10;
  EXPECT_FALSE(parse_packet(ip + tcp, heard));
  tcp[13] = 0x02;
  ip[7] = 1;  // a later fragment
  EXPECT_FALSE(parse_packet(ip + tcp, heard));
  ip[7] = 0;
  ip[9] = 17;
  ASSERT_TRUE(parse_packet(ip + tcp, heard));
  EXPECT_TRUE(heard.udp);
  EXPECT_FALSE(parse_packet(ip.substr(0, 12), heard));
  EXPECT_FALSE(parse_packet("", heard));
}

TEST(Sockets, AsTheKernelListsThem) {
  const auto all = parse_sockets(
      "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
      "   0: 0B004D0A:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 77 1 0 100 0 0 10 0\n"
      "   1: 0B004D0A:1F91 327100CB:C001 01 00000000:00000000 00:00000000 00000000     0        0 78 1 0 100 0 0 10 0\n"
      "   2: 0B004D0A:1F91 327100CB:C002 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0 100 0 0 10 0\n",
      false, false);
  ASSERT_EQ(all.size(), 3u);
  EXPECT_TRUE(all[0].listening);
  EXPECT_EQ(all[0].port, 8081);
  EXPECT_EQ(all[0].inode, 77u);
  EXPECT_TRUE(all[1].established);
  EXPECT_EQ(all[1].remote, "203.0.113.50");
  EXPECT_FALSE(all[2].established) << "TIME_WAIT is nobody any more";
}

}  // namespace
}  // namespace midstream
