// What pg_dump would leave out, or bring back otherwise: publications of the application are carried, and columns that come in another order,
// or slots of others, are named before the move.
#include <algorithm>

#include "movers/postgres/live_test.h"

namespace midstream::postgres::test {
namespace {

using LiveCarried = LiveTest;

bool named(const Json& findings, const std::string& what, const std::string& detail) {
  return std::ranges::any_of(findings, [&](const Json& one) {
    return one.value("what", "").find(what) != std::string::npos && one.value("detail", "") == detail && one.value("ok", false) && !one.value("todo", "").empty();
  });
}

constexpr const char* kColumns =
    "SELECT string_agg(attname, ', ' ORDER BY attnum) FROM pg_attribute WHERE attrelid = '{}'::regclass AND attnum > 0 AND NOT attisdropped";

TEST_F(LiveCarried, InheritedColumnsThatCameLaterAreNamedAndMisplaceNoValue) {
  on_old(
      "CREATE TABLE parent (n int PRIMARY KEY, a text); CREATE TABLE child (b text, PRIMARY KEY (n)) INHERITS (parent);"
      "CREATE TABLE grandchild (c text, PRIMARY KEY (n)) INHERITS (child); CREATE TABLE tidy (d text, PRIMARY KEY (n)) INHERITS (parent);"
      "ALTER TABLE tidy DROP COLUMN d; ALTER TABLE parent ADD COLUMN late text; ALTER TABLE child ADD COLUMN own text;"
      "INSERT INTO child (n, a, b, late, own) VALUES (1, 'a', 'b', 'late', 'own');"
      "INSERT INTO grandchild (n, a, b, c, late, own) VALUES (2, 'a', 'b', 'c', 'late', 'own')");
  const auto findings = world.check("source");
  OK(findings);
  EXPECT_TRUE(named(*findings, "columns of public.child in shop", "n, a, b, late, own become n, a, late, b, own")) << findings->dump();
  EXPECT_TRUE(named(*findings, "columns of public.grandchild in shop", "n, a, b, c, late, own become n, a, late, b, own, c")) << findings->dump();
  EXPECT_EQ(std::ranges::count_if(*findings, [](const Json& one) { return one.value("what", "").starts_with("columns of"); }), 2) << findings->dump();

  ASSERT_NO_FATAL_FAILURE(follow());
  on_old("INSERT INTO child (n, a, b, late, own) VALUES (3, 'a', 'b', 'late', 'own'); UPDATE grandchild SET late = 'later'");
  ASSERT_NO_FATAL_FAILURE(verify());
  OK(world.apply("switch"));
  for (const auto& [table, columns] : {std::pair{"child", "n, a, late, b, own"}, {"grandchild", "n, a, late, b, own, c"}, {"tidy", "n, a, late"}})
    EXPECT_EQ(world.new_server().sql("shop", fmt::format(kColumns, table)), columns);
  EXPECT_EQ(world.new_server().sql("shop", "SELECT string_agg(concat_ws(' ', n, a, b, late, own), ', ' ORDER BY n) FROM child"), "1 a b late own, 2 a b later own, 3 a b late own");
  at(world.new_server(), "UPDATE child SET own = 'new'");
  ASSERT_NO_FATAL_FAILURE(verify());
  OK(world.undo("switch"));
  EXPECT_EQ(world.old_server().sql("shop", "SELECT string_agg(concat_ws(' ', n, a, b, late, own), ', ' ORDER BY n) FROM child"), "1 a b late new, 2 a b later new, 3 a b late new");
}

TEST_F(LiveCarried, PublicationsOfTheApplicationAreCarriedAndSlotsOfOthersNamed) {
  constexpr const char* kPublications =
      "SELECT string_agg(concat_ws(' ', pubname, puballtables, pubinsert, pubdelete, (SELECT string_agg(tablename || ' ' || coalesce(rowfilter, ''), ' ') FROM "
      "pg_publication_tables t WHERE t.pubname = p.pubname AND NOT puballtables)), ', ' ORDER BY pubname) FROM pg_publication p WHERE pubname NOT LIKE 'midstream%'";
  on_old(
      "CREATE PUBLICATION feed FOR TABLE orders WHERE (id > 5) WITH (publish = 'insert'); CREATE PUBLICATION everything FOR ALL TABLES");
  on_old("SELECT pg_create_logical_replication_slot('watcher', 'pgoutput')");
  const auto before = world.old_server().sql("shop", kPublications);
  ASSERT_EQ(before, "everything t t t, feed f t f orders (id > 5)");
  const auto findings = world.check("source");
  OK(findings);
  EXPECT_TRUE(named(*findings, "logical replication slots of others in shop", "watcher")) << findings->dump();
  ASSERT_NO_FATAL_FAILURE(follow());
  on_old("UPDATE orders SET id = id WHERE id = 1; CREATE PUBLICATION later FOR TABLE stock; ALTER PUBLICATION feed ADD TABLE customers");
  const auto then = world.old_server().sql("shop", kPublications);
  EXPECT_NE(then, before);
  ASSERT_NO_FATAL_FAILURE(verify());
  OK(world.apply("switch"));
  EXPECT_EQ(world.new_server().sql("shop", kPublications), then);
  EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM pg_publication WHERE pubname = 'midstream_autumn-1'"), "1");
  OK(world.undo("switch"));
  EXPECT_EQ(world.old_server().sql("shop", kPublications), then);
}

}  // namespace
}  // namespace midstream::postgres::test
