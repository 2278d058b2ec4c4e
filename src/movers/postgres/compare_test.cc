#include "movers/postgres/compare.h"

#include <gtest/gtest.h>

#include "movers/postgres/digest_sql.h"

namespace midstream::postgres {
namespace {

TEST(Compare, SumsOfHashesAreTakenModulo) {
  EXPECT_EQ(digest_from(0, "").value(), (Digest{0, 0}));
  EXPECT_EQ(digest_from(2, "18446744073709551617").value(), (Digest{2, 1}));
  EXPECT_EQ(digest_from(1, "-1").value(), (Digest{1, 0xffffffffffffffffull}));
  EXPECT_EQ(digest_from(3, "-18446744073709551618").value(), (Digest{3, 0xfffffffffffffffeull}));
  EXPECT_FALSE(digest_from(1, "1e5"));
  auto one = digest_from(1, "9223372036854775807").value();
  one += digest_from(1, "-9223372036854775807").value();
  EXPECT_EQ(one, (Digest{2, 0}));
  EXPECT_EQ(digest_from_json(to_json(Digest{5, 0xfffffffffffffff0ull})).value(), (Digest{5, 0xfffffffffffffff0ull}));
  EXPECT_FALSE(digest_from_json(Json::array({1})));
  EXPECT_FALSE(digest_from_json("x"));
}

TEST(Compare, DifferingBucketsComeInRunsOfBoundedSize) {
  Buckets one{{0, {10, 1}}, {1, {10, 2}}, {2, {500, 3}}, {3, {10, 4}}, {7, {10, 5}}};
  Buckets other{{0, {10, 1}}, {1, {10, 9}}, {2, {1, 3}}, {3, {11, 4}}, {9, {5, 5}}};
  EXPECT_EQ(differing(one, other, 100), (std::vector<std::vector<int>>{{1}, {2}, {3, 7, 9}}));
  EXPECT_EQ(differing(one, one, 100), (std::vector<std::vector<int>>{}));
  EXPECT_EQ(buckets_from_json(to_json(one)).value(), one);
  EXPECT_FALSE(buckets_from_json(Json::array({Json::array({1, 2})})));
  add(one, {{0, {1, 1}}, {5, {1, 1}}});
  EXPECT_EQ(one.at(0), (Digest{11, 2}));
  EXPECT_EQ(one.at(5), (Digest{1, 1}));
}

TEST(Compare, PaceGoesForOneSpan) {
  EXPECT_EQ(Pace(1 << 20, 300, 1000).rows(), Pace::kFewest) << "few rows where they are large";
  EXPECT_EQ(Pace(100, 300, 1000).rows(), 1000);
  Pace pace(100, 300, 1'000'000);
  const auto first = pace.rows();
  pace.took(10);
  EXPECT_EQ(pace.rows(), 2 * first) << "no more than twice as many at a time";
  pace.took(600);
  EXPECT_EQ(pace.rows(), first);
  pace.took(60'000);
  EXPECT_EQ(pace.rows(), first / 2);
  for (int i = 0; i < 100; ++i) pace.took(0);
  EXPECT_EQ(pace.rows(), 1'000'000);
}

TEST(Compare, ARowThatStandsStillAndDiffersIsBad) {
  Relook again(differing(RowDigests{{"a", "1"}, {"b", "1"}, {"gone", "1"}, {"late", "2"}, {"hot", "1"}},
                         RowDigests{{"a", "1"}, {"b", "2"}, {"late", "1"}, {"more", "1"}, {"hot", "0"}}));
  EXPECT_EQ(again.open(), (std::set<std::string>{"b", "gone", "hot", "late", "more"}));
  again.look({{"b", "1"}, {"gone", "1"}, {"late", "2"}, {"hot", "5"}}, {{"b", "2"}, {"late", "2"}, {"more", "1"}, {"hot", "6"}},
             {{"b", "1"}, {"gone", "1"}, {"late", "3"}, {"hot", "7"}});
  EXPECT_EQ(again.open(), (std::set<std::string>{"b", "gone", "hot", "more"})) << "what has arrived is well";
  EXPECT_TRUE(again.bad().empty()) << "once is not enough";
  again.look({{"b", "1"}, {"gone", "1"}, {"hot", "8"}}, {{"b", "2"}, {"more", "1"}, {"hot", "9"}}, {{"b", "1"}, {"gone", "1"}, {"hot", "10"}});
  EXPECT_EQ(again.bad(), (std::set<std::string>{"b", "gone", "more"}));
  EXPECT_EQ(again.open(), (std::set<std::string>{"hot"})) << "what changes at every look stays open";
  again.look({{"hot", "11"}}, {{"hot", "12"}}, {{"hot", "12"}});
  EXPECT_TRUE(again.open().empty()) << "the follower has what the owner has by now";
  EXPECT_EQ(again.looks(), 3);
}

TEST(Compare, ADeletedRowAgreesOnceItIsGoneOnBothSides) {
  Relook again({"x"});
  again.look({{"x", "1"}}, {}, {});
  EXPECT_TRUE(again.open().empty());
  EXPECT_TRUE(again.bad().empty());
}

TEST(Compare, ProgressIsKeptAndOutlivesItsAgent) {
  Progress progress;
  progress.age_ms = 1'000;
  progress.begin("copy 1", 5'000);
  EXPECT_FALSE(progress.is_done("a"));
  progress.passed("b", Json::array({"17"}));
  progress.findings.push_back({"b", 2, {"(3)"}});
  const auto again = progress_from_json(to_json(progress)).value();
  EXPECT_EQ(again.after, Json::array({"17"}));
  EXPECT_TRUE(again.is_done("a"));
  EXPECT_FALSE(again.is_done("b")) << "it is under way";
  EXPECT_FALSE(again.is_done("c"));
  EXPECT_EQ(again.findings, progress.findings);
  progress.passed_all("b");
  EXPECT_TRUE(progress.is_done("b"));
  EXPECT_FALSE(progress.is_done("c"));
  progress.end();
  EXPECT_FALSE(progress.fresh("copy 1", 5'500, 1'000)) << "something was found";
  EXPECT_FALSE(progress.due(9'000)) << "that is for somebody to look at first";
  EXPECT_TRUE(progress.due(305'001)) << "who may have set it right";
  EXPECT_FALSE(progress_from_json(Json::object()));
}

TEST(Compare, ACleanVerdictIsForOneCopyAndForAWhile) {
  Progress progress;
  progress.age_ms = 1'000;
  progress.begin("copy 1", 5'000);
  EXPECT_FALSE(progress.fresh("copy 1", 5'001, 1'000)) << "not to its end yet";
  progress.end();
  EXPECT_TRUE(progress.fresh("copy 1", 6'000, 1'000));
  EXPECT_FALSE(progress.fresh("copy 2", 5'001, 1'000));
  EXPECT_FALSE(progress.fresh("copy 1", 6'001, 1'000));
  EXPECT_FALSE(progress.fresh("copy 1", 4'999, 1'000)) << "a clock that was set back proves nothing";
  EXPECT_FALSE(progress.due(5'400));
  EXPECT_TRUE(progress.due(5'600));
  progress.begin("copy 1", 5'600);
  EXPECT_TRUE(progress.fresh("copy 1", 5'900, 1'000)) << "the last verdict stands while the next is made";
  progress.findings.push_back({"b", 1, {}});
  progress.end();
  EXPECT_FALSE(progress.fresh("copy 1", 5'900, 1'000));
  progress.findings.clear();
  progress.begin("copy 1", 6'000);
  progress.end();
  progress.begin("copy 2", 6'500);
  EXPECT_EQ(progress.clean_ms, 0) << "of another copy";
}

TEST(Compare, FindingsInWords) {
  EXPECT_EQ(words_of({{"public.a", 1, {"(7)"}}, {"sequences", 2, {"x", "y"}}}),
            "public.a: 1 rows, with keys (7); sequences: 2 rows, with keys x y");
}

Subject subject() { return {"public.t", {"a", "\"B b\""}, {{"a", "integer"}, {"\"B b\"", "character varying(5)"}}}; }

TEST(DigestSql, RangesAreOpenWhereNothingBoundsThem) {
  const Range all, some{Key{"1", "it's"}, Key{"2", "x"}};
  EXPECT_EQ(digest_sql(subject(), all),
            "SELECT count(*), sum(hashtextextended(ROW(midstream_row.a, midstream_row.\"B b\")::text COLLATE \"C\", 1)) FROM ONLY public.t "
            "midstream_row WHERE true");
  EXPECT_NE(digest_sql(subject(), some).find("WHERE (midstream_row.a, midstream_row.\"B b\") > ('1'::integer, 'it''s'::character varying(5)) AND "
                                             "(midstream_row.a, midstream_row.\"B b\") <= ('2'::integer, 'x'::character varying(5))"),
            std::string::npos)
      << digest_sql(subject(), some);
  EXPECT_NE(walk_sql(subject(), Key{"1", "x"}, 50).find("ORDER BY midstream_row.a, midstream_row.\"B b\" OFFSET 49 LIMIT 1"), std::string::npos);
}

TEST(DigestSql, ATableWithoutKeyIsReadByPagesAndARowIsItsHash) {
  Subject bare{"public.t", {"a"}, {}};
  const auto sql = rows_sql(bare, Pages{8, 4}, 16, {1, 5});
  EXPECT_NE(sql.find("ctid >= '(8,0)' AND midstream_row.ctid < '(12,0)'"), std::string::npos) << sql;
  EXPECT_NE(sql.find("SELECT h::text, count(*), sum(h)"), std::string::npos) << sql;
  EXPECT_NE(sql.find("(h & 15)::int IN (1, 5)"), std::string::npos) << sql;
  EXPECT_EQ(digest_sql({"public.t", {"a"}, {}, true}, Range{}),
            "SELECT count(*), sum(hash_record_extended(ROW(record_send(ROW(midstream_row.a))), 1)) FROM ONLY public.t midstream_row WHERE true");
  EXPECT_EQ(digest_sql({"t", {}, {}}, Range{}).find("ROW("), std::string::npos) << "a table without columns has rows all the same";
}

}  // namespace
}  // namespace midstream::postgres
