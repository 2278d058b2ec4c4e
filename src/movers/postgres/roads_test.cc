#include "movers/postgres/roads.h"

#include <gtest/gtest.h>

#include "base/text.h"

namespace midstream::postgres {
namespace {

const Json kOld = {{"major", 15},         {"machine", "x86_64"}, {"checksums", "off"}, {"control", {{"database_block_size", 8192}}}, {"collations", {{"c en_US", "2.36"}, {"i de", "153.120"}}},
                   {"locales", {"C"}},    {"databases", {"app"}}, {"roles", {"app"}},   {"tablespaces", Json::array()},              {"subscriptions", Json::array()},
                   {"managers", Json::array()}, {"libraries", {"$libdir/plpgsql"}}, {"slots", Json::array()}, {"prepared", 0}, {"bytes", std::int64_t{1} << 30}};
const Json kNew = [] {
  auto facts = kOld;
  facts.update({{"databases", Json::array()}, {"roles", Json::array()}, {"copy", false}, {"free", std::int64_t{4} << 30}, {"library_directory", "/usr/lib/postgresql/15/lib"},
                {"library_files", {"plpgsql", "hstore"}}, {"unfit_directory", ""}, {"programs", ""}, {"no_unit", ""}});
  return facts;
}();

Plan a_plan() {
  const Json end{{"host", "a"}, {"address", "192.0.2.1"}, {"port", 5432}};
  auto other = end;
  other["host"] = "b";
  return *parse_plan({{"kind", "target"}, {"databases", {"app"}}, {"old", end}, {"new", other}, {"road", "seeded"}}, "autumn");
}

std::string why(const Json& old_change, const Json& new_change) {
  auto old_facts = kOld;
  auto new_facts = kNew;
  if (old_change.is_object()) old_facts.update(old_change);
  if (new_change.is_object()) new_facts.update(new_change);
  return join(why_not_seeded(a_plan(), old_facts, new_facts), "; ");
}

TEST(Roads, TheSeededOneIsOpenBetweenTwins) { EXPECT_EQ(why({}, {}), ""); }

TEST(Roads, EachThingThatClosesItIsNamed) {
  EXPECT_EQ(why({}, {{"major", 16}}), "another major version: 15 on old, 16 on new");
  EXPECT_EQ(why({}, {{"machine", "aarch64"}}), "another architecture: \"x86_64\" on old, \"aarch64\" on new");
  EXPECT_EQ(why({}, {{"checksums", "on"}}), "data checksums: \"off\" on old, \"on\" on new");
  EXPECT_EQ(why({}, {{"control", {{"database_block_size", 4096}}}}), "the clusters are laid out otherwise (old has): database_block_size 8192");
  EXPECT_EQ(why({}, {{"collations", {{"c en_US", "2.31"}, {"i fr", "1"}}}}), "1 collations sort by other rules on new (another C library or ICU): en_US");
  EXPECT_EQ(why({{"locales", {"C", "xx_XX.nowhere"}}}, {}), "locales that new has not: xx_XX.nowhere");
  EXPECT_EQ(why({{"databases", {"app", "ledger"}}}, {}), "databases on old that are not in the move: ledger");
  EXPECT_EQ(why({{"tablespaces", {"fast"}}}, {}), "tablespaces on old: fast");
  EXPECT_EQ(why({{"subscriptions", {"feed"}}}, {}), "subscriptions on old, which a copy would have too: feed");
  EXPECT_EQ(why({{"managers", {"columnar"}}}, {}), "extensions on old that write records of their own into the log: columnar");
  EXPECT_EQ(why({{"libraries", {"$libdir/postgis-3", "$libdir/hstore", "/usr/lib/postgresql/15/lib/plpgsql.so"}}}, {}), "libraries of old's functions that new has not: $libdir/postgis-3");
  EXPECT_EQ(why({{"libraries", {"/nowhere/x.so", "/nowhere/y"}}}, {}), "libraries of old's functions that new has not: /nowhere/x.so, /nowhere/y");
  EXPECT_EQ(why({}, {{"databases", {"mine"}}}), "new's cluster is not empty: databases: mine");
  EXPECT_EQ(why({}, {{"roles", {"app", "me"}}}), "new's cluster is not empty: roles that old has not: me");
  EXPECT_EQ(why({}, {{"slots", {"standby"}}}), "new's cluster is not empty: slots: standby");
  EXPECT_EQ(why({}, {{"subscriptions", {"s"}}}), "new's cluster is not empty: subscriptions: s");
  EXPECT_EQ(why({}, {{"tablespaces", {"t"}}}), "new's cluster is not empty: tablespaces: t");
  EXPECT_EQ(why({{"prepared", 10}}, {}), "max_prepared_transactions is 0 on new and 10 on old");
  EXPECT_EQ(why({}, {{"free", std::int64_t{1} << 30}}), "not enough room on new: 1254 MiB needed, 1024 MiB free");
  EXPECT_EQ(why({}, {{"unfit_directory", "it is a link"}, {"programs", "no pg_ctl"}, {"no_unit", "nobody runs it"}}), "it is a link; no pg_ctl; nobody runs it");
  EXPECT_EQ(why({{"tablespaces", {"fast"}}}, {{"major", 14}}), "another major version: 15 on old, 14 on new; tablespaces on old: fast") << "all of it is told";
}

TEST(Roads, NothingClosesItOnceNewIsTheCopy) { EXPECT_EQ(why({{"databases", {"app", "ledger"}}}, {{"copy", true}, {"databases", {"app"}}}), ""); }

TEST(Roads, OnlyTheOneThatIsTakenMustBeOpen) {
  auto plan = a_plan();
  for (const bool seeded : {true, false}) {
    plan.road = seeded ? "seeded" : "logical";
    Json findings = Json::array();
    check_roads(plan, kOld, [] {
      auto facts = kNew;
      facts["major"] = 16;
      return facts;
    }(), findings);
    ASSERT_EQ(findings.size(), 3u);
    EXPECT_EQ(findings[0]["what"], seeded ? "road logical" : "road logical (taken)");
    EXPECT_EQ(findings[1]["what"], seeded ? "road seeded (taken)" : "road seeded");
    EXPECT_EQ(findings[1]["ok"], !seeded);
    EXPECT_EQ(findings[1]["detail"], "closed: another major version: 15 on old, 16 on new");
    EXPECT_EQ(findings[2]["what"], "road physical");
    EXPECT_EQ(findings[2]["detail"], "closed: another major version: 15 on old, 16 on new");
  }
}

TEST(Roads, PhysicalAsksThatEachCanBeTheOthersStandby) {
  auto plan = a_plan();
  plan.road = "physical";
  auto ours = kOld, theirs = kNew;
  ours["settings"] = theirs["settings"] = {{"max_connections", "100"}, {"hot_standby", "on"}};
  ours["level"] = theirs["level"] = "replica";
  EXPECT_EQ(join(why_not_physical(plan, ours, theirs), "; "), "");
  theirs["settings"]["max_connections"] = "50";
  theirs["level"] = "minimal";
  ours["source"] = "host=elsewhere";
  EXPECT_EQ(join(why_not_physical(plan, ours, theirs), "; "),
            "max_connections is \"100\" on old and \"50\" on new; wal_level is minimal on new; old has a primary_conninfo of its own, from when it was a standby");
  ours["source"] = "host=new application_name=" + plan.seed_slot();
  theirs["level"] = "replica";
  theirs["settings"] = ours["settings"];
  EXPECT_EQ(join(why_not_physical(plan, ours, theirs), "; "), "");
  plan.databases.push_back("second");
  EXPECT_EQ(join(why_not_physical(plan, ours, theirs), "; "), "more than one database in the move: not there yet");
}

TEST(Roads, OthersAreRefused) {
  auto desired = a_plan().raw;
  desired["road"] = "diagonal";
  const auto refused = parse_plan(desired, "autumn");
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().what.find("no road 'diagonal' from old to new yet"), std::string::npos);
  desired["road"] = "seeded";
  desired["limit"] = 1000;
  EXPECT_FALSE(parse_plan(desired, "autumn"));
}

}  // namespace
}  // namespace midstream::postgres
