#include <gtest/gtest.h>

#include "base/json.h"
#include "base/result.h"
#include "base/text.h"

namespace midstream {
namespace {

Result<int> half(int n) {
  if (n % 2 != 0) return refused("odd", "give an even number");
  return n / 2;
}
Result<int> quarter(int n) {
  const int once = TRY(half(n));
  return TRY(half(once));
}

TEST(Result, TryPassesValuesAndErrors) {
  EXPECT_EQ(*quarter(8), 2);
  ASSERT_FALSE(quarter(6).has_value());
  EXPECT_EQ(quarter(6).error().text(), "odd; give an even number");
}

TEST(Result, KindsSurviveTheWire) {
  for (auto kind : {ErrorKind::retry, ErrorKind::refused, ErrorKind::fenced, ErrorKind::corrupt, ErrorKind::cancelled,
                    ErrorKind::unknown}) {
    EXPECT_EQ(error_from_json(to_json(Error{kind, "w", "t"})).kind, kind);
  }
  EXPECT_EQ(error_from_json(Json::object()).kind, ErrorKind::corrupt);
}

TEST(Result, ErrnoPicksTheReaction) {
  EXPECT_EQ(errno_failure("connect", ECONNREFUSED).error().kind, ErrorKind::retry);
  EXPECT_EQ(errno_failure("write", ENOSPC).error().kind, ErrorKind::refused);
}

TEST(JsonAccess, NamesTheFieldAtFault) {
  const auto value = *parse_json(R"({"a":1,"b":"x","c":["y",2]})");
  EXPECT_EQ(*get_int(value, "a"), 1);
  EXPECT_EQ(get_string(value, "a").error().what, "field 'a' is not a string");
  EXPECT_EQ(get_string(value, "z").error().what, "field 'z' is missing");
  EXPECT_FALSE(get_strings(value, "c").has_value());
}

TEST(JsonAccess, RefusesBrokenAndDeepInput) {
  EXPECT_FALSE(parse_json("{").has_value());
  EXPECT_FALSE(parse_json("{} x").has_value());
  EXPECT_FALSE(parse_json(std::string(100, '[') + std::string(100, ']')).has_value());
}

TEST(Text, SplitJoinTrim) {
  EXPECT_EQ(split("a,,b", ',').size(), 3u);
  EXPECT_EQ(join(split("a,,b", ','), ","), "a,,b");
  EXPECT_EQ(trim("  x \n"), "x");
}

TEST(Text, NearestSpelling) {
  EXPECT_EQ(nearest("tarffic", {"files", "traffic", "mail"}), "traffic");
  EXPECT_EQ(nearest("zzzzzz", {"files", "traffic"}), "");
}

TEST(Text, PrintableHidesControlCharacters) { EXPECT_EQ(printable("a\n\x1b"), "a\\x0a\\x1b"); }

TEST(Text, PlainNames) {
  EXPECT_TRUE(is_plain_name("shop-1"));
  EXPECT_FALSE(is_plain_name("../x"));
  EXPECT_FALSE(is_plain_name(""));
  EXPECT_FALSE(is_plain_name("1a"));
}

TEST(Text, BytesComeBackFromHexadecimal) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  EXPECT_EQ(from_hex(to_hex(all)), all);
  EXPECT_EQ(from_hex("4A4b"), "JK");
  for (const auto* bad : {"4", "4g", " 4", "+4", "0x"}) EXPECT_FALSE(from_hex(bad)) << bad;
}

}  // namespace
}  // namespace midstream
