// Two agents of one move on this machine, with a mover that only notes what it is asked.
#include "control/agent.h"

#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <set>
#include <thread>

#include "sys/net.h"
#include "sys/stream.h"

namespace midstream {
namespace {

namespace fs = std::filesystem;

// What the mover has seen, shared with the test.
struct Notes {
  std::atomic<int> applied = 0;
  std::atomic<bool> blocking = false;  // an apply is under way and waits for its stop token
  std::atomic<bool> stopped = false;
  std::atomic<int> leveled = 0;  // what the other side answered once the epochs were level; -1: an error
};

class NotingMover final : public Mover {
 public:
  explicit NotingMover(Notes& notes) : notes_(notes) {}
  std::string_view name() const override { return "noting"; }
  Result<> start(const Context& base) override { return base_.emplace(base), Result<>(); }
  Result<Json> observe(const Context&, const Json&) override { return observation(notes_.applied > 0, "nothing applied"); }
  Result<Json> apply(const Context& context, const Json& desired) override {
    const auto kind = get_string_or(desired, "kind", "");
    if (kind == "block") {
      notes_.blocking = true;
      while (!context.stop.stop_requested()) std::this_thread::yield();
      notes_.stopped = true;
      return failure(ErrorKind::cancelled, "stopped");
    }
    if (kind == "ask") return context.peers.call("b", "noting", "double", {{"n", 21}}, context.task, context.deadline, context.stop);
    if (kind == "level") {  // in the background, as a lease's end is: no command of any epoch
      later_ = std::jthread([this, base = *base_] {
        const auto deadline = Deadline::in(Millis(10'000));
        auto done = base.peers.level_epochs("b", deadline, base.stop);
        auto answer = done ? base.peers.call("b", "noting", "double", {{"n", 21}}, base.task, deadline, base.stop)
                           : Result<Json>(std::unexpected(done.error()));
        notes_.leveled = answer ? static_cast<int>(get_int_or(*answer, "n", -1)) : -1;
        notes_.leveled.notify_all();
      });
      return Json::object();
    }
    if (kind == "stream") {
      auto stream = TRY(context.peers.open("b", "noting", {{"greeting", "hello"}}, context.task, context.deadline, context.stop));
      return Json{{"heard", TRY(read_frame(*stream, context.deadline, context.stop))}};
    }
    if (kind == "bug") return Json{{"length", desired.at("kind").get<int>()}};  // throws: it is no number
    ++notes_.applied;
    return Json{{"epoch", context.task.epoch}};
  }
  Result<Json> undo(const Context&, const Json&) override { return Json::object(); }
  Result<Json> observe_undo(const Context&, const Json& desired) override {
    return undo_outlook(get_string_or(desired, "why_not", ""));
  }
  Result<Json> check(const Context&, const Json&) override { return Json::array(); }
  std::string describe(const Json&) const override { return "notes"; }
  Result<Json> peer(const Context&, std::string_view verb, const Json& args) override {
    if (verb != "double") return refused("no such verb");
    return Json{{"n", 2 * TRY(get_int(args, "n"))}};
  }
  Result<> serve(const Context& context, Stream& stream, const Json& hello) override {
    return write_frame(stream, get_string_or(hello, "greeting", "") + " back", Deadline::in(Millis(5'000)), context.stop);
  }

 private:
  Notes& notes_;
  std::optional<Context> base_;
  std::jthread later_;
};

// One agent on a thread of its own.
class Running {
 public:
  Running(const fs::path& directory, const std::string& host, Notes& notes) : socket_(directory / (host + ".sock")) {
    std::vector<std::unique_ptr<Mover>> movers;
    movers.push_back(std::make_unique<NotingMover>(notes));
    auto agent = Agent::open({"autumn", host, "127.0.0.1", directory / host, socket_}, std::move(movers));
    EXPECT_TRUE(agent) << (agent ? "" : agent.error().text());
    agent_ = std::move(*agent);
    thread_ = std::jthread([this](const std::stop_token& stop) { EXPECT_TRUE(agent_->serve(stop)); });
  }
  ~Running() {
    thread_.request_stop();
    thread_.join();
  }
  std::unique_ptr<Stream> link() const { return make_fd_stream(*connect_unix(socket_, Deadline::in(Millis(5'000)))); }
  Json ask(Json request) const {
    auto stream = link();
    request["id"] = 7;
    EXPECT_TRUE(write_message(*stream, request, Deadline::in(Millis(5'000)), {}));
    return read_message(*stream, Deadline::in(Millis(20'000)), {}).value_or(Json());
  }

 private:
  fs::path socket_;
  std::unique_ptr<Agent> agent_;
  std::jthread thread_;
};

Json call(std::uint64_t epoch, const std::string& kind, const std::string& verb = "apply") {
  return {{"type", "call"}, {"move", "autumn"}, {"step", "s"}, {"epoch", epoch}, {"mover", "noting"}, {"verb", verb},
          {"desired", {{"kind", kind}}}, {"deadline_ms", 15'000}};
}

class AgentTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/midstream-test-XXXXXX";
    directory_ = ::mkdtemp(name);
    a_ = std::make_unique<Running>(directory_, "a", notes_a_);
    b_ = std::make_unique<Running>(directory_, "b", notes_b_);
  }
  void TearDown() override {
    a_.reset();
    b_.reset();
    fs::remove_all(directory_);
  }
  Json adopt(Running& agent, std::uint64_t epoch, const std::set<std::string>& listed = {"a", "b"}) {
    Json peers = Json::object();
    for (const auto& [host, one] : {std::pair<std::string, Running*>{"a", a_.get()}, {"b", b_.get()}}) {
      if (!listed.contains(host)) continue;
      const auto hello = one->ask({{"type", "hello"}, {"move", "autumn"}})["result"];
      peers[host] = {{"address", hello["address"]}, {"port", hello["port"]}, {"fingerprint", hello["fingerprint"]}};
    }
    return agent.ask({{"type", "adopt"}, {"epoch", epoch}, {"peers", peers}, {"deadline_ms", 10'000}});
  }

  fs::path directory_;
  Notes notes_a_;
  Notes notes_b_;
  std::unique_ptr<Running> a_;
  std::unique_ptr<Running> b_;
};

TEST_F(AgentTest, NothingIsDoneBeforeAnEpochIsAdopted) {
  EXPECT_EQ(a_->ask(call(1, "note"))["error"]["kind"], "retry");
  EXPECT_EQ(notes_a_.applied, 0);
}

TEST_F(AgentTest, ALateCommandOfAnOldEpochHasNoEffect) {
  ASSERT_TRUE(adopt(*a_, 2)["ok"]);
  EXPECT_EQ(a_->ask(call(1, "note"))["error"]["kind"], "fenced");
  EXPECT_EQ(notes_a_.applied, 0);
  EXPECT_EQ(adopt(*a_, 1)["error"]["kind"], "fenced");
  EXPECT_EQ(a_->ask(call(2, "note"))["result"]["epoch"], 2);
}

TEST_F(AgentTest, ABugInAMoverEndsTheCallAndNotTheAgent) {
  ASSERT_TRUE(adopt(*a_, 1)["ok"]);
  const auto error = a_->ask(call(1, "bug"))["error"];
  EXPECT_EQ(error["kind"], "corrupt");
  EXPECT_NE(error["what"].get<std::string>().find("'noting' broke off in 'apply'"), std::string::npos) << error;
  EXPECT_EQ(a_->ask(call(1, "note"))["result"]["epoch"], 1);
}

TEST_F(AgentTest, TheEpochSurvivesARestart) {
  ASSERT_TRUE(adopt(*a_, 5)["ok"]);
  const auto before = a_->ask({{"type", "hello"}, {"move", "autumn"}})["result"];
  a_.reset();
  a_ = std::make_unique<Running>(directory_, "a", notes_a_);
  EXPECT_EQ(a_->ask({{"type", "hello"}, {"move", "autumn"}})["result"], before) << "same key, same port, same epoch";
  EXPECT_EQ(a_->ask(call(4, "note"))["error"]["kind"], "fenced");
}

TEST_F(AgentTest, AdoptionEndsWhatAnEarlierControllerBegan) {
  ASSERT_TRUE(adopt(*a_, 1)["ok"]);
  {
    auto link = a_->link();
    ASSERT_TRUE(write_message(*link, call(1, "block"), Deadline::in(Millis(5'000)), {}));
    while (!notes_a_.blocking) std::this_thread::yield();
  }
  EXPECT_FALSE(notes_a_.stopped) << "a closed link ends nothing";
  ASSERT_TRUE(adopt(*a_, 2)["ok"]);
  EXPECT_TRUE(notes_a_.stopped);
}

TEST_F(AgentTest, AgentsAskEachOther) {
  ASSERT_TRUE(adopt(*a_, 1)["ok"]);
  ASSERT_TRUE(adopt(*b_, 1)["ok"]);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(a_->ask(call(1, "ask"))["result"]["n"], 42);
  EXPECT_EQ(a_->ask(call(1, "stream"))["result"]["heard"], "hello back");
}

// One that is down when the epoch begins keeps nobody waiting, and is made known when it is reached.
TEST_F(AgentTest, ThePeersOfAnEpochMayBecomeKnownLater) {
  ASSERT_TRUE(adopt(*a_, 1, {"a"})["ok"]);
  ASSERT_TRUE(adopt(*b_, 1)["ok"]);
  EXPECT_FALSE(a_->ask(call(1, "ask"))["ok"]);
  auto link = a_->link();
  ASSERT_TRUE(write_message(*link, call(1, "block"), Deadline::in(Millis(5'000)), {}));
  while (!notes_a_.blocking) std::this_thread::yield();
  ASSERT_TRUE(adopt(*a_, 1)["ok"]);
  EXPECT_FALSE(notes_a_.stopped) << "the same epoch again ends nothing";
  EXPECT_EQ(a_->ask(call(1, "ask"))["result"]["n"], 42);
  a_.reset();
  a_ = std::make_unique<Running>(directory_, "a", notes_a_);
  EXPECT_EQ(a_->ask(call(1, "ask"))["result"]["n"], 42) << "known over a restart";
}

TEST_F(AgentTest, APeerOfAnOlderEpochIsFenced) {
  ASSERT_TRUE(adopt(*a_, 1)["ok"]);
  ASSERT_TRUE(adopt(*b_, 2)["ok"]);
  EXPECT_EQ(a_->ask(call(1, "ask"))["error"]["kind"], "fenced");
}

// As where a controller died while it began epoch 2: the one that is behind ends what it does, and both go on.
TEST_F(AgentTest, ADeadMansActLevelsTheEpochs) {
  ASSERT_TRUE(adopt(*a_, 2)["ok"]);
  ASSERT_TRUE(adopt(*b_, 1)["ok"]);
  auto link = b_->link();
  ASSERT_TRUE(write_message(*link, call(1, "block"), Deadline::in(Millis(5'000)), {}));
  while (!notes_b_.blocking) std::this_thread::yield();
  EXPECT_EQ(a_->ask(call(2, "ask"))["error"]["kind"], "retry");
  ASSERT_TRUE(a_->ask(call(2, "level"))["ok"]);
  notes_a_.leveled.wait(0);
  EXPECT_EQ(notes_a_.leveled, 42);
  EXPECT_TRUE(notes_b_.stopped);
  EXPECT_EQ(b_->ask(call(1, "note"))["error"]["kind"], "fenced");
  b_.reset();
  b_ = std::make_unique<Running>(directory_, "b", notes_b_);
  EXPECT_EQ(b_->ask(call(1, "note"))["error"]["kind"], "fenced") << "kept on disk";
  EXPECT_EQ(b_->ask(call(2, "note"))["result"]["epoch"], 2);
}

TEST_F(AgentTest, TheOneThatAsksMayBeBehind) {
  ASSERT_TRUE(adopt(*a_, 1)["ok"]);
  ASSERT_TRUE(adopt(*b_, 3)["ok"]);
  ASSERT_TRUE(a_->ask(call(1, "level"))["ok"]);
  notes_a_.leveled.wait(0);
  EXPECT_EQ(notes_a_.leveled, 42);
  EXPECT_EQ(a_->ask(call(1, "note"))["error"]["kind"], "fenced");
  EXPECT_EQ(a_->ask(call(3, "ask"))["result"]["n"], 42);
  EXPECT_EQ(adopt(*a_, 3)["result"]["epoch"], 3) << "the controller of that epoch comes back";
}

TEST_F(AgentTest, AnotherMovesControllerIsRefused) {
  EXPECT_FALSE(a_->ask({{"type", "hello"}, {"move", "winter"}})["ok"]);
}

TEST_F(AgentTest, OneAgentAMoveAndHost) {
  std::vector<std::unique_ptr<Mover>> none;
  auto second = Agent::open({"autumn", "a", "127.0.0.1", directory_ / "a", directory_ / "x.sock"}, std::move(none));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind, ErrorKind::refused);
}

// Beside whatever is under way, of the epoch in force alone, and up to the first step that could not be undone.
TEST_F(AgentTest, SaysWhetherWhatWasDoneCouldBeUndone) {
  adopt(*a_, 3);
  const auto ask = [&](std::uint64_t epoch) {
    const auto step = [](const char* id, const char* why_not) {
      return Json{{"step", id}, {"mover", "noting"}, {"desired", {{"why_not", why_not}}}};
    };
    return a_->ask({{"type", "observe_undo"}, {"move", "autumn"}, {"epoch", epoch}, {"deadline_ms", 5'000},
                    {"steps", {step("c", ""), step("b", "old is ill"), step("a", "")}}});
  };
  const auto steps = ask(3)["result"]["steps"];
  EXPECT_EQ(steps["c"]["possible"], true);
  EXPECT_EQ(steps["b"], Json({{"possible", false}, {"why", "old is ill"}}));
  EXPECT_FALSE(steps.contains("a"));
  EXPECT_EQ(ask(2)["error"]["kind"], "fenced");
}

Json adopt_as(const std::string& journal, std::uint64_t epoch, const Json& more = Json::object()) {
  Json request{{"type", "adopt"}, {"epoch", epoch}, {"journal", journal}, {"peers", Json::object()}, {"deadline_ms", 10'000}};
  request.update(more);
  return request;
}

// The second controller is refused, or takes over openly; then the first one's commands and adoptions have no effect.
TEST_F(AgentTest, AMoveIsInTheHandsOfOneJournal) {
  EXPECT_EQ(a_->ask(adopt_as("first", 3))["ok"], true);
  EXPECT_EQ(a_->ask(call(3, "plain"))["ok"], true);
  EXPECT_EQ(a_->ask(adopt_as("second", 9))["error"]["kind"], "fenced");
  EXPECT_EQ(a_->ask(adopt_as("second", 9, {{"takes_over", "another"}}))["error"]["kind"], "fenced");
  EXPECT_EQ(a_->ask(adopt_as("second", 3, {{"takes_over", "first"}}))["error"]["kind"], "fenced") << "not in the same epoch";
  EXPECT_EQ(a_->ask(adopt_as("second", 4, {{"takes_over", "first"}}))["ok"], true);
  const int before = notes_a_.applied;
  EXPECT_EQ(a_->ask(call(3, "plain"))["error"]["kind"], "fenced") << "a late command of the first";
  EXPECT_EQ(a_->ask(adopt_as("first", 12))["error"]["kind"], "fenced") << "however high its epoch";
  EXPECT_EQ(a_->ask(call(12, "plain"))["error"]["kind"], "retry");
  EXPECT_EQ(notes_a_.applied, before);
  EXPECT_EQ(a_->ask({{"type", "hello"}, {"move", "autumn"}})["result"]["journal"], "second");
}

// What it has done is on its disk: through a crash in the middle of an effect, and of a line.
TEST_F(AgentTest, RemembersWhatItHasDone) {
  a_->ask(adopt_as("first", 3));
  const Json record{{"type", "plan"}, {"hash", "abc"}, {"plan", Json::object()}};
  EXPECT_EQ(a_->ask({{"type", "keep_plan"}, {"epoch", 2}, {"record", record}})["error"]["kind"], "fenced");
  EXPECT_EQ(a_->ask({{"type", "keep_plan"}, {"epoch", 3}, {"record", record}})["result"]["plan"], "abc");
  auto first = call(3, "plain");
  first["number"] = 1;
  auto second = call(3, "plain", "undo");
  second["number"] = 2;
  a_->ask(first);
  a_->ask(second);
  a_->ask(call(3, "plain", "observe"));
  a_.reset();
  std::ofstream(directory_ / "a" / "calls.jsonl", std::ios::app)
      << "\n{\"epoch\":3,\"number\":3,\"step\":\"s\",\"verb\":\"apply\",\"at\":1}\n\n{\"epoch\":3,\"num";
  a_ = std::make_unique<Running>(directory_, "a", notes_a_);
  auto fourth = call(3, "plain");
  fourth["number"] = 4;
  a_->ask(fourth);
  const auto told = a_->ask({{"type", "recall"}})["result"];
  EXPECT_EQ(told["journal"], "first");
  EXPECT_EQ(told["epoch"], 3);
  EXPECT_EQ(told["plan"], record);
  const auto& calls = told["calls"];
  ASSERT_EQ(calls.size(), 4u) << calls.dump();
  EXPECT_EQ(calls[0]["verb"], "apply");
  EXPECT_EQ(calls[0]["ok"], true);
  EXPECT_EQ(calls[0]["result"]["epoch"], 3);
  EXPECT_EQ(calls[1]["verb"], "undo");
  EXPECT_FALSE(calls[2].contains("ok")) << "how it ended is not known";
  EXPECT_EQ(calls[3]["ok"], true) << "the torn line before it has not swallowed it";
}

}  // namespace
}  // namespace midstream
