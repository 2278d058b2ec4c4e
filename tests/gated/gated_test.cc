// The switch of a database whose clients come through the gate: the shipping mover, the shipping gate as a program, two real
// PostgreSQL 15, and pgbench as the clients. Nobody may notice more than a wait.
#include <fmt/format.h>
#include <libpq-fe.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <vector>

#include "base/text.h"
#include "sys/clock.h"
#include "tests/gated/gated.h"
#include "tests/gated/torture.h"

namespace midstream {
namespace {

// Sessions that do nothing while the switches happen, and are asked at last.
class Idle {
 public:
  Idle(int count, int port) {
    const auto info = fmt::format("host=127.0.0.1 port={} dbname=shop user=client password=client-password application_name=idle sslmode=disable", port);
    for (int i = 0; i < count; ++i) {
      all_.emplace_back(PQconnectdb(info.c_str()), &PQfinish);
      if (PQstatus(all_.back().get()) != CONNECTION_OK) wrong_.push_back(PQerrorMessage(all_.back().get()));
    }
  }
  int sessions() const { return static_cast<int>(all_.size()); }
  // What does not answer, or from another server than the one at `port`.
  std::vector<std::string> wrong(int port) {
    for (const auto& one : all_) {
      const std::unique_ptr<PGresult, decltype(&PQclear)> answer(PQexec(one.get(), "SELECT setting FROM pg_settings WHERE name = 'port'"), &PQclear);
      if (PQresultStatus(answer.get()) != PGRES_TUPLES_OK) {
        wrong_.push_back(PQerrorMessage(one.get()));
      } else if (PQgetvalue(answer.get(), 0, 0) != std::to_string(port)) {
        wrong_.push_back(fmt::format("on the server at {}", PQgetvalue(answer.get(), 0, 0)));
      }
    }
    return wrong_;
  }

