#include "movers/postgres/live_test.h"

namespace midstream::postgres::test {

bool eventually(const std::function<bool()>& so, Millis span) {
  for (const auto until = Deadline::in(span); !until.expired(); pause_for(Millis(2), {}))
    if (so()) return true;
  return so();
}

void LiveTest::SetUp() {
  if (!world.usable()) GTEST_SKIP() << "needs root, PostgreSQL 15 and namespaces";
  world.make_shop();
  world.forget();
  world.restart_agents(false);
  lines_ = lines();
}

void LiveTest::TearDown() {
  if (!world.usable()) return;
  world.crash_at("");
  world.drop_shop();
  world.forget_acts();
}

std::vector<std::string> LiveTest::lines() const {
  std::vector<std::string> all;
  for (auto* server : {&world.old_server(), &world.new_server()})
    for (const char* name : {"pg_hba.conf", "pg_ident.conf"}) all.push_back(server->read(name));
  return all;
}

void LiveTest::follow(Millis within) {
  for (const char* kind : {"source", "target", "follow"}) OK(world.apply(kind));
  ASSERT_TRUE(world.wait_reached("follow", within)) << world.why;
}

void LiveTest::verify() {
  OK(world.apply("verify"));
  ASSERT_TRUE(world.wait_reached("verify", Millis(60'000))) << world.why;
}

void LiveTest::undo_all() {
  for (const char* kind : {"follow", "target", "source"}) OK(world.undo(kind));
}

bool LiveTest::crashes(const std::string& point, const std::function<void()>& act) {
  world.crash_at(point);
  try {
    act();
  } catch (const Crash&) {
    world.restart_agents(false);
    return true;
  }
  world.crash_at("");
  return false;
}

void LiveTest::at(Server& server, const std::string& sql) {
  const auto done = server.sql("shop", sql);
  EXPECT_FALSE(done.starts_with("ERROR")) << sql << ": " << done;
}

Session::Target LiveTest::a_client(const std::string& application) {
  Session::Target target;
  target.host = "127.0.0.1";
  target.port = world.old_server().port();
  target.database = "shop";
  target.user = "client";
  target.password = "client-password";
  target.application = application;
  target.quiet = false;
  return target;
}

void LiveTest::expect_nothing_of_ours() {
  for (auto* server : {&world.old_server(), &world.new_server()}) {
    EXPECT_EQ(server->sql("postgres", "SELECT string_agg(rolname, ' ') FROM pg_roles WHERE rolname LIKE 'midstream%'"), "");
    EXPECT_EQ(server->sql("postgres", "SELECT string_agg(slot_name, ' ') FROM pg_replication_slots"), "");
    EXPECT_EQ(server->sql("postgres", "SELECT string_agg(subname, ' ') FROM pg_subscription"), "");
  }
  EXPECT_EQ(lines(), lines_);
}

}  // namespace midstream::postgres::test
