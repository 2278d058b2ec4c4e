#include "movers/postgres/chunks.h"

#include <gtest/gtest.h>

#include <map>

namespace midstream::postgres {
namespace {

TEST(Chunks, EveryPageIsInOneAndTheLastIsOpen) {
  const std::vector<SourceTable> tables{{"a", "x", true, 10}, {"empty", "x", true, 0}, {"b", "x", true, 25}, {"one", "x", true, 1}};
  const auto chunks = cut_into_chunks(tables, 10 * kPageBytes);
  EXPECT_EQ(chunks.front().table, "a") << "the largest of those that are one chunk";
  EXPECT_EQ(chunks[3].table, "b") << "then the long ones";
  std::map<std::string, std::int64_t> next;
  std::map<std::string, bool> open;
  std::int64_t bytes = 0;
  for (const auto& chunk : chunks) {
    EXPECT_FALSE(open[chunk.table]) << "nothing follows an open end";
    EXPECT_EQ(chunk.first, next[chunk.table]) << chunk.table;
    next[chunk.table] = chunk.end;
    open[chunk.table] = chunk.end == 0;
    bytes += chunk.bytes;
  }
  for (const auto& table : tables) EXPECT_TRUE(open[table.name]) << table.name;
  EXPECT_EQ(bytes, 36 * kPageBytes);
  EXPECT_EQ(chunks.size(), 3u + 1u + 1u + 1u);
}

TEST(Chunks, Statements) {
  const SourceTable table{"public.\"T\"", "id, \"a b\"", true, 30};
  EXPECT_EQ(copy_out_sql(table, {table.name, 8, 16, 0}),
            "COPY (SELECT id, \"a b\" FROM ONLY public.\"T\" WHERE ctid >= '(8,0)' AND ctid < '(16,0)') TO STDOUT "
            "(FORMAT binary)");
  EXPECT_EQ(copy_out_sql(table, {table.name, 16, 0, 0}),
            "COPY (SELECT id, \"a b\" FROM ONLY public.\"T\" WHERE ctid >= '(16,0)') TO STDOUT (FORMAT binary)");
  EXPECT_EQ(copy_in_sql(table), "COPY public.\"T\" (id, \"a b\") FROM STDIN (FORMAT binary)");
  EXPECT_EQ(copy_in_sql({"t", "", false, 1}), "COPY t FROM STDIN (FORMAT text)");
}

TEST(Climb, StopsWhereOneMoreGivesNothing) {
  Climb climb(1, 8);
  climb.measured(100);
  EXPECT_EQ(climb.workers(), 2);
  climb.measured(180);
  EXPECT_EQ(climb.workers(), 3);
  climb.measured(185);  // not a tenth more
  EXPECT_EQ(climb.workers(), 2);
  climb.measured(1000);
  EXPECT_EQ(climb.workers(), 2) << "it has settled";
}

TEST(Climb, StaysWithinItsMost) {
  Climb climb(1, 2);
  climb.measured(100);
  climb.measured(200);
  climb.measured(400);
  EXPECT_EQ(climb.workers(), 2);
}

}  // namespace
}  // namespace midstream::postgres
