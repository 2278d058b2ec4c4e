// Against a real HAProxy with a configuration of its own; frontends and servers are unix sockets in a
// directory of the test, so that nothing leaves it.
#include "movers/traffic/traffic.h"

#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <map>
#include <mutex>
#include <thread>

#include "base/histogram.h"
#include "movers/traffic/haproxy.h"
#include "movers/traffic/watch.h"
#include "sys/child.h"
#include "sys/file.h"
#include "sys/net.h"
#include "sys/stream.h"

namespace midstream {
namespace {

namespace fs = std::filesystem;

class NoPeers final : public Peers {
 public:
  Result<Json> call(const std::string&, std::string_view, std::string_view, const Json&, const Task&, Deadline,
                    const std::stop_token&) override {
    return refused("no peers here");
  }
  Result<std::unique_ptr<Stream>> open(const std::string&, std::string_view, const Json&, const Task&, Deadline,
                                       const std::stop_token&) override {
    return refused("no peers here");
  }
};

// Answers every request with its name; a request for /hold is answered when released.
class App {
 public:
  App(Fd listener, std::string name) : name_(std::move(name)), listener_(std::move(listener)) {
    acceptor_ = std::jthread([this](const std::stop_token& stop) { serve(stop); });
  }
  ~App() { release(); }
  void release() {
    std::lock_guard lock(mutex_);
    held_ = false;
    released_.notify_all();
  }
  void answer_with(const std::string& status) {
    std::lock_guard lock(mutex_);
    status_ = status;
  }
  int probed() const { return probed_; }

