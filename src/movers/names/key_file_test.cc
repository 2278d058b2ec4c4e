#include "movers/names/key_file.h"

#include <gtest/gtest.h>

namespace midstream::dns {
namespace {

TEST(KeyFile, ReadsWhatTsigKeygenWrites) {
  const auto key = parse_key_file(
      "key \"Mover.Example\" {\n\talgorithm hmac-sha256;\n\tsecret \"c2VjcmV0IHRleHQ=\";\n};\n");
  ASSERT_TRUE(key) << key.error().text();
  EXPECT_EQ(key->name, "mover.example.");
  EXPECT_EQ(key->algorithm, "hmac-sha256.");
  EXPECT_EQ(key->secret, "c2VjcmV0IHRleHQ=");
}

TEST(KeyFile, CommentsOrderAndQuotesDoNotMatter) {
  const auto key = parse_key_file(
      "# a\n// b\n/* c; } */ key mover { secret c2VjcmV0; /* d */ algorithm \"HMAC-SHA512\"; } ;");
  ASSERT_TRUE(key) << key.error().text();
  EXPECT_EQ(key->algorithm, "hmac-sha512.");
}

TEST(KeyFile, ErrorsNeverShowTheSecret) {
  const std::string secret = "c2VjcmV0IHRleHQ=";
  const std::string texts[] = {
      "",
      secret,
      "key",
      "key k { secret \"" + secret + "\"; };",
      "key k { algorithm hmac-md5; secret \"" + secret + "\"; };",
      "key k { algorithm hmac-sha256; secret \"" + secret + "!\"; };",
      "key k { algorithm hmac-sha256; secret \"" + secret + "\"",
      "key k { algorithm hmac-sha256 secret \"" + secret + "\"; };",
      "key k { algorithm hmac-sha256; secret \"" + secret +
          "\"; }; key l { algorithm hmac-sha256; secret \"" + secret + "\"; };",
      "key \"" + secret + "\" { algorithm x; secret \"" + secret + "\"; /* ",
  };
  for (const auto& text : texts) {
    const auto key = parse_key_file(text);
    ASSERT_FALSE(key) << text;
    EXPECT_EQ(key.error().text().find(secret.substr(0, 8)), std::string::npos) << key.error().text();
  }
}

}  // namespace
}  // namespace midstream::dns
