#include "movers/names/dns.h"

#include <gtest/gtest.h>

#include "movers/names/change.h"

namespace midstream::dns {
namespace {

TEST(Names, OneSpelling) {
  EXPECT_EQ(canonical_name("Shop.Example").value(), "shop.example.");
  EXPECT_EQ(canonical_name("shop.example.").value(), "shop.example.");
  EXPECT_FALSE(canonical_name(std::string(70, 'a') + ".example"));
  EXPECT_EQ(canonical_address(Type::aaaa, "2001:DB8:28:0::10").value(), "2001:db8:28::10");
  EXPECT_EQ(canonical_address(Type::a, "192.0.2.10").value(), "192.0.2.10");
  EXPECT_FALSE(canonical_address(Type::a, "2001:db8::1"));
  EXPECT_FALSE(canonical_address(Type::aaaa, "192.0.2.10"));
  EXPECT_FALSE(address_type("MX"));
}

TEST(Epoch, RoundTripAndWhoMayChange) {
  const EpochText text{"autumn", 7, "shop-a-repoint"};
  EXPECT_EQ(text.text(), "autumn 7 shop-a-repoint");
  const auto parsed = EpochText::parse(text.text());
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->epoch, 7u);
  EXPECT_EQ(parsed->step, "shop-a-repoint");
  for (const auto* bad : {"", "v=spf1 -all", "autumn", "autumn x y", " 1 y", "a 1"})
    EXPECT_FALSE(EpochText::parse(bad)) << bad;

  EXPECT_TRUE(may_change({"autumn", "s", 1}, "n.", ""));
  EXPECT_TRUE(may_change({"autumn", "s", 7}, "n.", text.text()));
  EXPECT_TRUE(may_change({"autumn", "s", 8}, "n.", text.text()));
  EXPECT_EQ(may_change({"autumn", "s", 6}, "n.", text.text()).error().kind, ErrorKind::fenced);
  EXPECT_EQ(may_change({"winter", "s", 9}, "n.", text.text()).error().kind, ErrorKind::refused);
  EXPECT_EQ(may_change({"autumn", "s", 9}, "n.", "v=spf1 -all").error().kind, ErrorKind::refused);
}

TEST(Ask, NobodyThereIsRetryWithinTheDeadline) {
  const auto begun = boot_now();
  const auto answer = ask({"127.0.0.1", 1}, "shop.example.", Type::a, Deadline::in(Millis(300)), {});
  ASSERT_FALSE(answer);
  EXPECT_EQ(answer.error().kind, ErrorKind::retry) << answer.error().text();
  EXPECT_LT(boot_now() - begun, Millis(2'000));
  EXPECT_FALSE(ask({"not an address", 53}, "shop.example.", Type::a, Deadline::in(Millis(300)), {}));
}

}  // namespace
}  // namespace midstream::dns
