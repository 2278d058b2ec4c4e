// SCRAM by the RFCs' own examples, and the ways in by bytes: split anywhere, and hostile.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <random>

#include "gate/client_login.h"
#include "gate/server_login.h"

namespace midstream::gate {
namespace {

using namespace std::literals;

constexpr std::string_view kSalt = "W22ZaJ0SNY7soEsUEjb6gQ==";
constexpr std::string_view kClientNonce = "rOprNGfwEbeRWgbNEkqO";
constexpr std::string_view kServerNonce = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";

// What PostgreSQL stores for `password`.
std::string stored(std::string_view password, std::string_view salt = kSalt, int iterations = 4096) {
  const auto salted = pbkdf2_sha256(password, *from_base64(salt), iterations);
  return fmt::format("SCRAM-SHA-256${}:{}${}:{}", iterations, salt, to_base64(sha256(hmac_sha256(salted, "Client Key"))),
                     to_base64(hmac_sha256(salted, "Server Key")));
}
ScramVerifier verifier(std::string_view password) { return std::get<ScramVerifier>(*parse_verifier(stored(password))); }
ScramServer server(std::optional<ScramVerifier> known, std::string binding = "") {
  return ScramServer({std::move(known), "user", "seed", std::string(kServerNonce), std::move(binding)});
}

TEST(Scram, SpeaksTheExampleOfRfc7677) {
  ScramClient client(Secret("pencil"), std::string(kClientNonce), "user");
  EXPECT_EQ(client.first(), "n,,n=user,r=rOprNGfwEbeRWgbNEkqO");
  auto other = server(verifier("pencil"));
  const auto challenge = other.first(kScram, client.first());
  ASSERT_TRUE(challenge);
  EXPECT_EQ(*challenge, "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096");
  const auto proof = client.proof(*challenge);
  ASSERT_TRUE(proof);
  EXPECT_EQ(*proof, "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=");
  const auto end = other.last(*proof);
  ASSERT_TRUE(end);
  EXPECT_EQ(*end, "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
  EXPECT_TRUE(client.check(*end));
  EXPECT_FALSE(client.check("v=7rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="));
}

TEST(Scram, TheKeyThatAClientGivesAwayLogsInElsewhere) {
  ScramClient client(Secret("pencil"), "abc");
  auto gate = server(verifier("pencil"));
  ASSERT_TRUE(gate.last(*client.proof(*gate.first(kScram, client.first()))));
  const auto salted = pbkdf2_sha256("pencil", *from_base64(kSalt), 4096);
  EXPECT_EQ(gate.keys().client_key.bytes(), hmac_sha256(salted, "Client Key"));

  ScramClient as_client(gate.keys(), "xyz");
  auto database = server(verifier("pencil"));
  const auto end = database.last(*as_client.proof(*database.first(kScram, as_client.first())));
  ASSERT_TRUE(end);
  EXPECT_TRUE(as_client.check(*end));
  // Another verifier of the same password (another salt) is another lock.
  auto other = server(std::get<ScramVerifier>(*parse_verifier(stored("pencil", "QSXCR+Q6sek8bf92"))));
  ScramClient again(gate.keys(), "xyz");
  EXPECT_EQ(other.last(*again.proof(*other.first(kScram, again.first()))).error().sqlstate, "28P01");
}

TEST(Scram, WrongAndUnknownAreToldAlike) {
  for (const bool known : {true, false}) {
    ScramClient client(Secret("wrong"), "abc");
    auto gate = server(known ? std::optional(verifier("pencil")) : std::nullopt);
    const auto challenge = gate.first(kScram, client.first());
    ASSERT_TRUE(challenge);
    EXPECT_NE(challenge->find(",i=4096"), std::string::npos);
    const auto end = gate.last(*client.proof(*challenge));
    ASSERT_FALSE(end);
    EXPECT_EQ(end.error().message, "password authentication failed for user \"user\"");
    EXPECT_TRUE(gate.keys().client_key.empty());
  }
  // The salt of one who does not exist stays the same, and is a secret of this gate.
  EXPECT_EQ(*server(std::nullopt).first(kScram, "n,,n=,r=a"), *server(std::nullopt).first(kScram, "n,,n=,r=a"));
  ScramServer elsewhere({std::nullopt, "user", "another seed", std::string(kServerNonce), ""});
  EXPECT_NE(*elsewhere.first(kScram, "n,,n=,r=a"), *server(std::nullopt).first(kScram, "n,,n=,r=a"));
}

TEST(Scram, BindsTheChannel) {
  const std::string hash(32, 'h');
  EXPECT_EQ(server(verifier("x"), hash).mechanisms().size(), 2u);
  const auto exchange = [&](std::string_view mechanism, std::string_view first, std::string_view bound) {
    auto gate = server(verifier("pencil"), hash);
    const auto challenge = gate.first(mechanism, first);
    if (!challenge) return challenge.error().message + "|" + challenge.error().detail;
    const auto nonce = challenge->substr(2, challenge->find(",s=") - 2);
    const auto end = gate.last(fmt::format("c={},r={},p={}", to_base64(bound), nonce, to_base64(std::string(32, 'p'))));
    return end ? std::string("in") : end.error().message;
  };
  // The proof is wrong, and is looked at only where the binding is right.
  EXPECT_EQ(exchange(kScramPlus, "p=tls-server-end-point,,n=,r=a", "p=tls-server-end-point,," + hash), password_failed("user").message);
  EXPECT_EQ(exchange(kScramPlus, "p=tls-server-end-point,,n=,r=a", "p=tls-server-end-point,," + std::string(32, 'x')),
            "SCRAM channel binding check failed");
  EXPECT_EQ(exchange(kScram, "n,,n=,r=a", "n,,"), password_failed("user").message);
  EXPECT_EQ(exchange(kScram, "n,,n=,r=a", "y,,"), "unexpected SCRAM channel-binding attribute in client-final-message");
  EXPECT_TRUE(exchange(kScram, "y,,n=,r=a", "y,,").starts_with("SCRAM channel binding negotiation error|"));
  EXPECT_TRUE(exchange(kScram, "p=tls-server-end-point,,n=,r=a", "").starts_with("malformed SCRAM message|The client selected SCRAM-SHA-256 "));
  EXPECT_TRUE(exchange(kScramPlus, "n,,n=,r=a", "").starts_with("malformed SCRAM message|The client selected SCRAM-SHA-256-PLUS"));
  EXPECT_TRUE(exchange(kScramPlus, "p=tls-unique,,n=,r=a", "").starts_with("unsupported SCRAM channel-binding type \"tls-unique\""));
  EXPECT_TRUE(exchange("PLAIN", "", "").starts_with("client selected an invalid SASL"));
}

TEST(Scram, HostileMessagesGetTheirError) {
  for (const auto& bad : {""s, "x"s, "n"s, "n,"s, "n,,"s, "n,a=x,n=,r=a"s, "n,,m=1,n=,r=a"s, "n,,n="s, "n,,n=,r=\x01"s, "n,,r=a"s,
                          "n,,n=,r=a,"s + '\0', "n,,n=,r=a,1=x"s, "n,,n=,r=a,x"s, "p=,,n=,r=a"s, ",,,"s}) {
    auto gate = server(verifier("pencil"));
    EXPECT_FALSE(gate.first(kScram, bad)) << bad;
  }
  for (const auto& bad : {""s, "c"s, "c=biws"s, "c=biws,r=x"s, "c=biws,r=x,p="s, "c=biws,r=x,p=AAAA"s, "c=biws,r=x,p=!!!!"s,
                          "c=biws,r=x,x=1,y=2"s, "c=biws,r=x,p=" + to_base64(std::string(32, 'p')) + ",z=1"}) {
    auto gate = server(verifier("pencil"));
    ASSERT_TRUE(gate.first(kScram, "n,,n=,r=a"));
    const auto end = gate.last(bad);
    ASSERT_FALSE(end) << bad;
    EXPECT_NE(end.error().sqlstate, "28P01") << bad;
  }
  for (const auto& bad : {""s, "r=abc"s, "r=abcd"s, "r=xbcd,s=QUJD,i=1"s, "r=abc,s=QUJD,i=1"s, "r=abcd,s=QUJD,i=0"s, "r=abcd,s=*,i=1"s,
                          "r=abcd,s=QUJD,i=1,x=2"s, "r=abcd,s=QUJD,i=99999999999"s}) {
    EXPECT_FALSE(ScramClient(Secret("p"), "abc").proof(bad)) << bad;
  }
}

TEST(Verifier, IsReadAsPostgresWritesIt) {
  EXPECT_TRUE(parse_verifier(stored("x")));
  EXPECT_TRUE(parse_verifier("md50123456789abcdef0123456789abcdef"));
  for (const auto& bad : {""s, "x"s, "md5"s, "md5X123456789abcdef0123456789abcde"s, "SCRAM-SHA-256$"s, "SCRAM-SHA-256$4096:"s,
                          "SCRAM-SHA-256$0:QUJD$AAAA:AAAA"s, stored("x").substr(0, 60), stored("x") + "A", "SCRAM-SHA-1" + stored("x")})
    EXPECT_FALSE(parse_verifier(bad)) << bad;
  // printf secretuser | md5sum
  const auto md5 = std::get<Md5Verifier>(*parse_verifier("md5" + md5_hex("secretuser")));
  EXPECT_EQ(md5_answer(md5, "1234"), "md5" + md5_hex(md5_hex("secretuser") + "1234"));
  EXPECT_EQ(md5_hex("secretuser"), "20eb1b22a92b5c573dc1eb4331fc49ee");
}

TEST(Base64, IsWholeOrNothing) {
  for (const auto& bytes : {""s, "a"s, "ab"s, "abc"s, "\0\xff"s}) EXPECT_EQ(from_base64(to_base64(bytes)), bytes);
  for (const auto& bad : {"A"s, "AAA"s, "AA A"s, "AAA\n"s, "A==="s, "===="s, "AB=="s /* bits left over */, "AAAA=AAA"s, " AAA"s})
    EXPECT_FALSE(from_base64(bad)) << bad;
}

TEST(Rules, TheFirstThatFitsDecides) {
  const std::vector<Rule> rules{{.tls = true, .users = {"a"}, .from = {*parse_network("10.0.0.0/8")}, .method = Method::scram},
                                {.users = {"b"}, .method = Method::reject},
                                {.databases = {"d"}, .from = {*parse_network("::1"), *parse_network("192.0.2.0/25")}, .method = Method::md5}};
  EXPECT_EQ(*admit(rules, {"10.1.2.3", true, "a", "d"}), Method::scram);
  EXPECT_EQ(*admit(rules, {"::ffff:192.0.2.5", false, "a", "d"}), Method::md5);
  EXPECT_EQ(*admit(rules, {"::1", true, "x", "d"}), Method::md5);
  EXPECT_EQ(admit(rules, {"::1", true, "b", "d"}).error().message,
            "pg_hba.conf rejects connection for host \"::1\", user \"b\", database \"d\", SSL encryption");
  EXPECT_EQ(admit(rules, {"192.0.2.200", false, "a", "d"}).error().message,
            "no pg_hba.conf entry for host \"192.0.2.200\", user \"a\", database \"d\", no encryption");
  for (const auto* bad : {"", "10.0.0.0/33", "10.0.0/8", "x", "10.0.0.0/", "10.0.0.0/-1", "::1/129", "10.0.0.0/8x"})
    EXPECT_FALSE(parse_network(bad)) << bad;
}

const std::vector<Rule> kAnyone{{}};
ClientLogin::Setting setting(bool tls = false) { return {&kAnyone, "192.0.2.1", tls, "seed", std::string(kServerNonce), "1234"}; }
std::string fed(ClientLogin& login, std::string bytes) {
  std::string_view view = bytes;
  login.from_client(view);
  return std::string(view);
}
std::string sasl_initial(std::string_view first) {
  std::string body(kScram);
  body.push_back('\0');
  append_u32(body, static_cast<std::uint32_t>(first.size()));
  return message('p', body + std::string(first));
}
const std::string kStart = startup_packet({{"user", "user"}, {"database", "d"}, {"application_name", "a"}});

// From the first byte to admitted, the client's bytes coming one by one or all together.
TEST(ClientLogin, LetsInWhoeverHasThePassword) {
  for (const bool at_once : {true, false}) {
    ClientLogin login(setting());
    const auto feed = [&](const std::string& bytes) {
        std::string waiting;
      for (std::size_t i = 0; i < bytes.size(); i += at_once ? bytes.size() : 1)
        waiting = fed(login, waiting + (at_once ? bytes : bytes.substr(i, 1)));
      EXPECT_EQ(waiting, "");
    };
    feed(kStart);
    ASSERT_EQ(login.wants(), ClientLogin::Wants::verifier);
    EXPECT_EQ(login.user(), "user");
    EXPECT_EQ(login.database(), "d");
    login.verifier_is(stored("pencil"));
    EXPECT_EQ(login.take_output(), message('R', "\0\0\0\x0aSCRAM-SHA-256\0\0"s));
    ScramClient client(Secret("pencil"), "abc");
    feed(sasl_initial(client.first()));
    const auto challenge = login.take_output();
    feed(message('p', *client.proof(std::string_view(challenge).substr(9))));
    ASSERT_EQ(login.wants(), ClientLogin::Wants::admitted);
    EXPECT_TRUE(std::holds_alternative<ScramKeys>(login.proof()));
    const auto end = login.take_output();
    EXPECT_TRUE(client.check(std::string_view(end).substr(9)));
  }
}

TEST(ClientLogin, Md5) {
  const auto hash = md5_hex("secretuser");
  for (const bool right : {true, false}) {
    ClientLogin login(setting());
    fed(login, kStart);
    login.verifier_is("md5" + hash);
    EXPECT_EQ(login.take_output(), message('R', "\0\0\0\x05" "1234"s));
    fed(login, message('p', md5_answer({Secret(hash)}, right ? "1234" : "1235") + '\0'));
    EXPECT_EQ(login.wants(), right ? ClientLogin::Wants::admitted : ClientLogin::Wants::closing);
  }
}

TEST(ClientLogin, EncryptionRequests) {
  ClientLogin plain(setting());
  EXPECT_EQ(fed(plain, "\0\0\0\x08\x04\xd2\x16\x30"s), "");  // GSSENCRequest
  EXPECT_EQ(plain.take_output(), "N");
  fed(plain, ssl_request());
  EXPECT_EQ(plain.take_output(), "N");
  EXPECT_EQ(plain.wants(), ClientLogin::Wants::bytes);

  ClientLogin tls(setting(true));
  EXPECT_EQ(fed(tls, ssl_request() + "stuffed"), "stuffed");
  EXPECT_EQ(tls.wants(), ClientLogin::Wants::tls);
  EXPECT_EQ(tls.take_output(), "S");
  EXPECT_FALSE(tls.bytes_belong_to_tls()) << "what was stuffed behind the request must never count as encrypted";
  tls.tls_started("hash", false);
  fed(tls, kStart);
  tls.verifier_is(std::nullopt);
  EXPECT_NE(tls.take_output().find(kScramPlus), std::string::npos);

  ClientLogin direct(setting(true));
  const auto hello = "\x16\x03\x01\x02"s;
  EXPECT_EQ(fed(direct, hello), hello);
  EXPECT_EQ(direct.wants(), ClientLogin::Wants::tls);
  EXPECT_TRUE(direct.bytes_belong_to_tls());
  EXPECT_EQ(direct.tls_started("hash", false), ClientLogin::Wants::closing) << "without ALPN";

  ClientLogin refused(setting(false));
  fed(refused, hello);
  EXPECT_EQ(refused.wants(), ClientLogin::Wants::closing);

  ClientLogin cancel(setting());
  fed(cancel, cancel_request({7, "key!"}));
  EXPECT_EQ(cancel.wants(), ClientLogin::Wants::cancel);
  EXPECT_EQ(cancel.packet().key, (CancelKey{7, "key!"}));
}

TEST(ClientLogin, NewerProtocolsAreTalkedDown) {
  ClientLogin login(setting());
  auto packet = startup_packet({{"user", "u"}, {"_pq_.strange", "on"}});
  packet[7] = 2;  // 3.2
  fed(login, packet);
  EXPECT_EQ(login.wants(), ClientLogin::Wants::verifier);
  EXPECT_EQ(login.take_output(), negotiate_version({"_pq_.strange"}));
  EXPECT_EQ(login.packet().parameters.size(), 1u) << "it is not passed on";
}

TEST(ClientLogin, HostileBytesGetAnError) {
  const auto told = [](const std::string& bytes) {
    ClientLogin login(setting());
    fed(login, bytes);
    EXPECT_EQ(login.wants(), ClientLogin::Wants::closing) << bytes;
    return login.failure() ? login.failure()->message : std::string();
  };
  EXPECT_EQ(told("\0\0\0\x07"s), "invalid length of startup packet");
  EXPECT_EQ(told("GET / HTTP/1.1"s), "invalid length of startup packet");
  EXPECT_EQ(told("\0\0\x27\x11"s), "invalid length of startup packet");
  EXPECT_EQ(told("\0\0\0\x08\0\x02\0\0"s), "unsupported frontend protocol 2.0: server supports 3.0 to 3.0");
  EXPECT_EQ(told("\0\0\0\x09\0\x03\0\0x"s), "invalid startup packet layout: expected terminator as last byte");
  EXPECT_EQ(told("\0\0\0\x09\0\x03\0\0\0"s), "no PostgreSQL user name specified in startup packet");
  EXPECT_EQ(told("\0\0\0\x0c\x04\xd2\x16\x2e\0\0\0\0"s), "invalid length of cancel request packet");
  const auto after_start = [](const std::string& bytes) {
    ClientLogin login(setting());
    fed(login, kStart);
    login.verifier_is(stored("pencil"));
    fed(login, bytes);
    EXPECT_EQ(login.wants(), ClientLogin::Wants::closing) << bytes;
    return login.failure()->message;
  };
  EXPECT_EQ(after_start(message('Q', "SELECT 1\0"s)), "expected SASL response, got message type 81");
  EXPECT_EQ(after_start("p\x7f\xff\xff\xff"s), "password authentication failed for user \"user\"");
  EXPECT_EQ(after_start(message('p', "x")), "invalid message format");
  EXPECT_EQ(after_start(message('p', "SCRAM-SHA-256\0\0\0\0\x09x"s)), "invalid message format");
  std::mt19937_64 random(3);
  const auto known = stored("pencil");
  for (int round = 0; round < 20'000; ++round) {
    ClientLogin login(setting(random() % 2 == 0));
    auto bytes = random() % 2 == 0 ? kStart : ssl_request();
    bytes[random() % bytes.size()] = static_cast<char>(random());
    fed(login, bytes);
    if (login.wants() == ClientLogin::Wants::verifier) login.verifier_is(known);
    auto more = sasl_initial("n,,n=,r=abc");
    more[random() % more.size()] = static_cast<char>(random());
    fed(login, more);
    EXPECT_NE(login.wants(), ClientLogin::Wants::admitted);
  }
}

TEST(ServerLogin, LogsInAndHandsOverTheGreeting) {
  const auto greeting = parameter_status("server_version", "15.0") + message('K', "\0\0\0\7key!"s) + message('Z', "I");
  ScramServer database({verifier("pencil"), "user", "", std::string(kServerNonce), ""});
  ServerLogin login({{{"user", "user"}}, Secret("pencil"), "abc", false});
  EXPECT_EQ(login.take_output(), startup_packet({{"user", "user"}}));
  const auto say = [&](const std::string& bytes) {
    std::string waiting;
    for (const char byte : bytes) {
      waiting.push_back(byte);
      std::string_view view = waiting;
      login.from_server(view);
      waiting.erase(0, waiting.size() - view.size());
    }
  };
  const auto authentication = [](char code, const std::string& data) { return message('R', "\0\0\0"s + code + data); };
  say(authentication(10, "SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"s));
  const auto challenge = database.first(kScram, login.take_output().substr(5 + 14 + 4));
  say(authentication(11, *challenge));
  say(authentication(12, *database.last(login.take_output().substr(5))));
  say(authentication(0, "") + greeting);
  ASSERT_EQ(login.wants(), ServerLogin::Wants::ready);
  EXPECT_EQ(login.key(), (CancelKey{7, "key!"}));
  EXPECT_EQ(login.greeting({9, "ours"}), authentication(0, "") + parameter_status("server_version", "15.0") +
                                             message('K', "\0\0\0\x09ours"s) + message('Z', "I"));
}

TEST(ServerLogin, AServerThatProvesNothingOrStuffsBytesIsRefused) {
  const auto told = [](bool tls, const std::string& bytes) {
    ServerLogin login({{{"user", "user"}}, Secret("pencil"), "abc", tls});
    std::string_view view = bytes;
    EXPECT_EQ(login.from_server(view), ServerLogin::Wants::failed);
    return std::string(error_field(std::string_view(login.error()).substr(5), 'M'));
  };
  EXPECT_EQ(told(true, "N"), "the database server does not offer TLS");
  EXPECT_EQ(told(true, "S" + message('R', "\0\0\0\0"s)), "the database server does not offer TLS");
  EXPECT_EQ(told(false, message('R', "\0\0\0\x0aSCRAM-SHA-256\0\0"s) + message('R', "\0\0\0\0"s)),
            "the database server did not prove that it knows the password's verifier");
  EXPECT_EQ(told(false, message('Z', "I")), "the database server speaks out of turn");
  EXPECT_EQ(told(false, "HTTP/1.1 400"), "the database server does not speak PostgreSQL's protocol");
  EXPECT_EQ(told(false, error_message(password_failed("user"))), password_failed("user").message);
}

}  // namespace
}  // namespace midstream::gate
