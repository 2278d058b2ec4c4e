#include <fmt/format.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <set>

#include "movers/mail/block.h"
#include "movers/mail/dovecot.h"
#include "movers/mail/plan.h"
#include "movers/mail/queue_files.h"
#include "movers/mail/side.h"
#include "movers/mail/title.h"
#include "movers/mail/watch.h"
#include "sys/file.h"

namespace midstream::mail {
namespace {

// Every order of requests at turns 1 to 3, each request repeated and delayed at will: never two homes, and a side
// becomes owner only at a turn that the other has yielded.
TEST(Title, NeverTwoHomes) {
  struct World {
    Title old_side{Holding::owner, 0};
    Title new_side{Holding::standby, 0};
    auto key() const { return std::tuple(old_side.holding, old_side.turn, new_side.holding, new_side.turn); }
  };
  std::set<decltype(World().key())> seen;
  std::vector<World> open{World()};
  bool new_was_home = false;
  while (!open.empty()) {
    const World world = open.back();
    open.pop_back();
    if (!seen.insert(world.key()).second) continue;
    ASSERT_FALSE(world.old_side.home() && world.new_side.home())
        << to_string(world.old_side.holding) << world.old_side.turn;
    new_was_home = new_was_home || world.new_side.home();
    for (std::uint64_t turn = 1; turn <= 3; ++turn) {
      const auto tell = [&](Title World::*side, Result<Title> next) {
        if (!next) return;
        World after = world;
        after.*side = *next;
        open.push_back(after);
      };
      for (auto side : {&World::old_side, &World::new_side}) {
        const auto other = side == &World::old_side ? &World::new_side : &World::old_side;
        tell(side, begin_yield(world.*side, turn));
        tell(side, finish_yield(world.*side, turn));
        tell(side, keep(world.*side, turn));
        // Asked for only on the other's word, which may arrive late.
        if ((world.*other).turn >= turn && !(world.*other == Title{Holding::yielding, turn})) {
          if (world.*other == Title{Holding::yielded, turn}) tell(side, take(world.*side, turn));
        }
      }
    }
  }
  EXPECT_TRUE(new_was_home);
  EXPECT_GT(seen.size(), 10u);
}

TEST(Title, APastTurnIsFenced) {
  const Title owner{Holding::owner, 4};
  EXPECT_EQ(take(owner, 4), owner);
  EXPECT_EQ(take(Title{Holding::yielded, 4}, 4).error().kind, ErrorKind::fenced);
  EXPECT_EQ(take(Title{Holding::yielding, 4}, 5).error().kind, ErrorKind::fenced);
  EXPECT_EQ(begin_yield(owner, 4).error().kind, ErrorKind::fenced);
  EXPECT_EQ(finish_yield(owner, 5).error().kind, ErrorKind::fenced);
  EXPECT_EQ(keep(Title{Holding::yielded, 5}, 5).error().kind, ErrorKind::fenced);
}

// An agent that was killed between the write of a record and its rename: what it left is whole, and was never so. Read, it made
// a user at home on both sides.
TEST(Side, ARecordThatWasNotRenamedIsNoTitle) {
  std::string state = "/tmp/midstream-side-XXXXXX";
  ASSERT_NE(::mkdtemp(state.data()), nullptr);
  MailOptions options;
  options.dovecot_conf = state + "/dovecot.conf";
  const Json end{{"host", "old"}, {"address", "10.0.0.1"}};
  const Json plan{{"kind", "proxy"}, {"old", end}, {"new", {{"host", "new"}, {"address", "10.0.0.2"}}}};
  ASSERT_TRUE(write_file_durably(
      state + "/side.json", Json{{"move", "m"}, {"host", "old"}, {"desired", plan}, {"cached_auth", false}}.dump()));
  ASSERT_TRUE(make_directories(state + "/titles"));
  // Enough of them that no order of a directory tells the two apart by chance.
  for (int i = 0; i < 20; ++i) {
    const auto file = fmt::format("{}/titles/u{}@d.json", state, i);
    auto record = to_json(Title{Holding::yielded, 2});
    record.update({{"user", fmt::format("u{}@d", i)}, {"home", "/m"}});
    ASSERT_TRUE(write_file_durably(file, record.dump()));
    record.update(to_json(Title{Holding::yielding, 1}));
    ASSERT_TRUE(write_file_durably(file + ".77.tmp", record.dump()));
  }
  Side side(options, state);
  (void)side.load({Deadline::in(Millis(5'000)), {}});  // the map at the end needs root
  EXPECT_EQ(side.users().size(), 20u);
  for (const auto& [name, user] : side.users()) EXPECT_EQ(user.title, (Title{Holding::yielded, 2})) << name;
  std::filesystem::remove_all(state);
}

TEST(Block, ComesAndGoesByteForByte) {
  for (const std::string text : {"", "a = b\n", "a = b", "a = b\n\n"}) {
    for (const auto place : {Place::head, Place::tail}) {
      const auto with = with_block(text, "m", place, "x = y\n");
      EXPECT_NE(with.find("x = y\n"), std::string::npos);
      EXPECT_EQ(without_block(with, "m", place), text);
      const auto changed = with_block(with, "m", place, "z = y\n");
      EXPECT_EQ(changed.find("x = y"), std::string::npos);
      EXPECT_EQ(without_block(changed, "m", place), text);
    }
  }
  const auto broken = std::string("# midstream m tail end\n");
  EXPECT_EQ(without_block(broken, "m", Place::tail).error().kind, ErrorKind::corrupt);
}

TEST(Block, NoSettingOfPostfixIsThereTwice) {
  const std::string text =
      "relayhost =\n# a comment\n\nmynetworks = 127.0.0.0/8\n\n# of mynetworks\n  10.0.0.0/8\nx = mynetworks\n y";
  const auto with = with_settings(text, "m", "mynetworks = a\nrelayhost = b\n");
  EXPECT_EQ(with.substr(0, with.find("# midstream m tail begin")),
            "#midstream m# relayhost =\n# a comment\n\n#midstream m# mynetworks = 127.0.0.0/8\n\n# of mynetworks\n"
            "#midstream m#   10.0.0.0/8\nx = mynetworks\n y\n");
  EXPECT_EQ(without_settings(with, "m"), text);
  const auto less = with_settings(with, "m", "relayhost = b\n");
  EXPECT_NE(less.find("\nmynetworks = 127.0.0.0/8\n\n# of mynetworks\n  10.0.0.0/8\n"), std::string::npos);
  EXPECT_EQ(without_settings(less, "m"), text);
}

TEST(Block, ALineSaysWhereAndNeverLetsAnyPasswordIn) {
  const auto line = [](Title title, bool taking = false, std::int64_t until = 0) {
    return map_line({"u@d", title, taking, until}, "10.0.0.2", 7);
  };
  EXPECT_EQ(line({Holding::owner, 1}), "u@d:::::::noauthenticate serial=7\n");
  EXPECT_EQ(line({Holding::standby, 1}), "u@d:::::::noauthenticate proxy=y host=10.0.0.2 starttls=any-cert serial=7\n");
  EXPECT_EQ(line({Holding::standby, 1}, true), "u@d:::::::noauthenticate userdb_tempfail=yes serial=7\n");
  const auto held = line({Holding::yielding, 1}, true, 99);
  EXPECT_NE(held.find("delay_until=99 userdb_tempfail=yes"), std::string::npos);
  for (const auto holding : {Holding::standby, Holding::owner, Holding::yielding, Holding::yielded}) {
    for (const bool taking : {false, true}) EXPECT_EQ(line({holding, 1}, taking).find("nopassword"), std::string::npos);
  }
}

TEST(Block, HostileNamesAreNotLetThrough) {
  for (const char* good : {"a", "user01@example.test", "a.b+c=d_e-f@x"}) EXPECT_TRUE(is_mail_user(good)) << good;
  for (const char* bad :
       {"", "-u", ".hidden", "a b", "a:b", "a/b", "../x", "*", "u?", "a\nb", "a;b", "$(id)", "u%d", "\xc3\xa4"})
    EXPECT_FALSE(is_mail_user(bad)) << bad;
  EXPECT_FALSE(is_mail_user(std::string(121, 'a')));
}

TEST(Dovecot, ADeliveryIsToldFromAnIdleConnection) {
  for (const char* busy :
       {"dovecot/lmtp [127.0.0.1 RCPT TO u@d]", "dovecot/lmtp [127.0.0.1 DATA]", "dovecot/lmtp [2 clients, more]"})
    EXPECT_TRUE(is_delivering(busy)) << busy;
  for (const char* idle : {"dovecot/lmtp", "dovecot/lmtp [127.0.0.1 READY]", "dovecot/lmtp [127.0.0.1 MAIL FROM a@b]",
                           "dovecot/lmtp [idling]", "dovecot/lmtp [127.0.0.1 GREETING]"})
    EXPECT_FALSE(is_delivering(idle)) << idle;
}

TEST(Dovecot, ADifferenceIsNamed) {
  const Json one{{"mailbox INBOX", "guid a"}, {"subscriptions", "Sent"}};
  EXPECT_EQ(difference(one, one), "");
  EXPECT_NE(difference(one, {{"mailbox INBOX", "guid b"}, {"subscriptions", "Sent"}}).find("INBOX"), std::string::npos);
  EXPECT_NE(difference(one, {{"mailbox INBOX", "guid a"}}).find("subscriptions"), std::string::npos);
  EXPECT_NE(difference({{"mailbox INBOX", "guid a"}}, one).find("subscriptions"), std::string::npos);
}

TEST(Watch, IndexesAndLocksAreNoChanges) {
  EXPECT_TRUE(is_mail_change("/v/u/Maildir/cur", "1:2,S"));
  EXPECT_TRUE(is_mail_change("/v/u/Maildir", "subscriptions"));
  EXPECT_FALSE(is_mail_change("/v/u/Maildir", "dovecot.index.log"));
  EXPECT_FALSE(is_mail_change("/v/u/Maildir/.Sent", ".dovecot-box-sync.lock"));
  EXPECT_FALSE(is_mail_change("/v/u/Maildir/tmp", "1"));
}

TEST(Plan, SharesAreRoundedUpAndUsersSpread) {
  EXPECT_EQ(share_of(10, 0), 0u);
  EXPECT_EQ(share_of(10, 5), 1u);
  EXPECT_EQ(share_of(10, 100), 10u);
  EXPECT_NE(goes_before("a", "b"), goes_before("b", "a"));
  EXPECT_FALSE(goes_before("a", "a"));
}

TEST(QueueFiles, IdsOfBothKinds) {
  EXPECT_TRUE(is_queue_id("3F2A41B2C"));
  EXPECT_FALSE(is_queue_id("../../x"));
  EXPECT_FALSE(is_queue_id("AB"));
  EXPECT_TRUE(is_long_queue_id("4bXnJt2mN2zxznjl"));
  EXPECT_FALSE(is_long_queue_id("3F2A41B2C"));
  EXPECT_EQ(short_queue_id(0x1a2b, 0xff01), "01A2BFF01");
  EXPECT_EQ(hashed("3F2A41B2C", 1), "3/");
  EXPECT_EQ(hashed("3F2A41B2C", 2), "3/F/");
  EXPECT_EQ(hashed("3F2A41B2C", 0), "");
}

}  // namespace
}  // namespace midstream::mail
