// What tests of the mover on two real servers have in common.
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "movers/postgres/live_clusters.h"
#include "sys/clock.h"

#define OK(...)                                           \
  do {                                                    \
    const auto& ok_result_ = (__VA_ARGS__);               \
    ASSERT_TRUE(ok_result_) << ok_result_.error().text(); \
  } while (false)

namespace midstream::postgres::test {

bool eventually(const std::function<bool()>& so, Millis span = Millis(30'000));

// Before each test a shop on old and an agent for each side, and nothing of a move; after it neither, however it went.
class LiveTest : public testing::Test {
 protected:
  void SetUp() override;
  void TearDown() override;

  void follow(Millis within = Millis(60'000));
  void verify();
  void undo_all();  // but a switch
  // `act` does not come past `point`, where its agent dies; another goes on. False where it did not come there.
  bool crashes(const std::string& point, const std::function<void()>& act);
  // On the shop of that side; a failure of the test where it fails.
  void at(Server& server, const std::string& sql);
  void on_old(const std::string& sql) { at(world.old_server(), sql); }
  // A session of an ordinary role at old.
  Session::Target a_client(const std::string& application);
  // Neither server has a role, a slot, a subscription or a line of ours.
  void expect_nothing_of_ours();

  World& world = World::get();

 private:
  std::vector<std::string> lines() const;  // of the files that say who comes in
  std::vector<std::string> lines_;
};

}  // namespace midstream::postgres::test
