// The judge of mail on small tales; on mailboxes that real daemons wrote, the lab's trial mail-at-rest.
#include "lab/checker/mail_judge.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

namespace midstream::lab {
namespace {

const std::string kUser = "user01@prod.example";
const std::string kFriend = "friend1@world.example";

// A ledger, line by line, and what is there in the end.
struct Tale {
  std::vector<Record> ledger;
  MailEvidence evidence{.mailboxes = MailCollection{}, .sink = std::vector<SinkLine>{}, .source = "192.0.2.25"};

  Tale() { evidence.mailboxes->folders = {{kUser, "INBOX", 7}, {kUser, "Archive", 8}}; }
  void add(RecordType type, OpKind kind, const std::string& id, MailPart mail, int status = 0) {
    Record record;
    record.type = type;
    record.kind = kind;
    record.key = id;
    record.mail = std::move(mail);
    record.status = status;
    ledger.push_back(record);
  }
  void send(const std::string& id, const std::string& to, RecordType end = RecordType::acknowledged, int maybe = 0,
            int status = 250) {
    add(RecordType::attempted, to == kFriend ? OpKind::submit : OpKind::deliver, id, {.user = to});
    add(end, to == kFriend ? OpKind::submit : OpKind::deliver, id, {.user = to, .maybe = maybe}, status);
  }
  void change(OpKind kind, const std::string& id, const std::string& what, RecordType end = RecordType::acknowledged) {
    const MailPart part{.user = kUser, .folder = "INBOX", .change = what, .uidvalidity = 7, .uid = 1};
    add(RecordType::attempted, kind, id, part);
    if (end != RecordType::attempted) add(end, kind, id, part);
  }
  void seen(const std::string& id, std::int64_t uid, std::int64_t uidvalidity = 7) {
    add(RecordType::seen, OpKind::mail_read, id,
        {.user = kUser, .folder = "INBOX", .uidvalidity = uidvalidity, .uid = uid});
  }
  void there(const std::string& id, const std::string& folder = "INBOX", std::int64_t uid = 1,
             const std::string& flags = "") {
    evidence.mailboxes->messages.push_back({kUser, folder, uid, id, flags});
  }
  MailJudgement judge() const { return judge_mail({ledger}, evidence); }
};

TEST(MailJudge, PassesWhatIsAsItWasTold) {
  Tale tale;
  tale.send("a", kUser);
  tale.send("b", kFriend);
  tale.seen("before", 3);
  tale.change(OpKind::flag, "a", "+\\Flagged");
  tale.there("a", "INBOX", 1, "F");
  tale.there("before", "INBOX", 3);
  tale.evidence.sink->push_back({"b", kFriend, "192.0.2.25"});
  const auto judged = tale.judge();
  EXPECT_FALSE(judged.broken()) << judged.details.front();
  EXPECT_TRUE(judged.unknowns.empty());
  EXPECT_EQ(judged.acknowledged_messages, 2);
  EXPECT_EQ(judged.acknowledged_flags, 1);
}

TEST(MailJudge, NothingAtAllIsUnknownAndNotUsedIsNothing) {
  EXPECT_FALSE(judge_mail({}, {}).used);
  Tale tale;
  tale.send("a", kUser, RecordType::unknown);
  EXPECT_FALSE(tale.judge().unknowns.empty());
  Tale blind;
  blind.send("a", kUser);
  blind.evidence = {};
  EXPECT_EQ(blind.judge().unknowns.size(), 2u);
}

TEST(MailJudge, SeesMessagesLostAndDoubled) {
  Tale tale;
  tale.send("gone", kUser);
  tale.send("gone-abroad", kFriend);
  tale.send("twice", kUser);
  tale.send("twice-abroad", kFriend);
  tale.seen("before", 3);
  for (int uid : {1, 2}) tale.there("twice", "INBOX", uid);
  for (int i = 0; i < 2; ++i) tale.evidence.sink->push_back({"twice-abroad", kFriend, "192.0.2.25"});
  const auto judged = tale.judge();
  EXPECT_EQ(judged.lost, 3);
  EXPECT_EQ(judged.doubled, 2);
}

TEST(MailJudge, AnUnknownSendingMayBeThereOnceOrNot) {
  for (const std::size_t copies : {0u, 1u, 2u, 3u}) {
    Tale tale;
    tale.send("a", kUser);
    tale.there("a");
    tale.send("unknown", kUser, RecordType::unknown, 1);
    tale.send("retried", kUser, RecordType::acknowledged, 1);
    for (std::size_t i = 0; i < copies; ++i) {
      tale.there("unknown", "INBOX", 10 + static_cast<std::int64_t>(i));
      tale.there("retried", "INBOX", 20 + static_cast<std::int64_t>(i));
    }
    EXPECT_EQ(tale.judge().doubled, copies <= 1 ? 0 : copies == 2 ? 1 : 2) << copies;
    EXPECT_EQ(tale.judge().lost, copies == 0 ? 1 : 0) << copies;
  }
}

TEST(MailJudge, SeesChangesLost) {
  Tale tale;
  for (const char* id : {"flag", "unflag", "moved", "deleted"}) tale.send(id, kUser);
  tale.change(OpKind::flag, "flag", "+\\Seen");
  tale.change(OpKind::flag, "unflag", "-\\Flagged");
  tale.change(OpKind::move, "moved", "Archive");
  tale.change(OpKind::expunge, "deleted", "");
  Tale good = tale;
  good.there("flag", "INBOX", 1, "S");
  good.there("unflag", "INBOX", 2);
  good.there("moved", "Archive", 1);
  EXPECT_FALSE(good.judge().broken());
  EXPECT_EQ(good.judge().acknowledged_flags, 4);
  tale.there("flag", "INBOX", 1);
  tale.there("unflag", "INBOX", 2, "F");
  tale.there("moved", "INBOX", 3);
  tale.there("deleted", "INBOX", 4);
  EXPECT_EQ(tale.judge().lost, 4);
}

TEST(MailJudge, AChangeWithoutAnAnswerMayBeEither) {
  for (const auto end : {RecordType::unknown, RecordType::attempted}) {
    for (const bool done : {false, true}) {
      Tale tale;
      for (const char* id : {"flag", "moved", "deleted"}) tale.send(id, kUser);
      tale.change(OpKind::flag, "flag", "+\\Seen", end);
      tale.there("flag", "INBOX", 1, done ? "S" : "");
      tale.change(OpKind::move, "moved", "Archive", end);
      tale.there("moved", done ? "Archive" : "INBOX", 5);
      tale.change(OpKind::expunge, "deleted", "", end);
      if (!done) tale.there("deleted", "INBOX", 6);
      EXPECT_FALSE(tale.judge().broken()) << tale.judge().details.front();
    }
  }
  Tale refused;
  refused.send("a", kUser);
  refused.change(OpKind::expunge, "a", "", RecordType::failed);
  EXPECT_EQ(refused.judge().lost, 1);  // it was told that nothing was done
}

TEST(MailJudge, SeesUidsWithAnotherMeaning) {
  Tale tale;
  tale.send("a", kUser);
  tale.seen("a", 1);
  tale.there("a", "INBOX", 2);
  EXPECT_EQ(tale.judge().violations, 1);
  Tale other;
  other.send("a", kUser);
  other.seen("a", 1, 6);
  other.there("a");
  EXPECT_EQ(other.judge().violations, 1);
  Tale said;
  said.send("a", kUser);
  said.there("a");
  said.add(RecordType::violation, OpKind::mail_read, "a", {.user = kUser, .folder = "INBOX"});
  EXPECT_EQ(said.judge().violations, 1);
}

TEST(MailJudge, SeesRefusalsAndAnotherSource) {
  Tale tale;
  tale.send("a", kFriend);
  tale.evidence.sink->push_back({"a", kFriend, "192.0.2.26"});
  tale.evidence.sink->push_back({"not ours", kFriend, "192.0.2.27"});
  tale.send("b", kUser, RecordType::failed, 0, 550);
  tale.send("c", kUser, RecordType::failed, 0, 450);
  const auto judged = tale.judge();
  EXPECT_EQ(judged.wrong_source, 1);
  EXPECT_EQ(judged.refused, 1);
  EXPECT_EQ(judged.lost, 0);
}

TEST(MailLedger, IsReadAsItWasWritten) {
  Record record;
  record.kind = OpKind::flag;
  record.key = "c1-7@clients.invalid";
  record.op = 7;
  record.mail = {kUser, "INBOX", "+\\Seen", 7, 12, 2};
  for (const auto type : {RecordType::attempted, RecordType::acknowledged, RecordType::seen, RecordType::violation}) {
    record.type = type;
    record.why = type == RecordType::attempted ? "" : "because";
    const auto read = parse_record(to_line(record));
    ASSERT_TRUE(read) << read.error().text();
    EXPECT_EQ(read->type, type);
    EXPECT_EQ(read->kind, OpKind::flag);
    EXPECT_EQ(read->key, record.key);
    EXPECT_EQ(to_line(*read), to_line(record));
    EXPECT_EQ(read->mail.change, "+\\Seen");
    EXPECT_EQ(read->mail.maybe, 2);
    EXPECT_EQ(read->why, record.why);
  }
  // Remarks are no operations of anybody.
  EXPECT_TRUE(summarise({record}).empty());
}

TEST(MailCollection, ReadsMaildirs) {
  std::string name = (std::filesystem::temp_directory_path() / "midstream-maildir-XXXXXX").string();
  const std::filesystem::path top = ::mkdtemp(name.data());
  const auto home = top / "prod.example/user01/Maildir";
  for (const char* part : {"cur", "new", ".Archive/cur", ".Archive/new"})
    std::filesystem::create_directories(home / part);
  std::ofstream(home / "dovecot-uidlist") << "3 V77 N5 G0123\n4 W10 :1.M1.host\n";
  std::ofstream(home / "cur/1.M1.host:2,FS") << "Subject: x\nmessage-id: <one@x>\n\nMessage-ID: <not@this>\n";
  std::ofstream(home / "new/2.M2.host") << "Message-ID: <two@x>\n\n";
  std::ostringstream out;
  ASSERT_TRUE(collect_mail(top / "prod.example", out));
  const auto mail = parse_mail(out.str());
  ASSERT_TRUE(mail) << mail.error().text();
  ASSERT_EQ(mail->folders.size(), 2u);
  EXPECT_EQ(mail->folders[0].uidvalidity, 77);
  ASSERT_EQ(mail->messages.size(), 2u);
  EXPECT_EQ(mail->messages[0], (MailMessage{kUser, "INBOX", 4, "one@x", "FS"}));
  EXPECT_EQ(mail->messages[1], (MailMessage{kUser, "INBOX", 0, "two@x", ""}));
  EXPECT_FALSE(parse_mail(out.str().substr(0, out.str().size() / 2)));
  std::filesystem::remove_all(top);
}

TEST(MailCollection, ReadsTheSinksBook) {
  const auto book = parse_sink("{\"id\":\"a\",\"to\":\"b\",\"client\":\"192.0.2.25\"}\n{\"id\":\"to");
  ASSERT_TRUE(book);
  ASSERT_EQ(book->size(), 1u);
  EXPECT_EQ((*book)[0].client, "192.0.2.25");
}

}  // namespace
}  // namespace midstream::lab
