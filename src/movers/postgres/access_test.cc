#include "movers/postgres/access.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>

namespace midstream::postgres {
namespace {

Plan plan() {
  Plan plan;
  plan.move = "autumn";
  plan.databases = {"app", "Odd name"};
  plan.old_end = {"a", "10.0.0.1", 5432};
  plan.new_end = {"b", "2001:db8::2", 5432};
  return plan;
}

TEST(Access, BlockComesAndGoesWithoutATrace) {
  for (const std::string text : {"local all all peer\n", "", "no newline at the end", "# BEGIN other\n# END other\n"}) {
    const auto with = with_block(text, "autumn", "local a b reject\n");
    EXPECT_NE(with, text);
    EXPECT_TRUE(with.starts_with("# BEGIN midstream autumn"));
    EXPECT_EQ(with_block(with, "autumn", "local a b reject\n"), with);
    EXPECT_EQ(with_block(with, "autumn", ""), text);
  }
}

TEST(Access, BlockIsFoundWithItsLines) {
  const auto text = "# first\n" + with_block("host all all all trust\n", "autumn", "a\nb\n");
  const auto block = find_block(text, "autumn");
  EXPECT_EQ(block.lines, "a\nb\n");
  EXPECT_EQ(block.first, 2);
  EXPECT_EQ(block.last, 5);
  EXPECT_EQ(find_block(text, "winter").last, 0);
}

TEST(Access, BlocksOfTwoMovesStandBesideEachOther) {
  const auto one = with_block("x\n", "autumn", "a\n");
  const auto two = with_block(one, "winter", "b\n");
  EXPECT_EQ(with_block(two, "autumn", ""), with_block("x\n", "winter", "b\n"));
}

TEST(Access, FenceIsMembershipUntilItIsHard) {
  const auto soft = hba_lines(plan(), "10.0.0.1", {});
  EXPECT_NE(soft.find("local \"app\" +midstream_fence_autumn_0 reject\n"), std::string::npos);
  EXPECT_NE(soft.find("host \"Odd name\" midstream_repl_autumn 10.0.0.1/32 scram-sha-256\n"), std::string::npos);
  EXPECT_EQ(soft.find("all all reject"), std::string::npos);
  const auto hard = hba_lines(plan(), "2001:db8::2", {"app"});
  EXPECT_NE(hard.find("host \"app\" all all reject\n"), std::string::npos);
  EXPECT_NE(hard.find("midstream_repl_autumn 2001:db8::2/128"), std::string::npos);
  EXPECT_NE(hard.find("host \"Odd name\" +midstream_fence_autumn_1 all reject\n"), std::string::npos);
}

TEST(Plan, NamesThatCouldNotBeUsedAreRefused) {
  const Json end{{"host", "a"}, {"address", "10.0.0.1"}, {"port", 5432}};
  const auto desired = [&](const char* database) {
    return Json{{"kind", "switch"}, {"databases", {database}}, {"old", end}, {"new", end}};
  };
  EXPECT_TRUE(parse_plan(desired("app"), "autumn"));
  EXPECT_FALSE(parse_plan(desired("a\"b"), "autumn"));
  EXPECT_FALSE(parse_plan(desired("postgres"), "autumn"));
  EXPECT_FALSE(parse_plan(desired("app"), "Autumn; --"));
}

TEST(Access, EveryAddressButOneIsInExactlyOneNetwork) {
  const auto networks = all_but("10.77.0.9");
  ASSERT_EQ(networks.size(), 33u);
  const auto number = [](const std::string& text) {
    in_addr address{};
    EXPECT_EQ(::inet_pton(AF_INET, text.c_str(), &address), 1) << text;
    return ntohl(address.s_addr);
  };
  const auto holds = [&](const std::string& address) {
    int count = 0;
    for (const auto& network : networks) {
      if (network.find(':') != std::string::npos) continue;
      const auto slash = network.find('/');
      const int length = std::stoi(network.substr(slash + 1));
      if ((number(network.substr(0, slash)) ^ number(address)) >> (32 - length) == 0) ++count;
      EXPECT_EQ(number(network.substr(0, slash)) & (length == 32 ? 0 : 0xffffffffu >> length), 0u) << network;
    }
    return count;
  };
  EXPECT_EQ(holds("10.77.0.9"), 0);
  for (const auto* other : {"10.77.0.8", "10.77.0.11", "10.77.1.9", "11.77.0.9", "138.77.0.9", "0.0.0.0", "255.255.255.255", "127.0.0.1"}) EXPECT_EQ(holds(other), 1) << other;
  EXPECT_EQ(all_but("2001:db8::1").size(), 129u);
  EXPECT_EQ(all_but("2001:db8::1").back(), "2001:db8::/128");
  EXPECT_EQ(all_but("nonsense"), std::vector<std::string>{"all"});
}

}  // namespace
}  // namespace midstream::postgres
