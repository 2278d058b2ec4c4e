// What tests of the switch through the gate share: the shipping mover between two real PostgreSQL 15, the shipping gate as a
// program before them, and clients of it.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "movers/postgres/live_clusters.h"
#include "sys/child.h"

namespace midstream {

#define OK(expression) ASSERT_TRUE(expression) << (expression).error().text()

constexpr int kGatePort = 6432;

int from_environment(const char* name, int otherwise);

// pgbench through the gate.
class Bench {
 public:
  Bench(std::filesystem::path directory, int clients, int rate);
  void end();  // every client ends what it has begun
  std::string out() const;
  // As pgbench itself says: transactions that it was told are committed.
  std::int64_t processed() const { return number_after("number of transactions actually processed: "); }
  std::int64_t failed() const { return number_after("number of failed transactions: "); }
  // The longest wait of the transactions that ended between the two instants (microseconds since 1970).
  std::int64_t longest_us(std::int64_t from_us, std::int64_t to_us);
  // And when that one ended, in microseconds after `from_us`.
  std::int64_t longest_ended_us(std::int64_t from_us, std::int64_t to_us);
  // The longest wait of those that began after the one instant and ended before the other.
  std::int64_t longest_after_us(std::int64_t from_us, std::int64_t to_us);
  // The longest wait of those under way at that instant.
  std::int64_t longest_at_us(std::int64_t instant_us);

 private:
  std::int64_t number_after(const std::string& words) const;
  void read_logs();
  std::filesystem::path directory_;
  std::optional<Child> child_;
  std::vector<std::pair<std::int64_t, std::int64_t>> waits_;
};

class Gated : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;
  // Both sides follow, and the gate runs.
  void follow();
  void start_gate();
  std::int64_t orders(bool on_new);
  void wait_orders(bool on_new, std::int64_t more);
  // Tries until it is done, as the engine does; how often it was postponed. A backend of ours may just be ended by an agent that
  // clears up after the one that died.
  int switch_over(bool to_new, Result<Json>& done);
  postgres::test::Server& server(bool on_new) { return on_new ? world.new_server() : world.old_server(); }

  postgres::test::World& world = postgres::test::World::get();
  std::filesystem::path directory;
  std::optional<Child> gate;
  std::function<void(const std::string& verb)> on_ask;
};

}  // namespace midstream
