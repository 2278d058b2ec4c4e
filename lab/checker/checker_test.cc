#include <gtest/gtest.h>

#include "lab/checker/collection.h"
#include "lab/checker/frames.h"
#include "lab/checker/judge.h"
#include "lab/checker/tenure.h"
#include "lab/checker/testimony.h"

namespace midstream::lab {
namespace {

const Mac kMac{2, 0, 0, 0, 0, 1};
constexpr std::int64_t kMs = 1000000;

std::string arp(char operation, const std::string& sender, const std::string& target) {
  const std::string mac(kMac.begin(), kMac.end());
  return std::string(6, '\xff') + mac + std::string("\x08\x06\0\1\x08\0\6\4\0", 9) + operation + mac +
         sender + std::string("\2\0\0\0\0\2", 6) + target;
}

TEST(Frames, ArpClaimsAndQuestions) {
  const std::string a("\xc0\0\2\x0a", 4);
  const std::string b("\xc0\0\2\x01", 4);
  const std::string nobody(4, '\0');
  const auto reply = parse_frame(arp(2, a, b));
  ASSERT_TRUE(reply.claim);
  EXPECT_EQ(reply.claim->address, "192.0.2.10");
  EXPECT_EQ(reply.claim->mac, "02:00:00:00:00:01");
  EXPECT_EQ(reply.claim->how, "arp-reply");
  EXPECT_EQ(reply.claim->to, "02:00:00:00:00:02");
  EXPECT_FALSE(reply.question);
  const auto announcement = parse_frame(arp(1, a, a));
  EXPECT_EQ(announcement.claim->how, "arp-announce");
  EXPECT_FALSE(announcement.question);
  EXPECT_EQ(parse_frame(arp(1, a, b)).claim->how, "arp-request");
  const auto probe = parse_frame(arp(1, nobody, a));
  EXPECT_FALSE(probe.claim);
  EXPECT_EQ(probe.question->address, "192.0.2.10");
  for (std::size_t cut = 0; cut < 42; ++cut) EXPECT_FALSE(parse_frame(arp(2, a, b).substr(0, cut)).claim);
}

TEST(Frames, QuestionsThatTheWitnessAsks) {
  const auto v4 = parse_frame(make_question("192.0.2.10", "192.0.2.62", kMac));
  EXPECT_EQ(v4.question->address, "192.0.2.10");
  EXPECT_EQ(v4.claim->address, "192.0.2.62");
  EXPECT_EQ(link_local_of(kMac), "fe80::ff:fe00:1");
  const auto v6 = parse_frame(make_question("2001:db8:26::10", link_local_of(kMac), kMac));
  EXPECT_EQ(v6.question->address, "2001:db8:26::10");
  EXPECT_EQ(v6.claim->address, "fe80::ff:fe00:1");
  EXPECT_EQ(make_question("192.0.2.10", "::1", kMac), "");
  EXPECT_EQ(make_question("name", "192.0.2.62", kMac), "");
}

TEST(Frames, NeighbourAdvertisementClaimsItsTarget) {
  auto frame = make_question("2001:db8:26::10", "2001:db8:26::1", kMac);
  frame[54] = '\x88';  // type: advertisement
  frame[78] = 2;       // option: the target's link-layer address
  frame[83] = 9;
  const auto spoken = parse_frame(frame);
  ASSERT_TRUE(spoken.claim);
  EXPECT_EQ(spoken.claim->address, "2001:db8:26::10");
  EXPECT_EQ(spoken.claim->how, "nd-advert");
  EXPECT_EQ(spoken.claim->mac, "02:00:00:09:00:01");
}

std::vector<Act> acts(std::string_view who) {
  std::vector<Act> out;
  for (std::size_t i = 0; i < who.size(); ++i)
    out.push_back(Act{static_cast<std::int64_t>(i) * 10, who[i] - 'a'});
  return out;
}

TEST(Tenure, OneSuccessionIsNoOverlap) {
  for (const auto* one : {"", "a", "aaaa", "aabb", "ab"})
    EXPECT_TRUE(find_overlaps(acts(one), 1).empty()) << one;
  EXPECT_TRUE(find_overlaps(acts("aabbaa"), 2).empty());
  EXPECT_TRUE(find_overlaps(acts("bbb"), 1, 0).empty());
  EXPECT_TRUE(find_overlaps(acts("abc"), 2).empty());
}

TEST(Tenure, AnActOutOfTurnOverlapsFromTheEndOfItsAuthorsTenure) {
  const auto late = find_overlaps(acts("aaabba"
                                       "bb"),
                                  1);
  ASSERT_EQ(late.size(), 1u);
  EXPECT_EQ(late[0].from, 30);
  EXPECT_EQ(late[0].to, 50);
  EXPECT_EQ(late[0].who, 0);
  EXPECT_EQ(late[0].acts, 1u);
  const auto early = find_overlaps(acts("aabaabbb"), 1);
  ASSERT_EQ(early.size(), 1u);
  EXPECT_EQ(early[0].from, 20);
  EXPECT_EQ(early[0].to, 40);
  EXPECT_EQ(early[0].who, 1);
}

TEST(Tenure, TheFirstHolderIsGivenAndTheHandoversAreCounted) {
  EXPECT_FALSE(find_overlaps(acts("ba"), 1, 0).empty());
  EXPECT_FALSE(find_overlaps(acts("bba"), 1, 0).empty());
  EXPECT_FALSE(find_overlaps(acts("aba"), 1).empty());
  EXPECT_FALSE(find_overlaps(acts("ab"), 0).empty());
  EXPECT_FALSE(find_overlaps(acts("abab"), 2).empty());
  EXPECT_FALSE(find_overlaps(acts("aaaabababbbb"), 1).empty());
}

// A clean move: two orders and a file on old, the same on new.
class JudgeTest : public testing::Test {
 protected:
  JudgeTest() {
    Record start = at(RecordType::start, 0);
    start.prefix = "c1-";
    start.boot_id = "boot";
    evidence_.ledgers.push_back({start});
    place("c1-1", RecordType::acknowledged, 4001);
    place("c1-2", RecordType::acknowledged, 4002);
    upload("c1-3", 3, "abc", RecordType::acknowledged);
    ledger().push_back(at(RecordType::end, 100 * kMs));
    DatabaseCollection old_side{"1",
                                "app",
                                true,
                                {row("seed-1", 1), row("c1-1", 4001), row("c1-2", 4002)},
                                {{7, 1000, 0}, {8, 2000, 0}}};
    DatabaseCollection new_side = old_side;
    new_side.system = "2";
    new_side.commits = {{5, 1100, 1}, {6, 2100, 1}, {9, 3000, 0}};
    evidence_.old_database = old_side;
    evidence_.new_database = new_side;
    evidence_.old_files = {{"static/x", 1, "x"}, {"uploads/c1-3", 3, "abc"}};
    evidence_.new_files = evidence_.old_files;
    Testimony testimony;
    testimony.boot_id = "boot";
    testimony.claims = {claim(10, "m1"), claim(20, "m1"), claim(50, "m2")};
    testimony.beats = {{-1, 0}, {60 * kMs, 0}, {120 * kMs, 0}};
    evidence_.testimony = testimony;
    terms_.longest_gap_ns = 70 * kMs;
  }