 private:
  std::vector<std::unique_ptr<PGconn, decltype(&PQfinish)>> all_;
  std::vector<std::string> wrong_;
};

// Both servers take so many more connections.
void make_room(postgres::test::World& world, int more) {
  for (auto* server : {&world.old_server(), &world.new_server()}) {
    server->sql("postgres", fmt::format("ALTER SYSTEM SET max_connections = {}", 500 + more));
    ASSERT_TRUE(server->stop() && server->start());
  }
}

TEST_F(Gated, ToAndFroUnderLoadNobodyNotices) {
  const int clients = from_environment("MIDSTREAM_CLIENTS", 20), switches = from_environment("MIDSTREAM_SWITCHES", 4);
  const int rate = from_environment("MIDSTREAM_RATE", 200);
  for (int i = 0; i < from_environment("MIDSTREAM_TABLES", 0); ++i)
    world.old_server().sql("shop", fmt::format("CREATE TABLE more_{} (id int PRIMARY KEY, v text)", i));
  const int idlers = from_environment("MIDSTREAM_IDLE", 5);
  if (idlers > 100) {
    ASSERT_NO_FATAL_FAILURE(make_room(world, idlers));
  }
  ASSERT_NO_FATAL_FAILURE(follow());
  Bench bench(directory / "bench", clients, rate);
  Idle idle(idlers, kGatePort);
  // Beside it: what may belong to a session, all of it, in each of these.
  Torture torture(from_environment("MIDSTREAM_TORTURE", 3), kGatePort);
  ASSERT_NO_FATAL_FAILURE(wait_orders(false, 5 * clients));  // pgbench's start is over
  struct Window {
    std::int64_t from = 0, closed = 0, over = 0, to = 0;  // microseconds since 1970
    std::int64_t shut_us = 0;                             // from the fence to the barrier
  };
  std::vector<Window> windows;
  int postponed = 0;
  std::atomic<std::int64_t> closed = 0, over = 0;
  on_ask = [&](const std::string& verb) {
    if (verb == "close") closed = wall_now_ms() * 1000;
    if (verb == "over") over = wall_now_ms() * 1000;
  };
  for (int i = 0; i < switches; ++i) {
    const bool to_new = i % 2 == 0;
    const auto from = wall_now_ms() * 1000;
    Result<Json> done = Json::object();
    postponed += switch_over(to_new, done);
    OK(done);
    const auto& figures = (*done)["databases"]["shop"];
    const auto shut_ms = figures["fence_ms"].get<std::int64_t>() + figures["barrier_ms"].get<std::int64_t>();
    windows.push_back({from, closed, over, wall_now_ms() * 1000 + 500'000, shut_ms * 1000});
    fmt::print("switch {}: {}\n", i, Json{{"held_ms", figures["held_ms"]}, {"total_ms", figures["total_ms"]}, {"fence_ms", figures["fence_ms"]}, {"proof_ms", figures["proof_ms"]}, {"barrier_ms", figures["barrier_ms"]}, {"took_ms", figures["took_ms"]}, {"gate", figures["gate"]}}.dump());
    ASSERT_EQ(figures["gate"].value("moved", 0), clients + torture.sessions() + idle.sessions()) << figures.dump();
    EXPECT_TRUE(figures["gate"].value("ended", Json::array()).empty()) << figures.dump();
    ASSERT_NO_FATAL_FAILURE(wait_orders(to_new, clients));
    ASSERT_TRUE(torture.all_looked(30'000)) << join(torture.wrong(), "\n");
  }
  torture.end();
  EXPECT_TRUE(torture.wrong().empty()) << join(torture.wrong(), "\n");
  const auto lost = idle.wrong((switches % 2 == 0 ? world.old_server() : world.new_server()).port());
  EXPECT_TRUE(lost.empty()) << lost.size() << ": " << join(lost, "\n");
  while (wall_now_ms() * 1000 < windows.back().to) pause_for(Millis(10), {});
  bench.end();
  EXPECT_EQ(bench.failed(), 0) << bench.out();
  EXPECT_EQ(bench.out().find("aborted"), std::string::npos) << bench.out();
  EXPECT_EQ(orders(switches % 2 == 1), bench.processed() + torture.orders()) << bench.out();
  fmt::print("{} torture sessions: {} rounds, {} rows, {} notifications\n", torture.sessions(), torture.rounds(), torture.orders(), torture.notifications());
  fmt::print("{} switches, {} postponed, {} transactions; longest wait of a transaction, each switch's\n", switches, postponed, bench.processed());
  for (const auto& one : windows)
    fmt::print("  from {}: longest wait {} us before the hold ({} ms after its beginning, hold after {} ms), {} us over its end, {} us after it\n", one.from, bench.longest_us(one.from, one.closed),
               bench.longest_ended_us(one.from, one.closed) / 1000, (one.closed - one.from) / 1000, bench.longest_at_us(one.over), bench.longest_after_us(one.over, one.to));
  const auto print = [&](const char* what, auto of) {
    std::vector<std::int64_t> waits;
    for (const auto& one : windows) waits.push_back(of(one));
    std::ranges::sort(waits);
    fmt::print("  {}: p50 {} us, p95 {} us, worst {} us\n", what, waits[waits.size() / 2], waits[waits.size() * 95 / 100], waits.back());
    fmt::print("  each, {}: {}\n", what, fmt::join(waits, " "));
  };
  print("all of it", [&](const Window& one) { return bench.longest_us(one.from, one.to); });
  print("that ended before the hold", [&](const Window& one) { return bench.longest_us(one.from, one.closed); });
  print("over the end of the hold", [&](const Window& one) { return bench.longest_at_us(one.over); });
  print("(from the fence to the barrier)", [](const Window& one) { return one.shut_us; });
  print("that began after it", [&](const Window& one) { return bench.longest_after_us(one.over, one.to); });
}

// What pins a session is named, and holds the switch up as long as it lasts, and no longer.
TEST_F(Gated, WhatPinsASessionIsNamed) {
  ASSERT_NO_FATAL_FAILURE(follow());
  Torture torture(2, kGatePort);
  Result<Json> done = Json::object();
  bool to_new = true;
  for (const auto& [with_cursor, why] : {std::pair(false, "its view kept is temporary"), std::pair(true, "its cursor kept WITH HOLD is NO SCROLL")}) {
    torture.pin(with_cursor);
    done = to_new ? world.apply("switch") : world.undo("switch");
    ASSERT_FALSE(done);
    EXPECT_NE(done.error().text().find(why), std::string::npos) << done.error().text();
    EXPECT_NE(done.error().text().find("torture 0"), std::string::npos) << done.error().text();
    torture.let_go();
    switch_over(to_new, done);
    OK(done);
    to_new = !to_new;
    ASSERT_TRUE(torture.all_looked(30'000)) << join(torture.wrong(), "\n");
  }
  torture.end();
  EXPECT_TRUE(torture.wrong().empty()) << join(torture.wrong(), "\n");
  EXPECT_EQ(orders(false), torture.orders());
}

// What a backend does is not told in the list of activity then: those that the gate holds are spared all the same.
TEST_F(Gated, WhereActivityIsNotTrackedTheFenceEndsNobodyWhomTheGateHolds) {
  const auto track = [&](const std::string& how) {
    for (const bool on_new : {false, true}) {
      server(on_new).sql("postgres", "ALTER SYSTEM " + how);
      server(on_new).sql("postgres", "SELECT pg_reload_conf()");
    }
  };
  track("SET track_activities = off");
  follow();
  if (!HasFatalFailure()) {
    Bench bench(directory / "bench", 10, 100);
    wait_orders(false, 20);
    for (const bool to_new : {true, false}) {
      Result<Json> done = Json::object();
      switch_over(to_new, done);
      EXPECT_TRUE(done) << done.error().text();
      if (done) {
        EXPECT_TRUE((*done)["databases"]["shop"]["gate"].value("ended", Json::array()).empty()) << done->dump();
      }
      wait_orders(to_new, 20);
    }
    bench.end();
    EXPECT_EQ(bench.failed(), 0) << bench.out();
    EXPECT_EQ(bench.out().find("aborted"), std::string::npos) << bench.out();
    EXPECT_EQ(orders(false), bench.processed()) << bench.out();
  }
  track("RESET track_activities");
}

// The agents die at every point of a switch; the gate and its clients live. They wait, and nothing fails.
TEST_F(Gated, WhereverTheAgentsDieClientsOnlyWait) {
  ASSERT_NO_FATAL_FAILURE(follow());
  const std::vector<std::string> points{"switch.prepared", "give.held", "give.closing", "give.fenced", "give.barrier", "give.kept", "give.yielded", "switch.given",
                                        "take.arrived", "take.slot", "take.owner", "switch.taken", "switch.over", "after.reverse"};
  Bench bench(directory / "bench", 10, 100);
  ASSERT_NO_FATAL_FAILURE(wait_orders(false, 10));
  bool on_new = false;
  for (const auto& point : points) {
    SCOPED_TRACE(point);
    world.crash_at(point);
    try {
      const auto done = on_new ? world.undo("switch") : world.apply("switch");
      ADD_FAILURE() << "nobody died: " << (done ? done->dump() : done.error().text());
    } catch (const postgres::test::Crash&) {
    }
    // A moment without agents: the lease has not ended, the gate's hold may.
    pause_for(Millis(300), {});
    world.restart_agents(true);
    Result<Json> done = Json::object();
    switch_over(!on_new, done);
    OK(done);
    on_new = !on_new;
    ASSERT_NO_FATAL_FAILURE(wait_orders(on_new, 20));
  }
  bench.end();
  EXPECT_EQ(bench.failed(), 0) << bench.out();
  EXPECT_EQ(bench.out().find("aborted"), std::string::npos) << bench.out();
  EXPECT_EQ(orders(on_new), bench.processed()) << bench.out();
}

// A switch that stops one server and promotes the other: the gate's sessions were made ready on a standby.
class GatedPhysical : public Gated {
 protected:
  void SetUp() override {
    Gated::SetUp();
    world.use_road("physical");
  }
  void TearDown() override {
    gate.reset();
    if (world.usable()) {
      world.restore_new();
      world.restore_old();
      world.use_road("");
    }
    Gated::TearDown();
  }
};

TEST_F(GatedPhysical, ToAndFroClientsOnlyWait) {
  ASSERT_NO_FATAL_FAILURE(follow());
  Bench bench(directory / "bench", 10, 100);
  ASSERT_NO_FATAL_FAILURE(wait_orders(false, 10));
  std::vector<std::pair<std::int64_t, std::int64_t>> windows;
  for (const bool to_new : {true, false, true}) {
    const auto from = wall_now_ms() * 1000;
    Result<Json> done = Json::object();
    switch_over(to_new, done);
    OK(done);
    windows.emplace_back(from, wall_now_ms() * 1000 + 500'000);
    const auto& figures = (*done)["databases"]["shop"];
    fmt::print("{}\n", figures.dump());
    EXPECT_EQ(figures["gate"].value("moved", 0), 10) << figures.dump();
    EXPECT_TRUE(figures["gate"].value("ended", Json::array()).empty()) << figures.dump();
    ASSERT_NO_FATAL_FAILURE(wait_orders(to_new, 20));
  }
  bench.end();
  EXPECT_EQ(bench.failed(), 0) << bench.out();
  EXPECT_EQ(bench.out().find("aborted"), std::string::npos) << bench.out();
  EXPECT_EQ(orders(true), bench.processed()) << bench.out();
  for (const auto& [from, to] : windows) fmt::print("longest wait of a transaction: {} us\n", bench.longest_us(from, to));
}

}  // namespace
}  // namespace midstream
