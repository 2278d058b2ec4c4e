// The mover on real servers: two clusters in a network namespace of this process, a client that never stops.
#include "movers/postgres/postgres.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "movers/postgres/live_clusters.h"
#include "sys/file.h"

namespace midstream::postgres::test {
namespace {

#define OK(...)                                           \
  do {                                                    \
    const auto& ok_result_ = (__VA_ARGS__);               \
    ASSERT_TRUE(ok_result_) << ok_result_.error().text(); \
  } while (false)

class Live : public testing::Test {
 protected:
  void SetUp() override {
    if (!world.usable()) GTEST_SKIP() << "needs root, PostgreSQL 15 and a network namespace";
    world.make_shop();
    world.restart_agents(false);
    hba_ = {world.old_server().read("pg_hba.conf"), world.new_server().read("pg_hba.conf")};
    map_ = {world.old_server().read("pg_ident.conf"), world.new_server().read("pg_ident.conf")};
  }
  void TearDown() override {
    if (!world.usable()) return;
    world.crash_at("");
    world.drop_shop();
  }

  void follow() {
    for (const char* kind : {"source", "target", "follow"}) OK(world.apply(kind));
    ASSERT_TRUE(world.wait_reached("follow", Millis(20'000))) << world.why;
  }
  // Nothing of ours is in either cluster.
  void expect_clean() {
    for (auto* server : {&world.old_server(), &world.new_server()}) {
      EXPECT_EQ(server->sql("postgres",
                            "SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolname LIKE 'midstream%'"),
                "");
      EXPECT_EQ(server->sql("postgres", "SELECT string_agg(slot_name, ' ') FROM pg_replication_slots"), "");
      EXPECT_EQ(server->sql("postgres", "SELECT string_agg(subname, ' ') FROM pg_subscription"), "");
    }
    EXPECT_EQ(world.old_server().read("pg_hba.conf"), hba_[0]);
    EXPECT_EQ(world.new_server().read("pg_hba.conf"), hba_[1]);
    EXPECT_EQ(world.old_server().read("pg_ident.conf"), map_[0]);
    EXPECT_EQ(world.new_server().read("pg_ident.conf"), map_[1]);
  }
  void expect_no_trace_in_shop(Server& server) {
    EXPECT_EQ(server.sql("shop", "SELECT count(*) FROM pg_namespace WHERE nspname = 'midstream'"), "0");
    EXPECT_EQ(server.sql("shop", "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'midstream%'"), "0");
    EXPECT_EQ(server.sql("shop", "SELECT count(*) FROM pg_event_trigger"), "0");
    EXPECT_EQ(server.sql("shop", "SELECT count(*) FROM pg_publication"), "0");
  }

  World& world = World::get();
  std::vector<std::string> hba_, map_;
};

void expect_proven(const Json& figures) {
  int at_old = 0, at_new = 0;
  for (const auto& one : figures.at("fence_proof")) {
    EXPECT_TRUE(one.at("refused").get<bool>()) << one.dump();
    (one.at("host") == "alpha" ? at_old : at_new) += 1;
  }
  EXPECT_GE(at_old, 10);
  EXPECT_GE(at_new, 10);
}

void show(const char* what, const Json& figures, const Client& client) {
  auto shop = figures.at("databases").value("shop", Json::object());
  fmt::print(
      "{}: fence {} ms, proof {} ms, barrier {} ms, give {} ms, take {} ms, total {} ms, {} sessions cut, "
      "client's longest "
      "pause {} ms\n",
      what, figures["fence_ms"].dump(), shop["proof_ms"].dump(), figures["barrier_ms"].dump(),
      shop["give_ms"].dump(), shop["took_ms"].dump(), figures["total_ms"].dump(),
      figures["sessions_cut"].dump(), client.longest_pause().count());
}

TEST_F(Live, WholeMoveThereAndBackAndThere) {
  Client client(world);
  ASSERT_TRUE(client.wait_orders(50, Millis(5000)));
  ASSERT_NO_FATAL_FAILURE(follow());
  OK(world.apply("verify"));

  client.forget_pause();
  auto there = world.apply("switch");
  OK(there);
  ASSERT_TRUE(client.wait_orders(50, Millis(10'000)));
  show("switch", *there, client);
  expect_proven(*there);
  ASSERT_TRUE(world.wait_reached("switch", Millis(10'000))) << world.why;
  OK(world.apply("verify"));
  EXPECT_EQ(world.new_server().sql("shop", "SELECT count(*) FROM carts"), "30");
  EXPECT_EQ(world.new_server().sql("shop", "SELECT encode(lo_get(4711), 'hex')"), "00ff10");
  EXPECT_EQ(world.new_server().sql("shop", "SELECT nextval('tickets')"), "105");
  EXPECT_EQ(world.new_server().sql("postgres", "SELECT datconnlimit FROM pg_database WHERE datname = 'shop'"),
            "50");

  client.forget_pause();
  auto back = world.undo("switch");
  OK(back);
  ASSERT_TRUE(client.wait_orders(50, Millis(10'000)));
  show("back", *back, client);
  expect_proven(*back);
  EXPECT_EQ(world.old_server().sql("shop", "SELECT nextval('tickets')"), "110");
  ASSERT_TRUE(world.wait_reached("follow", Millis(10'000))) << world.why;
  OK(world.apply("verify"));

  client.forget_pause();
  auto again = world.apply("switch");
  OK(again);
  ASSERT_TRUE(client.wait_orders(50, Millis(10'000)));
  show("again", *again, client);
  OK(world.apply("verify"));
  client.end();
  EXPECT_EQ(client.audit(world.new_server()), "");
  EXPECT_EQ(side_changes(world), 3);

  // Every secret of the move, and every role's verifier, is in no log.
  for (auto* server : {&world.old_server(), &world.new_server()}) {
    const auto log = server->log();
    EXPECT_EQ(log.find("SCRAM-SHA-256$"), std::string::npos);
    for (const char* host : {"alpha", "beta"}) {
      const auto path = server->directory().parent_path() / (std::string("state-") + host) / "autumn-1.json";
      const auto record = parse_json(read_file(path).value_or("{}")).value_or(Json::object());
      for (const char* key : {"own_password", "peer_password", "probe_password"}) {
        ASSERT_TRUE(record.contains(key)) << key;
        EXPECT_EQ(log.find(record[key].get<std::string>()), std::string::npos) << key;
      }
    }
  }
  OK(world.apply("finish"));
  OK(world.apply("finish"));
  expect_clean();
  expect_no_trace_in_shop(world.new_server());
  EXPECT_NE(world.old_server().sql("shop", "SELECT 1").find("not currently accepting connections"),
            std::string::npos);
  EXPECT_FALSE(world.undo("finish"));
}

}  // namespace
}  // namespace midstream::postgres::test