  static Record at(RecordType type, std::int64_t boot_ns) {
    Record record;
    record.type = type;
    record.boot_ns = boot_ns;
    record.customer = "customer-1";
    record.amount = 5;
    record.items = {"sku-1"};
    return record;
  }
  static OrderRow row(const std::string& key, std::int64_t id) {
    return OrderRow{key, id, "customer-1", 5, {"sku-1"}, 1};
  }
  static TimedClaim claim(std::int64_t ms, const std::string& mac, const std::string& to = "") {
    return TimedClaim{ms * kMs, Claim{"192.0.2.10", mac, "arp-reply", to}};
  }
  std::vector<Record>& ledger() { return evidence_.ledgers[0]; }

  // An attempt and, unless it is "attempted", its outcome.
  void put(Record record, OpKind kind, const std::string& key, RecordType outcome, std::int64_t id) {
    record.kind = kind;
    record.key = key;
    record.op = ++ops_;
    ledger().push_back(record);
    record.type = outcome;
    record.id = id;
    if (outcome != RecordType::attempted) ledger().push_back(record);
  }
  void place(const std::string& key, RecordType outcome, std::int64_t id = 0) {
    put(at(RecordType::attempted, kMs), OpKind::order, key, outcome, id);
  }
  void upload(const std::string& key, std::int64_t size, const std::string& hash, RecordType outcome) {
    Record record = at(RecordType::attempted, kMs);
    record.size = size;
    record.sha256 = hash;
    put(record, OpKind::upload, key, outcome, 0);
  }
  Judgement run() { return judge(evidence_, terms_); }

