#include "gate/temporary.h"

#include <gtest/gtest.h>

#include "gate/belongings.h"

namespace midstream::gate {
namespace {

using namespace std::literals;

std::string row(const Exchange::Row& columns) {
  std::string body("\0"s + static_cast<char>(columns.size()));
  for (const auto& one : columns) {
    append_u32(body, one ? static_cast<std::uint32_t>(one->size()) : 0xffffffff);
    body += one.value_or("");
  }
  return message('D', body);
}
std::string done(const std::string& tag) { return message('C', tag + '\0'); }
std::string failed(const std::string& code, const std::string& text) { return message('E', "SERROR\0VERROR\0C"s + code + "\0M"s + text + "\0\0"s); }
std::string column(const std::string& name, std::uint32_t type) {
  std::string out = name + "\0\0\0\0\0\0\0"s;
  append_u32(out, type);
  out += "\0\4"s;
  append_u32(out, 0xffffffff);
  return out + "\0\0"s;
}
const std::string kReady = message('Z', "I");
const std::string kPlainDone = row({"x"}) + done("SELECT 17");

// One round: what is asked, answered by `answer`.
std::string round(TemporaryReader& reader, const std::string& answer) {
  auto exchange = reader.next();
  const auto asked = exchange.to_send();
  std::string_view bytes = answer;
  exchange.from_server(bytes);
  EXPECT_TRUE(exchange.done());
  reader.answered(exchange);
  return asked;
}
bool asks(const std::string& asked, std::string_view text) { return asked.find(text) != std::string::npos; }

TEST(Temporary, ATableIsReadAndMadeAgain) {
  TemporaryReader reader({}, {.tables = true});
  round(reader, kPlainDone + row({"empty", "0", "gone", "pg_toast_5", ""}) + row({"size", "0", "", "t", "8192"}) + row({"table", "2", "o'r", "gone", "CREATE TEMPORARY TABLE pg_temp.gone (n int)"}) +
                    row({"table", "2", "o'r", "t", "CREATE TEMPORARY TABLE pg_temp.t (n int)"}) + row({"copy", "3", "o'r", "t", "COPY pg_temp.t (n)"}) +
                    row({"sequence", "4", "other", "s", "\"s\""}) + row({"fact", "13", "o'r", "t", "column n"}) + done("SELECT 6") + kReady);
  ASSERT_FALSE(reader.done());
  const auto asked = round(reader, kPlainDone + row({"o'r"}) + done("SELECT 1") + message('d', "1\n") + message('d', "\\N\n") + done("COPY 2") + row({"other"}) + done("SELECT 1") +
                                       row({"7", "f"}) + done("SELECT 1") + row({"debug1"}) + done("SELECT 1") +
                                       message('N', "SDEBUG\0MSomething building index \"x\" on table \"t\" serially\0\0"s) +
                                       message('N', "SDEBUG\0Mbuilding index \"pg_toast_5_index\" on table \"pg_toast_5\" serially\0\0"s) + kReady);
  EXPECT_TRUE(asks(asked, "COPY pg_temp.t (n) TO STDOUT"));
  EXPECT_TRUE(asks(asked, "set_config('role', 'o''r', true)"));
  ASSERT_TRUE(reader.done());
  EXPECT_EQ(reader.pinned(), "");
  const auto all = reader.take();
  EXPECT_EQ(all.rows, (std::map<std::string, std::string>{{"t", "1\n\\N\n"}}));
  EXPECT_EQ(all.emptied, std::set<std::string>{"gone"}) << "told by its TOAST table's index";
  const auto made = make_temporary(all, false);
  EXPECT_EQ(made.answers, 2);
  EXPECT_TRUE(asks(made.requests, "CREATE TEMPORARY TABLE pg_temp.gone (n int) ON COMMIT DELETE ROWS"));
  EXPECT_TRUE(asks(made.requests, "DO 'BEGIN EXECUTE ''CREATE TEMPORARY TABLE pg_temp.t (n int)''; END'\0"s));
  EXPECT_TRUE(asks(made.requests, message('d', "1\n\\N\n") + message('c', "")));
  EXPECT_TRUE(asks(made.requests, "setval('pg_temp.\"s\"'::pg_catalog.regclass, 7, false)"));
  EXPECT_FALSE(asks(made.requests, "column n"));
  const auto again = make_temporary(all, true);
  EXPECT_TRUE(asks(again.requests, "TRUNCATE pg_temp.\"t\" CASCADE"));
  EXPECT_FALSE(asks(again.requests, "CREATE"));
}

TEST(Temporary, WhatDiffersIsNamed) {
  Temporary one;
  one.definitions = {{"fact", "13", "", "t", "column n: 7"}};
  Temporary other = one;
  EXPECT_EQ(difference(one, other), "");
  other.definitions[0][4] = "column n:";
  EXPECT_EQ(difference(one, other), "t: column n: where it has t: column n: 7");
  other = one;
  other.rows["t"] = "1\n";
  EXPECT_NE(difference(one, other), "");
  EXPECT_NE(difference(other, one), "");
  other = one;
  other.analyze.emplace_back("", "t");
  EXPECT_TRUE(one == other) << "statistics come and go by themselves";
}

// A reader that has heard of one cursor of one column, and of its places.
TemporaryReader with_cursor(const std::string& places, TemporaryLimits limits = {}) {
  TemporaryReader reader(limits, {.cursors = {{"c", true}}});
  round(reader, kPlainDone + message('t', "\0\0"s) + message('T', "\0\1"s + column("n", 23)) + kReady);
  EXPECT_FALSE(reader.done());
  EXPECT_TRUE(asks(round(reader, kPlainDone + row({"integer"}) + done("SELECT 1") + places + kReady), "MOVE RELATIVE 0"));
  return reader;
}

TEST(Temporary, ACursorIsReadAndPutBack) {
  struct Case {
    std::string on, left, all, back;
    std::size_t position;
  };
  for (const auto& one : std::vector<Case>{{"MOVE 0", "MOVE 3", "MOVE 3", "MOVE BACKWARD 4 FROM", 0}, {"MOVE 1", "MOVE 2", "MOVE 3", "MOVE BACKWARD 3 FROM", 1},
                                           {"MOVE 1", "MOVE 0", "MOVE 3", "MOVE BACKWARD 1 FROM", 3}, {"MOVE 0", "MOVE 0", "MOVE 3", "", 4}}) {
    auto reader = with_cursor(done(one.on) + done(one.left) + done(one.all));
    ASSERT_FALSE(reader.done());
    const auto asked = round(reader, kPlainDone + row({"1"}) + row({std::nullopt}) + row({"3"}) + done("FETCH 3") + done("MOVE 0") + done("MOVE 0") + kReady);
    EXPECT_TRUE(asks(asked, "FETCH FORWARD 3"));
    EXPECT_LT(asked.find("FETCH FORWARD 3"), asked.find("MOVE FORWARD ALL"));
    EXPECT_EQ(asks(asked, "MOVE BACKWARD"), !one.back.empty());
    EXPECT_TRUE(asks(asked, one.back));
    ASSERT_TRUE(reader.done());
    const auto all = reader.take();
    ASSERT_EQ(all.cursors.size(), 1u);
    EXPECT_EQ(all.cursors[0].position, one.position);
    EXPECT_EQ(all.cursors[0].rows, (std::vector<Exchange::Row>{{"1"}, {std::nullopt}, {"3"}}));
    const auto made = make_temporary(all, false);
    EXPECT_TRUE(asks(made.requests, "DECLARE \"c\" BINARY SCROLL CURSOR WITH HOLD FOR SELECT CAST(v.c0 AS integer) AS \"n\" FROM (VALUES ('1'::pg_catalog.text), (NULL::pg_catalog.text), "
                                    "('3'::pg_catalog.text)) AS v (c0)"));
    EXPECT_EQ(asks(made.requests, "MOVE FORWARD"), one.position > 0);
  }
}

TEST(Temporary, WhateverHappensACursorIsPutBack) {
  // An error in the middle of its rows.
  auto reader = with_cursor(done("MOVE 1") + done("MOVE 2") + done("MOVE 5"));
  round(reader, kPlainDone + failed("57014", "canceling statement") + kReady);
  ASSERT_FALSE(reader.done());
  EXPECT_TRUE(asks(round(reader, kPlainDone + kReady), "MOVE BACKWARD 3"));
  EXPECT_TRUE(reader.done());
  EXPECT_TRUE(reader.cancelled());
  EXPECT_NE(reader.pinned(), "");
  // Too many before it.
  auto many = with_cursor(done("MOVE 1") + done("MOVE 2") + done("MOVE 10001"));
  ASSERT_FALSE(many.done());
  EXPECT_TRUE(asks(round(many, kPlainDone + kReady), "MOVE BACKWARD 3"));
  EXPECT_NE(many.pinned().find("more than 10000 rows"), std::string::npos);
  // Too many behind it: it has gone back as far as it came.
  EXPECT_TRUE(with_cursor(done("MOVE 1") + done("MOVE 10001") + done("MOVE 10001")).done());
  // More bytes than are copied: the rows that are left are not asked for.
  auto large = with_cursor(done("MOVE 0") + done("MOVE 99") + done("MOVE 99"), {.bytes = 10});
  std::string rows;
  for (int i = 0; i < 16; ++i) rows += row({"1"});
  round(large, kPlainDone + rows + done("FETCH 16") + kReady);
  EXPECT_TRUE(asks(round(large, kPlainDone + kReady), "MOVE BACKWARD 100"));
  EXPECT_TRUE(large.done());
  EXPECT_NE(large.pinned(), "");
  // Fewer rows than there were.
  auto fewer = with_cursor(done("MOVE 0") + done("MOVE 3") + done("MOVE 3"));
  round(fewer, kPlainDone + row({"1"}) + done("FETCH 1") + done("MOVE 0") + done("MOVE 4") + kReady);
  EXPECT_TRUE(asks(round(fewer, kPlainDone + kReady), "MOVE BACKWARD 4"));
  EXPECT_NE(fewer.pinned(), "");
}

// Its places were looked at in the round in which something else turned out to be in the way.
TEST(Temporary, ACursorIsPutBackWhereItsTypeCannotBeMadeAgain) {
  TemporaryReader reader({}, {.cursors = {{"c", false}}});
  round(reader, kPlainDone + message('t', "\0\0"s) + message('T', "\0\1"s + column("n", 23)) + kReady);
  round(reader, kPlainDone + row({"record"}) + done("SELECT 1") + done("MOVE 1") + done("MOVE 2") + done("MOVE 5") + kReady);
  ASSERT_FALSE(reader.done());
  EXPECT_TRUE(asks(round(reader, kPlainDone + kReady), "MOVE BACKWARD 3"));
  EXPECT_TRUE(reader.done());
  EXPECT_NE(reader.pinned().find("of type record"), std::string::npos);
}

TEST(Temporary, TheRowsOfManyAreAskedInPortions) {
  auto reader = with_cursor(done("MOVE 0") + done("MOVE 22") + done("MOVE 22"));
  std::string rows;
  for (int i = 0; i < 16; ++i) rows += row({"1"});
  EXPECT_FALSE(asks(round(reader, kPlainDone + rows + done("FETCH 16") + kReady), "MOVE"));
  ASSERT_FALSE(reader.done());
  rows.resize(6 * row({"1"}).size());
  EXPECT_TRUE(asks(round(reader, kPlainDone + rows + done("FETCH 6") + done("MOVE 0") + done("MOVE 23") + kReady), "MOVE BACKWARD 23"));
  EXPECT_TRUE(reader.done());
  EXPECT_EQ(reader.pinned(), "");
}

TEST(Temporary, WhatIsTooMuchIsNotRead) {
  for (const auto& [rows, why] : std::vector<std::pair<std::string, std::string>>{
           {row({"size", "0", "", "t", "2000000"}), "2000000 bytes"},
           {row({"pin", "0", "", "", "its view v"}), "its view v"},
           {row({"empty", "0", "t", "", "wire"}), "may be ON COMMIT DELETE ROWS"},
           {row({"empty", "0", "t", "", "function"}), "may be ON COMMIT DELETE ROWS"}}) {
    TemporaryReader reader({}, {.tables = true, .texts_delete = true});
    round(reader, kPlainDone + rows + done("SELECT 1") + kReady);
    EXPECT_TRUE(reader.done());
    EXPECT_NE(reader.pinned().find(why), std::string::npos) << reader.pinned();
  }
  TemporaryReader reader({}, {.tables = true});
  round(reader, kPlainDone + row({"empty", "0", "t", "", "wire"}) + done("SELECT 1") + kReady);
  EXPECT_FALSE(reader.done()) << "no text of the client's speaks of it";
}

TEST(Temporary, TextsThatMayMakeATableOnCommitDeleteRows) {
  EXPECT_TRUE(may_delete_on_commit("create Temporary table x () on /* */ COMMIT\nDelete rows"));
  EXPECT_FALSE(may_delete_on_commit("create temp table x () on commit preserve rows"));
  EXPECT_FALSE(may_delete_on_commit("DELETE FROM templates"));
  EXPECT_FALSE(may_delete_on_commit(""));
  // What is looked at for it at all.
  for (const auto* sql : {"CREATE TEMP TABLE x () ON COMMIT DELETE ROWS", "SELECT make(E'create temp table x () on\\ncommit delete rows')", "begin; create temp table x (n int)on cOmMiT delete rows; select 1"})
    EXPECT_TRUE(custom_settings(sql).commit) << sql;
  EXPECT_FALSE(custom_settings("COMMIT").commit) << "nothing is behind it";
  EXPECT_FALSE(custom_settings("SELECT c, comma FROM t").commit);
}

TEST(Temporary, ResultsThatAreTooLongAreAnError) {
  Exchange exchange("", 1, 100);
  const auto bytes = row({std::string(60, 'x')}) + row({std::string(60, 'x')}) + done("SELECT 2") + kReady;
  std::string_view view = bytes;
  exchange.from_server(view);
  EXPECT_TRUE(exchange.done());
  EXPECT_EQ(exchange.error(), "an answer is too long");
}

}  // namespace
}  // namespace midstream::gate
