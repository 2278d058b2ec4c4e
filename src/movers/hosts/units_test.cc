// Two hosts with a supervisor each, real processes, and a watch that sees every instant at which both run the unit.
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <fstream>
#include <functional>
#include <mutex>
#include <thread>

#include "movers/hosts/hosts.h"
#include "movers/hosts/processes.h"
#include "sys/file.h"

extern char** environ;

namespace midstream {
namespace {

namespace fs = std::filesystem;

struct Crash {};

bool eventually(const std::function<bool()>& so, Millis span = Millis(10'000)) {
  for (const auto until = Deadline::in(span); !until.expired(); pause_for(Millis(5), {}))
    if (so()) return true;
  return so();
}

// One host: etc/service with a unit `worker`, looked after as the lab's init does it.
class Host {
 public:
  explicit Host(fs::path root) : root_(std::move(root)) {
    fs::create_directories(root_ / "etc/service/worker");
    fs::create_directories(root_ / "run/service");
    fs::create_directories(root_ / "state");
  }
  ~Host() { end(); }

  void script(const std::string& body) {
    const auto path = root_ / "etc/service/worker/run";
    std::ofstream(path) << "#!/bin/sh\n" << body << "\n";
    fs::permissions(path, fs::perms::owner_all);
  }
  void down(bool is) {
    if (is)
      std::ofstream(root_ / "etc/service/worker/down").put('\n');
    else
      fs::remove(root_ / "etc/service/worker/down");
  }
  bool is_down() const { return fs::exists(root_ / "etc/service/worker/down"); }
  bool alive() const { return pid_ > 0; }
  int starts() const { return starts_; }
  bool runnable() const { return fs::exists(root_ / "etc/service/worker/run"); }
  const fs::path& root() const { return root_; }
  fs::path state() const { return root_ / "state"; }

  Millis between_look_and_start{0};

  // One look of the supervisor.
  void step() {
    const bool wanted = runnable() && !is_down();
    const auto pid_file = root_ / "run/service/worker.pid";
    if (pid_ > 0 && !wanted && !asked_) ::kill(pid_, SIGTERM), asked_ = true;
    if (pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) == pid_) pid_ = -1, asked_ = false;
    if (pid_ <= 0 && !wanted) fs::remove(pid_file);
    if (pid_ <= 0 && wanted) {
      // It says first that it is about to start the unit, and then looks again, as it must (directory_unit.cc).
      pause_for(between_look_and_start, {});
      std::ofstream(pid_file).flush();
      if (is_down()) return;  // the next look takes the pid file away
      pause_for(between_look_and_start, {});
      const auto run = (root_ / "etc/service/worker/run").string();
      char* argv[] = {const_cast<char*>(run.c_str()), nullptr};
      posix_spawnattr_t attributes;
      ::posix_spawnattr_init(&attributes);
      ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSID);
      pid_t pid = -1;
      if (::posix_spawn(&pid, run.c_str(), nullptr, &attributes, argv, environ) == 0) {
        std::ofstream(pid_file) << pid << "\n";
        pid_ = pid;
        ++starts_;
      }
      ::posix_spawnattr_destroy(&attributes);
    }
  }
  void end() {
    if (pid_ <= 0) return;
    ::kill(-pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  fs::path root_;
  std::atomic<pid_t> pid_ = -1;
  std::atomic<int> starts_ = 0;
  bool asked_ = false;
};

class Router final : public Peers {
 public:
  Result<Json> call(const std::string& host, std::string_view, std::string_view verb, const Json& args,
                    const Task& task, Deadline deadline, const std::stop_token& stop) override {
    Mover* mover = nullptr;
    fs::path state;
    {
      const std::lock_guard lock(mutex_);
      if (cut || agents_[host].mover == nullptr) return retry("link cut");
      mover = agents_[host].mover;
      state = agents_[host].state;
      ++agents_[host].calls;
    }
    const std::unique_ptr<Router, std::function<void(Router*)>> within(this, [&host](Router* router) {  // a crash leaves it, too
      {
        const std::lock_guard lock(router->mutex_);
        --router->agents_[host].calls;
      }
      router->ended_.notify_all();
    });
    const Context context{task, host, state, *this, deadline, stop};
    auto answer = mover->peer(context, verb, args);
    if (lost == verb) return lost.clear(), failure(ErrorKind::unknown, "link cut after the request");
    return answer;
  }
  Result<> level_epochs(const std::string&, Deadline, const std::stop_token&) override {
    if (cut) return retry("link cut");
    return {};
  }
  Result<std::unique_ptr<Stream>> open(const std::string&, std::string_view, const Json&, const Task&, Deadline,
                                       const std::stop_token&) override {
    return refused("no streams");
  }
  // Nobody reaches that agent any more: once it returns, nobody is within it.
  void leave(const std::string& host) {
    std::unique_lock lock(mutex_);
    agents_[host].mover = nullptr;
    ended_.wait(lock, [&] { return agents_[host].calls == 0; });
  }
  void join(const std::string& host, Mover* mover, fs::path state) {
    const std::lock_guard lock(mutex_);
    agents_[host].mover = mover;
    agents_[host].state = std::move(state);
  }
  std::atomic<bool> cut = false;
  std::string lost;  // the verb whose answer is lost, once

 private:
  struct Reached {
    Mover* mover = nullptr;
    fs::path state;
    int calls = 0;
  };
  std::map<std::string, Reached> agents_{{"old", {}}, {"new", {}}};
  std::mutex mutex_;
  std::condition_variable ended_;
};

class UnitsTest : public testing::Test {
 protected:
  void SetUp() override {
    top_ = fs::temp_directory_path() / fmt::format("midstream-units-{}-{}", ::getpid(), ++count_);
    for (auto* host : {&old_, &new_}) host->emplace(top_ / (host == &old_ ? "old" : "new"));
    for (auto* host : {&old_, &new_}) (*host)->script("exec sleep 1000");
    (*new_).down(true);
    supervisor_ = std::jthread([this](const std::stop_token& stop) {
      while (!stop.stop_requested()) {
        old_->step();
        new_->step();
        if (old_->alive() && new_->alive()) ++both_;
        pause_for(Millis(2), stop);
      }
    });
    ASSERT_TRUE(eventually([&] { return old_->alive(); }));
    main_ = std::this_thread::get_id();
    boot("old");
    boot("new");
  }
  void TearDown() override {
    for (const char* host : {"old", "new"}) router_.leave(host);
    agents_.clear();
    supervisor_.request_stop();
    supervisor_.join();
    EXPECT_EQ(both_, 0) << "the unit ran on both sides";
    old_.reset();
    new_.reset();
    fs::remove_all(top_);
  }

  struct Agent {
    std::unique_ptr<Mover> mover;
    std::stop_source stop;
    ~Agent() { stop.request_stop(), mover.reset(); }
  };
  void boot(const std::string& host) {
    router_.leave(host);
    agents_.erase(host);
    Host& one = host == "old" ? *old_ : *new_;
    HostsOptions options;
    options.root = one.root();
    options.lease = lease_;
    options.start_patience = Millis(1'000);
    options.steady = Millis(60);
    options.checkpoint = [this](std::string_view) {
      if (std::this_thread::get_id() == main_ && --until_crash_ == 0) throw Crash();
    };
    auto agent = std::make_unique<Agent>();
    agent->mover = make_hosts_mover(std::move(options));
    router_.join(host, agent->mover.get(), one.state());
    ASSERT_TRUE(agent->mover->start(Context{Task{"m", "", 1}, host, one.state(), router_,
                                            Deadline::in(Millis(3'600'000)), agent->stop.get_token()}));
    agents_[host] = std::move(agent);
  }
  Context context(const std::string& host) {
    return Context{Task{"m", "s", ++epoch_},     host, (host == "old" ? *old_ : *new_).state(), router_,
                   Deadline::in(Millis(20'000)), {}};
  }
  Json desired(const std::string& kind, int deadline_ms = 5'000) const {
    return {{"kind", kind},
            {"name", "worker"},
            {"from", {{"host", "old"}}},
            {"to", {{"host", "new"}}},
            {"deadline_ms", deadline_ms}};
  }
  Result<Json> apply(const std::string& kind, int deadline_ms = 5'000) {
    return agents_["new"]->mover->apply(context("new"), desired(kind, deadline_ms));
  }
  Result<Json> undo(const std::string& kind) { return agents_["new"]->mover->undo(context("new"), desired(kind)); }
  Json observe(const std::string& kind) {
    return agents_["new"]->mover->observe(context("new"), desired(kind)).value_or(Json::object());
  }
  // Why it could not be undone; "" where it could.
  std::string outlook(const std::string& kind) {
    const auto seen = agents_["new"]->mover->observe_undo(context("new"), desired(kind));
    if (!seen) return seen.error().text();
    return seen->value("possible", false) ? "" : seen->value("why", "no reason");
  }

  static inline int count_ = 0;
  fs::path top_;
  std::optional<Host> old_, new_;
  std::jthread supervisor_;
  std::atomic<int> both_ = 0;
  Router router_;
  std::map<std::string, std::unique_ptr<Agent>> agents_;
  std::thread::id main_;
  int until_crash_ = 0;
  std::uint64_t epoch_ = 1;
  Millis lease_{60'000};
};

TEST_F(UnitsTest, GoesToNewAndBack) {
  ASSERT_TRUE(apply("unit-ready"));
  EXPECT_TRUE(observe("unit-ready")["reached"]);
  EXPECT_FALSE(observe("unit")["reached"]);
  const auto handed = apply("unit");
  ASSERT_TRUE(handed) << handed.error().text();
  EXPECT_GE((*handed)["gap_ms"], 0);
  EXPECT_TRUE(new_->alive() && !old_->alive());
  EXPECT_TRUE(old_->is_down() && !new_->is_down()) << "after a reboot it would start on old";
  EXPECT_EQ(observe("unit")["owner"], "new");
  EXPECT_TRUE(observe("unit")["reached"]);
  ASSERT_TRUE(apply("unit"));  // again: nothing to do
  EXPECT_EQ(new_->starts(), 1);
  ASSERT_TRUE(undo("unit"));
  EXPECT_TRUE(eventually([&] { return old_->alive(); }));
  EXPECT_TRUE(!new_->alive() && new_->is_down() && !old_->is_down());
  ASSERT_TRUE(undo("unit-ready"));
  EXPECT_TRUE(fs::is_empty(new_->state())) << "something is remembered on new";
  EXPECT_EQ(read_file(new_->root() / "etc/service/worker/down"), "\n") << "it is not held as it was found";
}

TEST_F(UnitsTest, SaysWhetherItCouldGoBack) {
  ASSERT_TRUE(apply("unit-ready"));
  EXPECT_EQ(outlook("unit-ready"), "");
  ASSERT_TRUE(apply("unit"));
  EXPECT_EQ(outlook("unit"), "");
  router_.cut = true;
  EXPECT_NE(outlook("unit").find("old cannot be asked"), std::string::npos) << outlook("unit");
  router_.cut = false;
  const auto here = old_->root() / "etc/service/worker", away = old_->root() / "worker-away";
  fs::rename(here, away);
  EXPECT_EQ(outlook("unit"), "old has no unit worker");
  fs::rename(away, here);
  EXPECT_EQ(outlook("unit"), "");
  EXPECT_NE(outlook("unit-end"), "");
  ASSERT_TRUE(undo("unit"));
}

TEST_F(UnitsTest, AUnitThatRunsOnBothIsRefused) {
  new_->down(false);
  ASSERT_TRUE(eventually([&] { return new_->alive(); }));
  const auto ready = apply("unit-ready");
  ASSERT_FALSE(ready);
  EXPECT_EQ(ready.error().kind, ErrorKind::refused);
  bool said = false;
  const auto findings = agents_["new"]->mover->check(context("new"), desired("unit-ready"));
  ASSERT_TRUE(findings);
  for (const auto& one : *findings) said |= one["detail"] == "on both" && one["ok"] == false;
  EXPECT_TRUE(said) << findings->dump();
  new_->down(true);
  ASSERT_TRUE(eventually([&] { return !new_->alive(); }));
  both_ = 0;  // that was ours
}

TEST_F(UnitsTest, ARunThatDoesNotEndIsNamedAndGoesOnWhereItWas) {
  old_->script("trap '' TERM\nwhile :; do sleep 0.05; done");
  old_->down(true);
  ASSERT_TRUE(eventually([&] { return !old_->alive(); }));
  old_->down(false);
  ASSERT_TRUE(eventually([&] { return old_->alive(); }));
  pause_for(Millis(100), {});  // until the shell has its trap
  ASSERT_TRUE(apply("unit-ready"));
  const auto handed = apply("unit", 300);
  ASSERT_FALSE(handed);
  EXPECT_EQ(handed.error().kind, ErrorKind::retry);
  EXPECT_NE(handed.error().what.find("did not end within 300 ms"), std::string::npos) << handed.error().what;
  EXPECT_NE(handed.error().what.find(" (run)"), std::string::npos) << handed.error().what;
  EXPECT_TRUE(old_->alive() && !old_->is_down() && !new_->alive());
  EXPECT_EQ(observe("unit")["owner"], "old");
}

TEST_F(UnitsTest, WhatDoesNotStartOnNewRunsOnOldAgain) {
  new_->script("exit 3");
  ASSERT_TRUE(apply("unit-ready"));
  const auto handed = apply("unit");
  ASSERT_FALSE(handed);
  EXPECT_NE(handed.error().what.find("worker runs on old again"), std::string::npos) << handed.error().what;
  EXPECT_TRUE(eventually([&] { return old_->alive(); }));
  EXPECT_TRUE(new_->is_down());
  new_->script("exec sleep 1000");
  ASSERT_TRUE(apply("unit"));
  EXPECT_TRUE(new_->alive());
}

TEST_F(UnitsTest, NeedsTheWordOfTheGiver) {
  ASSERT_TRUE(apply("unit-ready"));
  router_.cut = true;
  EXPECT_FALSE(apply("unit"));
  EXPECT_TRUE(old_->alive() && new_->is_down());
  router_.cut = false;
  router_.lost = "yield";
  EXPECT_FALSE(apply("unit"));
  EXPECT_FALSE(new_->alive());
  ASSERT_TRUE(apply("unit"));
  EXPECT_TRUE(new_->alive() && !old_->alive());
}

TEST_F(UnitsTest, AnOlderEpochActsNoMore) {
  ASSERT_TRUE(apply("unit-ready"));
  ASSERT_TRUE(apply("unit"));
  const Context late{Task{"m", "s", 1}, "old", old_->state(), router_, Deadline::in(Millis(5'000)), {}};
  const auto taken = agents_["old"]->mover->peer(late, "take", {{"unit", desired("unit")}, {"turn", 99}});
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().kind, ErrorKind::fenced);
}

// Yielded, and the taker is gone: with the lease's end old asks it to stand down, and only then starts it again.
TEST_F(UnitsTest, TheLeaseBringsItBackOnlyWhenNewStandsDown) {
  lease_ = Millis(100);
  boot("old");
  ASSERT_TRUE(apply("unit-ready"));
  const Context asked{Task{"m", "s", ++epoch_}, "old", old_->state(), router_, Deadline::in(Millis(5'000)), {}};
  router_.cut = true;
  ASSERT_TRUE(agents_["old"]->mover->peer(asked, "yield", {{"unit", desired("unit")}, {"turn", 1}}));
  EXPECT_FALSE(eventually([&] { return old_->alive(); }, Millis(1'000))) << "started without new's word";
  router_.cut = false;
  EXPECT_TRUE(eventually([&] { return old_->alive(); }));
  // What new was to do at the old turn comes too late.
  const Context late{Task{"m", "s", ++epoch_}, "new", new_->state(), router_, Deadline::in(Millis(5'000)), {}};
  const auto taken = agents_["new"]->mover->peer(late, "take", {{"unit", desired("unit")}, {"turn", 1}});
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().kind, ErrorKind::fenced);
}

TEST_F(UnitsTest, WhatIsPutUpBehindItsBackIsHeldAgain) {
  ASSERT_TRUE(apply("unit-ready"));
  ASSERT_TRUE(apply("unit"));
  agents_.erase("old");
  new_->down(true);  // so that this test never has both up
  ASSERT_TRUE(eventually([&] { return !new_->alive(); }));
  old_->down(false);
  ASSERT_TRUE(eventually([&] { return old_->alive(); }));
  boot("old");
  EXPECT_TRUE(eventually([&] { return old_->is_down() && !old_->alive(); }));
  boot("new");
  EXPECT_TRUE(eventually([&] { return new_->alive(); }));
}

// Everything dies at each point between two durable effects: agents start again, the same step is applied again, or
// undone, and at no instant both ran it.
TEST_F(UnitsTest, EveryCrashEndsWell) {
  // Long enough for a unit to be held between the supervisor's look and its start.
  old_->between_look_and_start = new_->between_look_and_start = Millis(5);
  int points = 0;
  for (int at = 1;; ++at) {
    for (const bool forward : {true, false}) {
      until_crash_ = at;
      bool crashed = false;
      try {
        ASSERT_TRUE(apply("unit-ready"));
        const auto handed = apply("unit");
        ASSERT_TRUE(handed) << handed.error().text();
      } catch (const Crash&) {
        crashed = true;
      }
      until_crash_ = 0;
      if (!crashed && forward) points = at - 1;
      boot("old");
      boot("new");
      if (forward) {
        ASSERT_TRUE(eventually([&] { return apply("unit-ready") && apply("unit"); })) << "after crash " << at;
        ASSERT_TRUE(new_->alive() && !old_->alive());
      }
      ASSERT_TRUE(eventually([&] { return undo("unit").has_value(); })) << "after crash " << at;
      ASSERT_TRUE(eventually([&] { return old_->alive(); })) << "after crash " << at;
      ASSERT_TRUE(eventually([&] { return undo("unit-ready").has_value(); }));
      ASSERT_FALSE(new_->alive());
      if (!crashed && !forward) {
        EXPECT_GE(points, 7) << "too few points were looked at";
        return;
      }
    }
  }
}

TEST(Processes, StatLineOfAnOddName) {
  Process process;
  ASSERT_TRUE(parse_stat("42 (a ) b) S 7 42 40 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 9931 1 1 1", process));
  EXPECT_EQ(process.name, "a ) b");
  EXPECT_EQ(process.parent, 7);
  EXPECT_EQ(process.session, 40);
  EXPECT_EQ(process.started, 9931u);
  EXPECT_FALSE(parse_stat("42 (a", process));
  EXPECT_EQ(systemd_cgroup("9:name=systemd:/system.slice/x.service\n0::/other\n"), "/system.slice/x.service");
  EXPECT_EQ(systemd_cgroup("0::/system.slice/y.service\n"), "/system.slice/y.service");
  EXPECT_EQ(systemd_cgroup("9:name=systemd:/\n0::/system.slice/z.service\n"), "/system.slice/z.service");
}

}  // namespace
}  // namespace midstream