  Evidence evidence_;
  Terms terms_;
  std::uint64_t ops_ = 0;
};

TEST_F(JudgeTest, ACleanMovePasses) {
  const auto judgement = run();
  EXPECT_EQ(judgement.verdict, Verdict::pass) << to_json(judgement).dump(2);
  EXPECT_EQ(judgement.acknowledged_rows, 2);
  EXPECT_EQ(judgement.acknowledged_files, 1);
}

TEST_F(JudgeTest, RowsLostDoubledAlteredUnasked) {
  auto& rows = evidence_.new_database->rows;
  const auto clean = rows;
  const auto after = [&](auto change) {
    rows = clean;
    change();
    return run();
  };
  EXPECT_EQ(after([&] { rows.pop_back(); }).lost, 1);
  EXPECT_EQ(after([&] { rows.erase(rows.begin()); }).lost, 1);  // a row that stood before
  EXPECT_EQ(after([&] { rows.push_back(row("c1-1", 4003)); }).doubled, 1);
  EXPECT_EQ(after([&] { rows.push_back(row("other", 4001)); }).doubled, 1);
  EXPECT_EQ(after([&] { rows[1].invoices = 2; }).doubled, 1);
  EXPECT_EQ(after([&] { rows[1].invoices = 0; }).lost, 1);
  EXPECT_EQ(after([&] { rows[1].amount = 6; }).lost, 1);
  EXPECT_EQ(after([&] { rows[1].items.push_back("sku-1"); }).lost, 1);
  EXPECT_EQ(after([&] { rows[1].id = 9; }).lost, 1);
  EXPECT_EQ(after([&] { rows.push_back(row("c1-9", 4009)); }).unasked, 1);
  for (const auto& judgement :
       {after([&] { rows.pop_back(); }), after([&] { rows.push_back(row("c1-1", 4003)); })}) {
    EXPECT_EQ(judgement.verdict, Verdict::fail);
    EXPECT_EQ(judgement.details.size(), 1u);
  }
}

TEST_F(JudgeTest, AnUnknownRowMayBeThereOnceOrNotAtAll) {
  place("c1-7", RecordType::unknown);
  place("c1-8", RecordType::attempted);
  place("c1-9", RecordType::failed);
  EXPECT_EQ(run().verdict, Verdict::pass);
  evidence_.new_database->rows.push_back(row("c1-7", 4007));
  evidence_.new_database->rows.push_back(row("c1-8", 4008));
  EXPECT_EQ(run().verdict, Verdict::pass);
  evidence_.new_database->rows.push_back(row("c1-7", 4010));
  EXPECT_EQ(run().doubled, 1);
  evidence_.new_database->rows.back() = row("c1-9", 4009);
  EXPECT_EQ(run().unasked, 1);
}

TEST_F(JudgeTest, FilesLostAlteredReplaced) {
  evidence_.new_files->back().sha256 = "abd";
  EXPECT_EQ(run().lost, 1);
  evidence_.new_files->pop_back();
  EXPECT_EQ(run().lost, 1);
  evidence_.new_files->push_back({"uploads/c1-3", 3, "abc"});
  upload("c1-3", 3, "second", RecordType::unknown);
  EXPECT_EQ(run().verdict, Verdict::pass);
  evidence_.new_files->back().sha256 = "second";
  EXPECT_EQ(run().verdict, Verdict::pass);
  upload("c1-3", 3, "third", RecordType::acknowledged);
  EXPECT_EQ(run().lost, 1);
  evidence_.new_files->push_back({"uploads/c1-77", 3, "abc"});
  EXPECT_EQ(run().unasked, 1);
}

TEST_F(JudgeTest, AReaderThatMissesAnAcknowledgedFile) {
  const auto read = [&](RecordType outcome, int status) {
    Record record = at(RecordType::attempted, 2 * kMs);
    record.status = status;
    record.host = "new";
    put(record, OpKind::file_read, "c1-3", outcome, 0);
    return run();
  };
  EXPECT_EQ(read(RecordType::acknowledged, 200).verdict, Verdict::pass);
  EXPECT_EQ(read(RecordType::failed, 503).verdict, Verdict::pass) << "the figures of the service count it";
  EXPECT_EQ(read(RecordType::failed, 404).missed, 1);
  EXPECT_EQ(read(RecordType::failed, 200).missed, 2) << "other bytes";
  EXPECT_EQ(run().verdict, Verdict::fail);
}

TEST_F(JudgeTest, TwoWriters) {
  evidence_.old_database->commits.push_back({10, 5000, 0});  // after new's at 3000
  const auto judgement = run();
  EXPECT_EQ(judgement.verdict, Verdict::fail);
  EXPECT_GE(judgement.two_writers_ms, 1);
  EXPECT_EQ(judgement.lost, 0);
}

TEST_F(JudgeTest, ThereAndBackIsOneWriterAtATime) {
  evidence_.old_database->commits.push_back({10, 5000, 0});
  terms_.final_side = Side::old_host;
  terms_.handovers = 2;
  EXPECT_EQ(run().verdict, Verdict::pass);
}

TEST_F(JudgeTest, ACopyOfOldHasItsHistory) {
  evidence_.new_database->commits = evidence_.old_database->commits;
  evidence_.new_database->commits.push_back({9, 3000, 0});
  EXPECT_EQ(run().two_writers_ms, 0);
}

TEST_F(JudgeTest, TwoOwners) {
  evidence_.testimony->claims.push_back(claim(70, "m1"));
  EXPECT_EQ(run().two_owners_ms, 20);
  evidence_.testimony->claims.pop_back();
  evidence_.testimony->questions = {{49 * kMs, {"192.0.2.10", "asker"}}};
  evidence_.testimony->claims = {claim(10, "m1"), claim(50, "m1", "asker"), claim(51, "m2", "asker")};
  EXPECT_EQ(run().two_owners_ms, 1);
  evidence_.testimony->questions.push_back({50 * kMs + 1, {"192.0.2.10", "asker"}});
  EXPECT_EQ(run().verdict, Verdict::pass);
}

std::vector<Instance> worker(const std::string& host, std::int64_t from_ms, std::int64_t to_ms, std::vector<std::int64_t> numbers) {
  const auto runs = static_cast<std::int64_t>(numbers.size());
  return {Instance{host, 7, from_ms * kMs, to_ms * kMs, runs, std::move(numbers)}};
}

TEST_F(JudgeTest, ASingletonThatRunsOnOneSideAtATime) {
  evidence_.singletons_asked = true;
  EXPECT_EQ(judge(evidence_, Terms{}).verdict, Verdict::unknown) << "no logs";
  evidence_.old_runs = worker("old", 0, 100, {1, 2});
  evidence_.new_runs = worker("new", 101, 200, {3});
  for (const std::int64_t n : {1, 2, 3}) evidence_.new_database->runs.push_back({n, "x"});
  const auto judged = judge(evidence_, Terms{});
  EXPECT_EQ(judged.verdict, Verdict::pass) << to_json(judged).dump();
  EXPECT_EQ(judged.singletons.runs, 3);
  EXPECT_EQ(judged.singletons.overlaps_ms, 0);
}

TEST_F(JudgeTest, ASingletonOnBothSides) {
  evidence_.singletons_asked = true;
  for (const std::int64_t n : {1, 2, 3}) evidence_.new_database->runs.push_back({n, "x"});
  evidence_.old_runs = worker("old", 0, 100, {1, 2});
  evidence_.new_runs = worker("new", 100, 200, {3});  // at one instant alone
  EXPECT_EQ(judge(evidence_, Terms{}).singletons.overlaps_ms, 1);
  EXPECT_EQ(judge(evidence_, Terms{}).verdict, Verdict::fail);
  evidence_.new_runs = worker("new", 40, 60, {3});  // within
  const auto judged = judge(evidence_, Terms{});
  EXPECT_EQ(judged.singletons.overlaps_ms, 20);
  EXPECT_EQ(judged.singletons.out_of_place, 1);  // and old worked last
  EXPECT_EQ(judged.verdict, Verdict::fail);
  // Twice on one side is twice.
  evidence_.old_runs->push_back(worker("old", 50, 70, {})[0]);
  evidence_.new_runs = worker("new", 101, 200, {3});
  EXPECT_EQ(judge(evidence_, Terms{}).singletons.overlaps_ms, 20);
}

TEST_F(JudgeTest, ARunThatIsLostOrDoubledOrOutOfPlace) {
  evidence_.singletons_asked = true;
  evidence_.old_runs = worker("old", 0, 100, {1, 2});
  evidence_.new_runs = worker("new", 101, 200, {2});
  evidence_.new_database->runs = {{2, "x"}};
  const auto judged = judge(evidence_, Terms{});
  EXPECT_EQ(judged.lost, 1);
  EXPECT_EQ(judged.doubled, 1);
  EXPECT_EQ(judge(evidence_, Terms{.final_side = Side::old_host}).singletons.out_of_place, 1);
}

TEST(Singletons, LogOfAWorker) {
  const std::string text = R"({"t":"start","v":1,"host":"old","boot":"b","pid":7,"at_ns":5}
{"t":"run","from_ns":6,"to_ns":9,"outcome":"acknowledged","n":1}
{"t":"run","from_ns":10,"to_ns":12,"outcome":"failed"}
{"t":"start","v":1,"host":"old","boot":"b","pid":8,"at_ns":20}
{"t":"end","at_ns":25}
{"t":"run","from_)";
  const auto parsed = parse_instances(text);
  ASSERT_TRUE(parsed) << parsed.error().text();
  ASSERT_EQ(parsed->size(), 2u);
  EXPECT_EQ((*parsed)[0].to_ns, 12);
  EXPECT_EQ((*parsed)[0].runs, 2);
  EXPECT_EQ((*parsed)[0].acknowledged, std::vector<std::int64_t>{1});
  EXPECT_EQ((*parsed)[1].to_ns, 25);
  EXPECT_FALSE(parse_instances("{\"t\":\"end\",\"at_ns\":25}\n"));
  EXPECT_TRUE(parse_instances("")->empty());
}

TEST_F(JudgeTest, WhatIsMissingIsUnknownAndABrokenPromiseOutranksIt) {
  const auto clean = evidence_;
  const auto verdict_after = [&](auto change) {
    evidence_ = clean;
    change();
    return run().verdict;
  };
  EXPECT_EQ(verdict_after([&] { evidence_.testimony.reset(); }), Verdict::unknown);
  EXPECT_EQ(verdict_after([&] { evidence_.testimony->beats.resize(1); }), Verdict::unknown);
  EXPECT_EQ(verdict_after([&] {
              evidence_.testimony->beats.erase(evidence_.testimony->beats.begin(),
                                               evidence_.testimony->beats.begin() + 2);
            }),
            Verdict::unknown);
  EXPECT_EQ(verdict_after([&] { evidence_.testimony->beats[1].drops = 1; }), Verdict::unknown);
  EXPECT_EQ(verdict_after([&] { evidence_.testimony->claims.clear(); }), Verdict::unknown);
  EXPECT_EQ(verdict_after([&] { evidence_.testimony->boot_id = "other"; }), Verdict::unknown);
  EXPECT_EQ(verdict_after([&] { evidence_.testimony->beats.back().at_ns = 9000 * kMs; }), Verdict::unknown);
  EXPECT_EQ(verdict_after([&] { evidence_.old_database.reset(); }), Verdict::unknown);
  EXPECT_EQ(verdict_after([&] { evidence_.new_database->commit_timestamps = false; }), Verdict::unknown);
  EXPECT_EQ(verdict_after([&] { evidence_.new_files.reset(); }), Verdict::unknown);
  EXPECT_EQ(verdict_after([&] { evidence_.ledgers.clear(); }), Verdict::unknown);
  EXPECT_EQ(verdict_after([&] {
              evidence_.testimony.reset();
              evidence_.new_database->rows.pop_back();
            }),
            Verdict::fail);
}

TEST(Testimony, SurvivesItsLinesAndATornEnd) {
  const auto text = start_line(1, 2, "boot", "br0") + "\n" +
                    claim_line({5, {"192.0.2.1", "m1", "arp-reply", "m2"}}, "br0") + "\n" +
                    question_line({4, {"192.0.2.1", "m2"}}, "br0") + "\n" + beat_line({9, 0}, true) + "\n";
  const auto testimony = parse_testimony(text + "B\t1");
  ASSERT_TRUE(testimony) << testimony.error().text();
  EXPECT_EQ(testimony->claims.at(0).claim.to, "m2");
  EXPECT_EQ(testimony->questions.at(0).at_ns, 4);
  EXPECT_EQ(testimony->beats.size(), 2u);
  EXPECT_TRUE(testimony->ended);
  EXPECT_FALSE(parse_testimony(text + "nonsense\n"));
  EXPECT_FALSE(parse_testimony(""));
}

TEST(Collection, IsRefusedWhenItIsCutShort) {
  const DatabaseCollection head{"1", "app", true, {}, {}};
  const auto text = database_line(head) + "\n" + to_line(OrderRow{"k", 1, "c", 2, {"i"}, 1}) + "\n" +
                    to_line(Commit{3, 4, 0}) + "\n";
  const auto whole = parse_database(text + end_line(3) + "\n");
  ASSERT_TRUE(whole) << whole.error().text();
  EXPECT_EQ(whole->rows.at(0).items, std::vector<std::string>{"i"});
  EXPECT_EQ(whole->commits.at(0).at_us, 4);
  EXPECT_FALSE(parse_database(text));
  EXPECT_FALSE(parse_database(text + end_line(2) + "\n"));
  EXPECT_EQ(parse_files(to_line(FileEntry{"a", 1, "s"}) + "\n" + end_line(1) + "\n")->size(), 1u);
}

}  // namespace
}  // namespace midstream::lab