 private:
  void serve(const std::stop_token& stop) {
    std::vector<std::jthread> sessions;
    while (true) {
      auto connection = accept_one(listener_.get(), stop);
      if (!connection) return;
      sessions.emplace_back([this, stop, fd = std::move(*connection)]() mutable { answer(std::move(fd), stop); });
    }
  }
  void answer(Fd fd, const std::stop_token& stop) {
    auto stream = make_fd_stream(std::move(fd));
    char buffer[4096];
    const auto got = stream->read_some(buffer, Deadline::in(Millis(20'000)), stop);
    if (!got || *got == 0) return;
    if (std::string_view(buffer, *got).starts_with("GET /hold")) {
      std::unique_lock lock(mutex_);
      released_.wait(lock, [this] { return !held_; });
    }
    std::unique_lock lock(mutex_);
    const auto status = status_;
    lock.unlock();
    const auto reply = "HTTP/1.1 " + status + "\r\nContent-Length: " + std::to_string(name_.size()) +
                       "\r\nConnection: close\r\n\r\n" + name_;
    if (std::string_view(buffer, *got).contains("User-Agent: midstream-guard")) ++probed_;
    (void)stream->write_all(reply, Deadline::in(Millis(5'000)), stop);
  }

  std::string name_;
  std::string status_ = "200 OK";
  std::atomic<int> probed_ = 0;
  Fd listener_;
  std::mutex mutex_;
  std::condition_variable released_;
  bool held_ = true;
  std::jthread acceptor_;
};

constexpr const char* kServers[] = {"web-old-1", "web-old-2", "web-new-1", "web-new-2"};

class TrafficLab : public testing::Test {
 protected:
  void SetUp() override {
    if (::access("/usr/sbin/haproxy", X_OK) != 0) GTEST_SKIP() << "haproxy is not installed";
    ::setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
    char name[] = "/tmp/midstream-traffic-XXXXXX";
    dir_ = ::mkdtemp(name);
    for (const auto* server : kServers) start_app(server);
    original_ = configuration("roundrobin");
    ASSERT_TRUE(write_file_durably(config(), original_, 0644));
    start_haproxy();
  }
  void TearDown() override {
    apps_.clear();
    if (master_ > 0) {
      ::kill(master_, SIGTERM);
      ::waitpid(master_, nullptr, 0);
    }
    if (!dir_.empty()) fs::remove_all(dir_);
  }

  fs::path config() const { return dir_ / "haproxy.cfg"; }
  fs::path admin() const { return dir_ / "admin.sock"; }
  void start_app(const std::string& name) {
    apps_[name] = std::make_unique<App>(listen_unix(dir_ / (name + ".sock")).value(), name);
  }
  // The servers get addresses, instead of unix sockets.
  void serve_over_tcp() {
    for (const auto* name : kServers) {
      stop_app(name);
      auto listener = listen_tcp("127.0.0.1", 0).value();
      ports_[name] = local_port(listener.get()).value();
      apps_[name] = std::make_unique<App>(std::move(listener), name);
    }
    ASSERT_TRUE(write_file_durably(config(), configuration("roundrobin"), 0644));
    reload();
    for (const auto* name : kServers) await_state(name, "UP");
  }
  void stop_app(const std::string& name) {
    apps_.erase(name);
    fs::remove(dir_ / (name + ".sock"));
  }

  std::string configuration(const std::string& balance) const {
    const auto at = dir_.string();
    auto server = [&](const std::string& name, const std::string& options) {
      const auto port = ports_.find(name);
      const auto where = port == ports_.end() ? "unix@" + at + "/" + name + ".sock "
                                              : "127.0.0.1:" + std::to_string(port->second) + " ";
      return "    server " + name + "  " + where + options + "\n";
    };
    return "global\n    stats socket " + at +
           "/admin.sock mode 600 level admin expose-fd listeners\n    stats socket " + at +
           "/operator.sock level operator\n    nbthread 1\n    hard-stop-after 20s\ndefaults\n    mode http\n"
           "    timeout connect 2s\n    timeout client 20s\n    timeout server 20s\n    default-server inter "
           "50ms fall 1 rise 1\n"
           "frontend fe\n    bind unix@" +
           at +
           "/fe.sock\n    default_backend web\n"
           "backend web  # the shop\n    balance " +
           balance + "\n" + server("web-old-1", "check  weight 100   # first") +
           server("web-old-2", "weight 100 check") + server("web-new-1", "check weight 0") +
           server("web-new-2", "check weight 0") + "backend plain\n    balance static-rr\n" +
           server("web-old-1", "weight 1") + server("web-new-1", "weight 0");
  }

  void start_haproxy() {
    master_ = ::fork();
    if (master_ == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGTERM);
      ::execl("/usr/sbin/haproxy", "haproxy", "-W", "-q", "-f", config().c_str(), nullptr);
      ::_exit(127);
    }
    await([&] { return fs::exists(admin()) && get("/").has_value(); });
  }
  void reload() {
    const auto before = socket().info().value().pid;
    auto again = Deadline::in(Millis(0));
    await([&] {
      if (again.expired()) {  // a master that has only just begun to wait loses the signal now and then
        ::kill(master_, SIGUSR2);
        again = Deadline::in(Millis(2'000));
      }
      const auto now = socket().info();
      return now && now->pid != before;
    });
  }
  template <class Condition>
  void await(Condition condition) {
    const auto until = Deadline::in(Millis(10'000));
    while (!condition()) {
      ASSERT_FALSE(until.expired()) << "waited in vain";
      pause_for(Millis(10), {});
    }
  }

  // The name of the server that answered, or nothing where the request failed.
  std::optional<std::string> get(const std::string& path) const {
    const auto deadline = Deadline::in(Millis(20'000));
    auto fd = connect_unix(dir_ / "fe.sock", deadline);
    if (!fd) return std::nullopt;
    auto stream = make_fd_stream(*std::move(fd));
    if (!stream->write_all("GET " + path + " HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n", deadline, {}))
      return std::nullopt;
    std::string answer;
    char buffer[4096];
    while (true) {
      const auto got = stream->read_some(buffer, deadline, {});
      if (!got) return std::nullopt;
      if (*got == 0) break;
      answer.append(buffer, *got);
    }
    if (!answer.starts_with("HTTP/1.1 200")) return std::nullopt;
    return answer.substr(answer.find("\r\n\r\n") + 4);
  }
  std::map<std::string, int> count(int requests) const {
    std::map<std::string, int> answers;
    for (int i = 0; i < requests; ++i) ++answers[get("/").value_or("failed")];
    return answers;
  }

  haproxy::Socket socket() const { return {admin(), Deadline::in(Millis(5'000)), {}}; }
  std::map<std::string, int> weights() const {
    std::map<std::string, int> out;
    const auto servers = socket().servers("web").value();
    for (const auto& server : servers) out[server.name] = server.weight;
    return out;
  }
  void await_state(const std::string& name, const std::string& state) {
    await([&] { return haproxy::find_server(socket().servers("web").value(), "web", name)->state() == state; });
  }

  Context context() {
    return {{"autumn", "step", 1}, "edge", dir_ / "state", peers_, Deadline::in(Millis(10'000)), {}};
  }
  Json desired(int percent, int from) const {
    auto common = target();
    common.update({{"kind", "weights"}, {"percent", percent}, {"from", from}});
    return common;
  }
  Json drain() const {
    auto common = target();
    common.update({{"kind", "drain"}, {"servers", {"web-old-1", "web-old-2"}}});
    return common;
  }
  Json watch() const {
    auto common = target();
    common.update({{"kind", "watch"}, {"path", "/"}, {"authority", "shop"}, {"rate", 200}, {"timeout_ms", 1'000}});
    return common;
  }
  // Requests that were not the watch's own.
  static std::int64_t users(const Json& seen) {
    std::int64_t sum = 0;
    for (const auto* side : {"old", "new"})
      sum += seen[side]["requests"].get<std::int64_t>() - seen[side]["probes"].get<std::int64_t>();
    return sum;
  }
  Json target() const {
    return {{"socket", admin().string()},
            {"config", config().string()},
            {"backend", "web"},
            {"old", {"web-old-1", "web-old-2"}},
            {"new", {"web-new-1", "web-new-2"}}};
  }
  void apply(const Json& wanted) {
    const auto done = mover_->apply(context(), wanted);
    ASSERT_TRUE(done) << done.error().text();
  }
  void undo(const Json& wanted) {
    const auto done = mover_->undo(context(), wanted);
    ASSERT_TRUE(done) << done.error().text();
  }
  Json observe(const Json& wanted) {
    auto seen = mover_->observe(context(), wanted);
    EXPECT_TRUE(seen) << seen.error().text();
    return seen.value_or(Json::object());
  }
  std::string file() const { return read_file(config()).value(); }
  bool config_is_valid() const {
    const auto ran = run_child({"haproxy", "-c", "-f", config().string()}, "", Deadline::in(Millis(10'000)));
    return ran && ran->code == 0;
  }
  // Findings that are not ok, by what they are about.
  std::map<std::string, std::string> failures(const Json& wanted) {
    std::map<std::string, std::string> out;
    const auto findings = mover_->check(context(), wanted);
    EXPECT_TRUE(findings) << findings.error().text();
    for (const auto& finding : findings.value_or(Json::array())) {
      if (!finding["ok"]) out[finding["what"]] = finding["detail"];
    }
    return out;
  }

  fs::path dir_;
  std::string original_;
  pid_t master_ = -1;
  std::map<std::string, std::unique_ptr<App>> apps_;
  std::map<std::string, std::uint16_t> ports_;  // of servers with an address
  NoPeers peers_;
  std::unique_ptr<Mover> mover_ = make_traffic_mover();
};

TEST_F(TrafficLab, TheSplitIsWhatWasAskedFor) {
  apply(desired(25, 0));
  EXPECT_EQ(weights(),
            (std::map<std::string, int>{{"web-old-1", 255}, {"web-old-2", 255}, {"web-new-1", 85}, {"web-new-2", 85}}));
  auto answers = count(400);
  EXPECT_EQ(answers["failed"], 0);
  EXPECT_NEAR(answers["web-new-1"] + answers["web-new-2"], 100, 2);
  const auto seen = observe(desired(25, 0));
  EXPECT_EQ(seen["reached"], true) << seen.dump();
  EXPECT_EQ(seen["percent"], 25.0);
  EXPECT_GE(seen["servers"]["web-new-1"]["requests"], 48);
  EXPECT_EQ(seen["servers"]["web-new-1"]["errors"], 0);
}

TEST_F(TrafficLab, NoRequestFailsWhileTrafficGoesOverAndBack) {
  std::atomic<int> done = 0;
  std::atomic<int> failed = 0;
  std::vector<std::jthread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&](const std::stop_token& stop) {
      while (!stop.stop_requested()) ++(get("/") ? done : failed);
    });
  }
  auto under_load = [&] {
    const int target = done + 100;
    await([&] { return done >= target || failed > 0; });
  };
  int before = 0;
  for (const int percent : {1, 5, 25, 50, 100}) {
    apply(desired(percent, before));
    EXPECT_TRUE(config_is_valid());
    under_load();
    before = percent;
  }
  EXPECT_EQ(weights(),
            (std::map<std::string, int>{{"web-old-1", 0}, {"web-old-2", 0}, {"web-new-1", 100}, {"web-new-2", 100}}));
  for (const int percent : {100, 50, 25, 5, 1}) {
    const int from = percent == 100 ? 50 : percent == 50 ? 25 : percent == 25 ? 5 : percent == 5 ? 1 : 0;
    undo(desired(percent, from));
    under_load();
  }
  clients.clear();
  EXPECT_EQ(failed, 0);
  EXPECT_GT(done, 1000);
  EXPECT_EQ(file(), original_);
  EXPECT_EQ(weights(),
            (std::map<std::string, int>{{"web-old-1", 100}, {"web-old-2", 100}, {"web-new-1", 0}, {"web-new-2", 0}}));
}

TEST_F(TrafficLab, AReloadKeepsTheWeightsAndIsNoticed) {
  apply(desired(5, 0));
  EXPECT_EQ(observe(desired(5, 0))["reloaded"], false);
  reload();
  EXPECT_EQ(weights()["web-old-1"], 247);
  EXPECT_EQ(weights()["web-new-1"], 13);
  auto seen = observe(desired(5, 0));
  EXPECT_EQ(seen["reached"], true) << seen.dump();
  EXPECT_EQ(seen["reloaded"], true);
  EXPECT_NE(seen["why"].get<std::string>().find("reloaded"), std::string::npos);

  // Somebody deploys the old file: both are set again.
  ASSERT_TRUE(write_file_durably(config(), original_));
  reload();
  seen = observe(desired(5, 0));
  EXPECT_EQ(seen["reached"], false);
  EXPECT_NE(seen["why"].get<std::string>().find("reloaded since"), std::string::npos) << seen.dump();
  apply(desired(5, 0));
  seen = observe(desired(5, 0));
  EXPECT_EQ(seen["reached"], true) << seen.dump();
  EXPECT_EQ(seen["reloaded"], false);
  undo(desired(5, 0));
  EXPECT_EQ(file(), original_);
}

TEST_F(TrafficLab, RepeatingAnythingIsHarmless) {
  undo(desired(5, 0));  // before anything was applied
  EXPECT_EQ(file(), original_);
  apply(desired(5, 0));
  const auto once = file();
  const auto written = fs::last_write_time(config());
  apply(desired(5, 0));
  EXPECT_EQ(file(), once);
  EXPECT_EQ(fs::last_write_time(config()), written);
  // As after a crash between the file and the runtime weights.
  ASSERT_TRUE(socket().set_weight("web", "web-old-2", 100));
  EXPECT_EQ(observe(desired(5, 0))["reached"], false);
  apply(desired(5, 0));
  EXPECT_EQ(observe(desired(5, 0))["reached"], true);
  undo(desired(5, 0));
  undo(desired(5, 0));
  EXPECT_EQ(file(), original_);
  EXPECT_EQ(weights()["web-old-2"], 100);
}

TEST_F(TrafficLab, GoingBackWorksWithoutWhatWasRemembered) {
  apply(desired(25, 0));
  fs::remove_all(dir_ / "state");
  EXPECT_EQ(observe(desired(25, 0))["reached"], true);
  apply(desired(25, 0));
  fs::remove_all(dir_ / "state");
  undo(desired(25, 0));
  EXPECT_EQ(weights()["web-new-1"], 0);
  EXPECT_GT(weights()["web-old-1"], 0);
  EXPECT_EQ(observe(desired(0, 0))["reached"], true);
}

TEST_F(TrafficLab, SomebodyElsesEditIsKept) {
  apply(desired(5, 0));
  ASSERT_TRUE(write_file_durably(config(), file() + "# edited by hand\n"));
  const auto done = mover_->apply(context(), desired(25, 5));
  ASSERT_TRUE(done) << done.error().text();
  EXPECT_EQ((*done)["config_edited_by_others"], true);
  undo(desired(25, 5));
  undo(desired(5, 0));
  EXPECT_EQ(file(), original_ + "# edited by hand\n");
}

TEST_F(TrafficLab, AServerThatIsDownGetsNoMoreTraffic) {
  stop_app("web-new-2");
  await_state("web-new-2", "DOWN");
  const auto done = mover_->apply(context(), desired(5, 0));
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().kind, ErrorKind::retry);
  EXPECT_NE(done.error().what.find("web/web-new-2 is DOWN"), std::string::npos) << done.error().text();
  EXPECT_EQ(file(), original_);
  EXPECT_EQ(weights()["web-new-1"], 0);

  start_app("web-new-2");
  await_state("web-new-2", "UP");
  apply(desired(100, 0));
  // Going back is possible with one of two up, and not onto nothing.
  stop_app("web-old-1");
  stop_app("web-old-2");
  await_state("web-old-1", "DOWN");
  await_state("web-old-2", "DOWN");
  const auto back = mover_->undo(context(), desired(100, 0));
  ASSERT_FALSE(back);
  EXPECT_EQ(back.error().kind, ErrorKind::retry);
  EXPECT_EQ(weights()["web-new-1"], 100);
  const auto outlook = [&] { return mover_->observe_undo(context(), desired(100, 0)).value(); };
  EXPECT_EQ(outlook()["possible"], false);
  EXPECT_EQ(outlook()["why"], "none of web-old-1, web-old-2 in backend web is UP");
  start_app("web-old-2");
  await_state("web-old-2", "UP");
  EXPECT_EQ(outlook()["possible"], true);
  EXPECT_EQ(outlook()["new_dead"], false);
  stop_app("web-new-1");
  stop_app("web-new-2");
  await_state("web-new-1", "DOWN");
  await_state("web-new-2", "DOWN");
  EXPECT_EQ(outlook()["new_dead"], true);
  undo(desired(100, 0));
  EXPECT_EQ(file(), original_);
}

TEST_F(TrafficLab, ADrainWaitsForTheLastSession) {
  auto held = std::jthread([this] { EXPECT_EQ(get("/hold").value_or("failed").substr(0, 7), "web-old"); });
  await([&] { return observe(drain())["sessions"] == 1; });
  apply(desired(100, 0));
  apply(drain());
  apply(drain());
  auto seen = observe(drain());
  EXPECT_EQ(seen["reached"], false);
  EXPECT_EQ(seen["sessions"], 1);
  EXPECT_NE(seen["why"].get<std::string>().find("1 sessions left on web/web-old-"), std::string::npos) << seen.dump();
  EXPECT_EQ(count(20)["failed"], 0);

  // A reload hides the session in the old process; it is still waited for.
  reload();
  apply(drain());
  seen = observe(drain());
  EXPECT_EQ(seen["sessions"], 0);
  EXPECT_EQ(seen["reached"], false);
  EXPECT_NE(seen["why"].get<std::string>().find("before a reload"), std::string::npos) << seen.dump();
  for (auto& [name, app] : apps_) app->release();
  held.join();
  await([&] { return observe(drain())["reached"] == true; });

  undo(drain());
  undo(drain());
  const auto servers = socket().servers("web").value();
  for (const auto& server : servers) EXPECT_EQ(server.state(), "UP") << server.name;
  undo(desired(100, 0));
  EXPECT_EQ(file(), original_);
}

TEST_F(TrafficLab, ADrainLeavesSomebodyToServeAndOthersMaintenanceAlone) {
  const auto refused_drain = mover_->apply(context(), drain());
  ASSERT_FALSE(refused_drain);
  EXPECT_EQ(refused_drain.error().kind, ErrorKind::refused);
  apply(desired(50, 0));
  ASSERT_TRUE(socket().set_state("web", "web-old-2", "maint"));
  apply(drain());
  undo(drain());
  const auto servers = socket().servers("web").value();
  EXPECT_EQ(haproxy::find_server(servers, "web", "web-old-1")->state(), "UP");
  EXPECT_EQ(haproxy::find_server(servers, "web", "web-old-2")->state(), "MAINT");
}

TEST_F(TrafficLab, CheckFindsWhatIsMissing) {
  EXPECT_EQ(failures(desired(5, 0)), (std::map<std::string, std::string>{}));
  auto wanted = desired(5, 0);
  wanted["socket"] = (dir_ / "operator.sock").string();
  EXPECT_EQ(failures(wanted).size(), 1u);
  wanted["socket"] = (dir_ / "none.sock").string();
  ASSERT_EQ(failures(wanted).size(), 1u);
  EXPECT_NE(failures(wanted).begin()->second.find("none.sock"), std::string::npos);

  wanted = desired(5, 0);
  wanted.update({{"backend", "plain"}, {"old", {"web-old-1"}}, {"new", {"web-new-1"}}});
  auto found = failures(wanted);
  EXPECT_TRUE(found.contains("backend plain balances so that weights can change"));
  EXPECT_TRUE(found.contains("server plain/web-old-1 has a health check"));
  wanted["new"] = {"web-new-9"};
  EXPECT_TRUE(failures(wanted).contains("server plain/web-new-9 exists"));
  wanted["backend"] = "nope";
  EXPECT_TRUE(failures(wanted).contains("backend nope exists"));
  const auto done = mover_->apply(context(), wanted);
  ASSERT_FALSE(done);
  EXPECT_EQ(done.error().kind, ErrorKind::refused);

  ASSERT_TRUE(socket().set_weight("web", "web-new-1", 7));
  found = failures(desired(5, 0));
  ASSERT_EQ(found.size(), 1u);
  EXPECT_NE(found.begin()->second.find("web-new-1: file 0, running 7"), std::string::npos);
}

TEST_F(TrafficLab, AWatchSeesUsersAndProbesOfBothSidesAlsoOverAReload) {
  serve_over_tcp();
  apply(desired(50, 0));
  const auto first = observe(watch());
  EXPECT_TRUE(first["reached"]);
  (void)count(40);
  await([&] {
    const auto seen = observe(watch());
    return seen["old"]["probes"] >= 20 && seen["new"]["probes"] >= 20;
  });
  auto seen = observe(watch());
  EXPECT_EQ(seen["watch"], first["watch"]);
  EXPECT_EQ(users(seen), 40) << seen.dump();
  for (const auto* side : {"old", "new"}) {
    EXPECT_EQ(seen[side]["failed"], 0);
    EXPECT_EQ(Histogram::from_json(seen[side]["latency"])->count(), seen[side]["probes"]);
  }
  // HAProxy's counters begin anew with a reload; what was counted stays.
  reload();
  (void)observe(watch());
  (void)count(10);
  EXPECT_EQ(users(observe(watch())), 50);
}

TEST_F(TrafficLab, AWatchCountsWhatFails) {
  serve_over_tcp();
  (void)observe(watch());
  apps_.at("web-new-1")->answer_with("500 Oops");
  stop_app("web-new-2");
  await([&] {
    const auto seen = observe(watch())["new"];
    return seen["probes"] >= 20 && seen["failed"] >= 10;
  });
  const auto seen = observe(watch());
  EXPECT_EQ(seen["old"]["failed"], 0);
}

TEST_F(TrafficLab, AWatchThatNobodyObservesEndsItsProbes) {
  serve_over_tcp();
  haproxy::Watches watches(Millis(200));
  const auto first = watches.observe(context(), watch());
  ASSERT_TRUE(first) << first.error().text();
  const auto& app = *apps_.at("web-new-1");
  await([&] { return app.probed() >= 5; });
  auto seen = app.probed();
  auto quiet = Deadline::in(Millis(500));
  await([&] {
    if (app.probed() != seen) quiet = Deadline::in(Millis(500));
    seen = app.probed();
    return quiet.expired();
  });
  EXPECT_NE((*watches.observe(context(), watch()))["watch"], (*first)["watch"]);
  await([&] { return app.probed() > seen; });
}

TEST_F(TrafficLab, AWatchRefusesWhatItCannotAsk) {
  for (const auto& [field, value] : std::map<std::string, Json>{
           {"rate", 0}, {"rate", 1'001}, {"timeout_ms", 0}, {"path", "/a\r\nX: y"}, {"authority", "a b"}}) {
    auto wrong = watch();
    wrong[field] = value;
    const auto seen = mover_->observe(context(), wrong);
    ASSERT_FALSE(seen) << field;
    EXPECT_EQ(seen.error().kind, ErrorKind::refused);
  }
}

TEST_F(TrafficLab, ADeadHaproxyIsOneClearError) {
  ::kill(master_, SIGTERM);
  ::waitpid(std::exchange(master_, -1), nullptr, 0);
  await([&] { return !socket().info(); });
  const auto done = mover_->apply(context(), desired(5, 0));
  ASSERT_FALSE(done);
  EXPECT_NE(done.error().what.find("HAProxy's runtime socket"), std::string::npos) << done.error().text();
  EXPECT_EQ(file(), original_);
}

}  // namespace
}  // namespace midstream
