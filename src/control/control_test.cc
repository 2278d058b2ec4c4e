#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <thread>

#include "control/check.h"
#include "control/commands.h"
#include "control/control_socket.h"
#include "control/journal.h"
#include "control/planner.h"
#include "control/rebuild.h"
#include "control/report.h"
#include "control/story.h"
#include "control/way_back.h"
#include "control/window.h"
#include "sys/file.h"

namespace midstream {
namespace {

struct TemporaryDirectory {
  std::filesystem::path path = [] {
    char name[] = "/tmp/midstream-test-XXXXXX";
    return std::filesystem::path(::mkdtemp(name));
  }();
  ~TemporaryDirectory() { std::filesystem::remove_all(path); }
};

Result<> persist_nothing(std::uint64_t) { return {}; }

TEST(Commands, OldEpochsAreFencedAndNewOnesWait) {
  Commands commands(5);
  EXPECT_TRUE(commands.admit(5));
  EXPECT_EQ(commands.admit(4).error().kind, ErrorKind::fenced);
  EXPECT_EQ(commands.admit(6).error().kind, ErrorKind::retry);
  EXPECT_EQ(commands.adopt(4, Deadline::in(Millis(100)), persist_nothing).error().kind, ErrorKind::fenced);
}

TEST(Commands, AdoptionEndsWhatIsUnderWayFirst) {
  Commands commands(1);
  std::atomic<bool> ended = false;
  std::atomic<bool> admitted = false;
  std::jthread command([&] {
    auto admission = commands.admit(1);
    admitted = true;
    while (!admission->stop().stop_requested()) std::this_thread::yield();
    ended = true;
  });
  while (!admitted) std::this_thread::yield();
  bool ended_before_persist = false;
  ASSERT_TRUE(commands.adopt(2, Deadline::in(Millis(10'000)), [&](std::uint64_t) -> Result<> {
    ended_before_persist = ended;
    return {};
  }));
  EXPECT_TRUE(ended_before_persist);
  EXPECT_EQ(commands.epoch(), 2u);
  EXPECT_TRUE(commands.admit(2));
}

TEST(Commands, ACommandThatDoesNotEndKeepsTheEpochBack) {
  Commands commands(1);
  auto stubborn = commands.admit(1);
  EXPECT_EQ(commands.adopt(2, Deadline::in(Millis(20)), persist_nothing).error().kind, ErrorKind::retry);
  EXPECT_EQ(commands.epoch(), 1u);
  EXPECT_FALSE(commands.admit(1)) << "nothing new of the old epoch while a newer one waits";
}

TEST(Commands, AnEpochThatCannotBeKeptIsNotAdopted) {
  Commands commands(1);
  EXPECT_FALSE(commands.adopt(2, Deadline::in(Millis(100)), [](std::uint64_t) -> Result<> { return refused("disk full"); }));
  EXPECT_EQ(commands.epoch(), 1u);
}

TEST(JournalTest, KeepsRecordsAndOneController) {
  TemporaryDirectory dir;
  {
    auto journal = Journal::open(dir.path);
    ASSERT_TRUE(journal);
    ASSERT_TRUE(journal->append({{{"type", "a"}}, {{"type", "b"}}}));
    EXPECT_EQ(Journal::open(dir.path).error().kind, ErrorKind::refused);
  }
  auto journal = Journal::open(dir.path);
  ASSERT_TRUE(journal);
  const auto records = journal->read();
  ASSERT_TRUE(records);
  ASSERT_EQ(records->size(), 2u);
  EXPECT_EQ((*records)[1]["type"], "b");
}

// The lock keeps a second controller out only where it works: not where it was deleted, nor on every network disk.
TEST(JournalTest, WhoHasNotReadTheLastRecordAddsNothing) {
  TemporaryDirectory dir;
  auto first = Journal::open(dir.path);
  ASSERT_TRUE(first);
  ASSERT_TRUE(first->append({{{"type", "a"}}}));
  std::filesystem::remove(dir.path / "lock");
  auto second = Journal::open(dir.path);
  ASSERT_TRUE(second);
  ASSERT_EQ(second->append({{{"type", "b"}}}).error().kind, ErrorKind::fenced) << "it has read nothing";
  ASSERT_TRUE(second->read());
  ASSERT_TRUE(second->append({{{"type", "b"}}}));
  EXPECT_EQ(first->append({{{"type", "c"}}}).error().kind, ErrorKind::fenced);
  EXPECT_EQ(first->append({{{"type", "c"}}}).error().kind, ErrorKind::fenced) << "and stays so";
  EXPECT_TRUE(second->append({{{"type", "d"}}}));
  const auto records = Journal::open_to_read(dir.path)->read();
  ASSERT_TRUE(records);
  ASSERT_EQ(records->size(), 3u);
  EXPECT_EQ((*records)[2]["type"], "d");
}

TEST(JournalTest, ABrokenFileIsSaidToBeBroken) {
  TemporaryDirectory dir;
  ASSERT_TRUE(write_file_durably(dir.path / "journal.db", std::string(4096, 'x')));
  EXPECT_EQ(Journal::open(dir.path).error().kind, ErrorKind::corrupt);
}

TEST(ControlSocketTest, AnswersAndIsGoneAfterwards) {
  TemporaryDirectory dir;
  const auto path = dir.path / "s";
  {
    auto socket = ControlSocket::open(path, [](const Json& request) -> Result<Json> {
      if (get_string_or(request, "verb", "") == "no") return refused("no");
      return Json{{"you", "asked"}};
    });
    ASSERT_TRUE(socket);
    EXPECT_EQ((*ask_controller(path, {{"verb", "x"}}, Deadline::in(Millis(5'000))))["you"], "asked");
    EXPECT_EQ(ask_controller(path, {{"verb", "no"}}, Deadline::in(Millis(5'000))).error().what, "no");
  }
  EXPECT_EQ(ask_controller(path, {{"verb", "x"}}, Deadline::in(Millis(100))).error().kind, ErrorKind::retry);
}

TEST(WindowTest, LocalTimeOfTheZone) {
  Window window{{1, 2, 3, 4, 5}, 11 * 60, 14 * 60, "UTC"};
  const std::int64_t monday_noon = 1'763'985'600'000;  // 2025-11-24T12:00:00Z
  EXPECT_TRUE(*window_open(window, monday_noon));
  EXPECT_FALSE(*window_open(window, monday_noon + 2 * 3'600'000));
  EXPECT_FALSE(*window_open(window, monday_noon - 86'400'000));
  window.zone = "Mars/Olympus";
  EXPECT_FALSE(window_open(window, monday_noon));
}

Manifest whole_manifest() {
  Manifest m;
  m.move = "autumn";
  m.old_host = "old";
  m.new_host = "new";
  m.vantage = "out";
  m.verifier = "edge";
  for (const auto* name : {"old", "new", "edge", "out"}) m.hosts.push_back({.name = name, .ssh = std::string("root@") + name, .data = "10.0.0.1"});
  ServiceSpec db;
  db.name = "db";
  db.probe = ProbeSpec{.kind = "postgres", .target = "host=db", .write = true};
  db.postgres = PostgresSpec{{"old", 5432}, {"new", 5432}, {"shop"}, Span(1000)};
  db.traffic = TrafficSpec{.haproxy = "edge", .backend = "db", .old_servers = {"db-old"}, .new_servers = {"db-new"}};
  ServiceSpec web;
  web.name = "web";
  web.files = {{"/srv/shop", true, {}}};
  web.traffic = TrafficSpec{.haproxy = "edge", .backend = "web", .old_servers = {"a"}, .new_servers = {"b"}, .steps = {5, 100}};
  web.names = {{.name = "shop.example.", .type = "A", .server = "ns1", .zone = "example.", .via = "edge", .key_file = "k", .old_value = "192.0.2.10", .new_value = "198.51.100.10"}};
  m.services = {db, web};
  m.subnets = {{"192.0.2.0/26", {"192.0.2.10"}, {"old", "eth0"}, {"new", "eth0"}, ""}};
  return m;
}

std::string no_text(const std::string& mover, const Json&) { return mover; }

TEST(PlannerTest, TheWholeStoryInOrder) {
  auto plan = make_plan(whole_manifest(), {}, no_text);
  ASSERT_TRUE(plan) << plan.error().text();
  const auto at = [&](std::string_view id) {
    EXPECT_GE(plan->find(id), 0) << id;
    return plan->find(id);
  };
  EXPECT_LT(at("db.target"), at("db.mirror"));
  EXPECT_LT(at("web.files-0-back"), at("web.weights-5")) << "uploads to new must already flow back";
  EXPECT_LT(at("web.weights-5"), at("web.weights-100"));
  EXPECT_LT(at("web.weights-100"), at("web.drained"));
  EXPECT_LT(at("db.verify"), at("db.verified"));
  EXPECT_LT(at("db.verified"), at("db.verified-close")) << "and again, young enough, where a day may lie between";
  EXPECT_EQ(at("db.verified-close") + 1, at("db.switch"));
  EXPECT_LT(at("db.switch"), at("stage"));
  EXPECT_LT(at("stage"), at("own"));
  EXPECT_LT(at("own"), at("web.shop-a-home"));
  EXPECT_TRUE(plan->steps[at("db.end")].irreversible);
  EXPECT_EQ(plan->budgets["web"], 300'000);
  for (const auto& step : plan->steps) {
    EXPECT_EQ(step.irreversible, step.phase == "finish" && step.kind == StepKind::effect) << step.id;
    if (!step.irreversible) continue;
    EXPECT_LT(at("old-silent"), at(step.id)) << "old is given up only when nobody talks to it";
  }
}

TEST(PlannerTest, APoolIsReleasedWhereItSaysSoAndNobodyTalksToIt) {
  auto manifest = whole_manifest();
  manifest.subnets[0].gateway = "192.0.2.1";
  manifest.pools = {{"198.51.100.0/28", "new"}};
  EXPECT_EQ(make_plan(manifest, {}, no_text)->find("pool-release"), -1);
  manifest.pools[0].release = true;
  const auto plan = make_plan(manifest, {}, no_text);
  ASSERT_TRUE(plan);
  const int release = plan->find("pool-release");
  const int silent = plan->find("pool-silent");
  ASSERT_TRUE(release >= 0 && silent >= 0);
  EXPECT_EQ(plan->steps[release].desired["addresses"], Json::array({"198.51.100.10"}));
  EXPECT_EQ(plan->steps[release].desired["gateways"], Json::array({"192.0.2.1"}));
  EXPECT_EQ(plan->steps[silent].desired["addresses"], plan->steps[release].desired["addresses"]);
  EXPECT_TRUE(plan->steps[release].irreversible);
  for (int i = 0; i < silent; ++i) EXPECT_FALSE(plan->steps[i].irreversible) << plan->steps[i].id;
}

TEST(PlannerTest, EveryHostIsLeftOldFirstAndTheVantageHostLast) {
  auto manifest = whole_manifest();
  manifest.after_old = "stopped";
  const auto plan = make_plan(manifest, {}, no_text);
  ASSERT_TRUE(plan);
  ASSERT_EQ(plan->leave.size(), manifest.hosts.size());
  EXPECT_EQ(plan->leave.front().host, "old");
  EXPECT_TRUE(plan->leave.front().power_off);
  EXPECT_EQ(plan->leave.back().host, "out");
  for (const auto& leave : plan->leave) EXPECT_EQ(leave.power_off, leave.host == "old") << leave.host;
  for (const auto* after : {"fenced", "kept"}) {
    manifest.after_old = after;
    const auto other = make_plan(manifest, {}, no_text);
    EXPECT_FALSE(other->leave.front().power_off);
    EXPECT_EQ(other->find("web.files-0-seal") >= 0, std::string_view(after) == "fenced");
  }
}

TEST(CheckTest, TheTemporaryHomeLiesInThePool) {
  auto manifest = whole_manifest();
  manifest.pools = {{"198.51.100.0/28", "new"}};
  manifest.services[0].names.clear();
  manifest.services[1].names = {{.name = "shop.example.", .type = "A", .server = "", .zone = "", .via = "", .key_file = "", .old_value = "192.0.2.10", .new_value = "198.51.100.10"}};
  EXPECT_TRUE(check_manifest(manifest).empty());
  manifest.services[1].names[0].new_value = "198.51.100.16";
  const auto found = check_manifest(manifest);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].detail, "198.51.100.16 lies in no pool for new");
  manifest.pools[0].for_host = "edge";
  EXPECT_TRUE(check_manifest(manifest).empty()) << "that is another host's pool";
}

// Their titles change hands one by one: what dies in between would leave one on old and one on new.
TEST(CheckTest, SeveralDatabasesAreNotSwitchedOneByOne) {
  Manifest manifest;
  ServiceSpec shop{.name = "shop", .needs = {}, .probe = {}, .files = {}, .postgres = {}, .traffic = {}, .names = {}};
  shop.postgres = PostgresSpec{.old_side = {"old", 5432}, .new_side = {"new", 5432}, .databases = {"shop"}};
  manifest.services = {shop};
  EXPECT_TRUE(check_manifest(manifest).empty());
  manifest.services[0].postgres->databases.push_back("audit");
  auto found = check_manifest(manifest);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_FALSE(found[0].ok);
  EXPECT_NE(found[0].detail.find("shop, audit"), std::string::npos) << found[0].detail;
  // What a move keeps in a cluster is one block, one record: a second service would write over the first one's fence.
  manifest.services = {shop, shop};
  manifest.services[1].name = "crm";
  manifest.services[1].postgres->old_side.port = 5433;
  found = check_manifest(manifest);
  ASSERT_EQ(found.size(), 2u);
  EXPECT_NE(found[0].detail.find("shop and crm"), std::string::npos) << found[0].detail;
}

// A host that only measures holds up nothing else.
TEST(PlannerTest, AStepInvolvesTheHostsThatItsMoverAsksAndNoOther) {
  const auto plan = make_plan(whole_manifest(), {}, no_text);
  ASSERT_TRUE(plan);
  const auto hosts = [&](std::string_view id) { return plan->steps[plan->find(id)].hosts; };
  using List = std::vector<std::string>;
  EXPECT_EQ(hosts("probe"), List({"out"}));
  EXPECT_EQ(hosts("db.switch"), List({"new", "old"}));
  EXPECT_EQ(hosts("web.files-0"), List({"old", "new"}));
  EXPECT_EQ(hosts("web.files-0-barrier"), List({"old", "new"}));
  EXPECT_EQ(hosts("web.weights-5"), List({"edge"}));
  EXPECT_EQ(hosts("web.shop-a-repoint"), List({"edge"}));
  EXPECT_EQ(hosts("own"), List({"new", "old", "edge"})) << "and the verifier";
  EXPECT_EQ(hosts("db.end"), List({"new", "old"}));
}

// The road goes with every desired state of the databases, and a plan by the logical one says nothing of roads.
TEST(PlannerTest, TheDatabasesGoByTheRoadOfTheManifest) {
  auto manifest = whole_manifest();
  for (const bool seeded : {false, true}) {
    for (auto& service : manifest.services) {
      if (!service.postgres) continue;
      service.postgres->road = seeded ? "seeded" : "logical";
      service.postgres->limit = seeded ? 64 << 20 : 0;
    }
    const auto plan = make_plan(manifest, {}, no_text);
    ASSERT_TRUE(plan);
    int steps = 0;
    for (const auto& step : plan->steps) {
      if (step.mover != "postgres") continue;
      ++steps;
      EXPECT_EQ(step.desired.contains("road"), seeded) << step.id;
      EXPECT_EQ(step.desired.value("limit", 0), seeded ? 64 << 20 : 0) << step.id;
    }
    EXPECT_GT(steps, 5);
  }
}

TEST(PlannerTest, ASubnetWithoutAddressesIsRefused) {
  auto manifest = whole_manifest();
  manifest.subnets[0].addresses.clear();
  EXPECT_FALSE(make_plan(manifest, {}, no_text));
}

// The state in which everything up to `last` is done.
Engine after_effects(std::string_view last) {
  Engine engine;
  EXPECT_TRUE(engine.fold(Engine::plan_record(0, *make_plan(whole_manifest(), {}, no_text))));
  for (const auto& step : engine.state().plan.steps) {
    const Json intent{{"type", "intent"}, {"at", 1}, {"step", step.id}, {"direction", "forward"}, {"attempt", 1}, {"epoch", 1}};
    const Json outcome{{"type", "outcome"}, {"at", 2}, {"step", step.id}, {"direction", "forward"}, {"ok", true}};
    EXPECT_TRUE(engine.fold(intent));
    EXPECT_TRUE(engine.fold(outcome));
    if (step.id == last) break;
  }
  return engine;
}

TEST(WayBackTest, AsksOfEachDoneEffectTheLastFirstAndNotOfTheProbe) {
  const auto engine = after_effects("db.switch");
  const auto questions = undo_questions(engine.state());
  ASSERT_TRUE(questions.contains("new"));
  EXPECT_EQ(questions.at("new")[0]["step"], "db.switch");
  EXPECT_FALSE(questions.contains("out")) << "nothing is lost where the probe's host is away";
  EXPECT_TRUE(questions.contains("edge"));
  for (const auto& [host, steps] : questions) {
    for (const auto& step : steps) EXPECT_NE(step["step"], "own") << "not done";
  }
}

TEST(WayBackTest, TheFirstObstacleOnTheWayBackIsSaid) {
  const auto engine = after_effects("db.switch");
  const auto& state = engine.state();
  const Json open{{"steps", {{"db.switch", {{"possible", true}, {"why", ""}}}}}};
  EXPECT_TRUE(going_back(state, {{"new", open}}).possible);
  const Json traffic{{"steps", {{"web.weights-100", {{"possible", false}, {"why", "a is DOWN"}, {"new_dead", true}}}}}};
  auto told = going_back(state, {{"new", open}, {"edge", traffic}});
  EXPECT_FALSE(told.possible);
  EXPECT_EQ(told.step, "web.weights-100");
  EXPECT_TRUE(told.dead.contains("web"));
  told = going_back(state, {{"edge", traffic}, {"new", retry("link cut")}});
  EXPECT_EQ(told.step, "db.switch") << "it is undone before the weights";
  EXPECT_NE(told.why.find("the agent on new cannot be asked: link cut"), std::string::npos) << told.why;
}

TEST(WayBackTest, IsToldCountedAndReported) {
  auto engine = after_effects("db.switch");
  const auto at = [&](std::int64_t now, GoingBack told) {
    const auto effects = engine.handle(now, std::move(told));
    return effects.records.empty() ? "" : story_line(engine.state(), effects.records[0]);
  };
  EXPECT_NE(at(1000, {}).find("going back: yes"), std::string::npos);
  EXPECT_EQ(at(1100, {}), "");
  EXPECT_NE(at(2000, {false, "db.switch", "the stream back is cut", {}}).find("no, because 'db.switch': the stream"), std::string::npos);
  at(2500, {});
  const auto report = make_report(engine.state(), Json::object());
  EXPECT_EQ(report["going_back"]["possible"], true);
  EXPECT_EQ(report["going_back"]["closed"], 1);
  EXPECT_EQ(report["going_back"]["closed_ms"], 500);
  EXPECT_NE(report_markdown(report).find("not to be possible 1 times, for 500 ms"), std::string::npos);
}

Json logged(std::uint64_t epoch, int number, const std::string& step, const std::string& verb, int ok) {
  Json call{{"epoch", epoch}, {"number", number}, {"step", step}, {"verb", verb}, {"at", 100 + number}};
  if (ok >= 0) call.update({{"ok", ok == 1}, {"ended_at", 200 + number}, {"result", {{"n", number}}}, {"error", to_json(Error{ErrorKind::retry, "x", ""})}});
  return call;
}

// Every prefix of the whole move as the agents have it: what the rebuilt journal folds to.
TEST(RebuildTest, TheLastCallOfAllSaysWhereTheMoveStands) {
  const auto plan = *make_plan(whole_manifest(), {}, no_text);
  std::map<std::string, Json> recalled;
  for (const auto& host : plan.hosts) recalled[host] = {{"plan", Json()}, {"calls", Json::array()}};
  EXPECT_EQ(rebuild_journal(recalled, 5, "j", 0).error().kind, ErrorKind::refused) << "no agent knows the move";
  recalled["new"]["plan"] = Engine::plan_record(0, plan);
  const auto rebuilt = [&] {
    Engine engine;
    const auto records = rebuild_journal(recalled, 5, "j", 1000);
    EXPECT_TRUE(records) << records.error().text();
    for (const auto& record : *records) EXPECT_TRUE(engine.fold(record));
    return engine.state();
  };
  EXPECT_EQ(rebuilt().goal, Goal::idle);
  int number = 0;
  for (std::size_t i = 0; i < plan.steps.size(); ++i) {
    const auto& step = plan.steps[i];
    if (step.kind != StepKind::effect) continue;
    auto& calls = recalled[step.host]["calls"];
    if (++number % 4 != 1 && step.id != "own" && !step.irreversible) {  // a look at each would take seconds
      calls.push_back(logged(2, number, step.id, "apply", 1));
      continue;
    }
    calls.push_back(logged(2, number, step.id, "apply", -1));
    EXPECT_EQ(rebuilt().steps[i].progress, Progress::running) << step.id;
    calls.back() = logged(2, number, step.id, "apply", 1);
    const auto state = rebuilt();
    for (std::size_t k = 0; k < plan.steps.size(); ++k) EXPECT_EQ(state.steps[k].progress, k <= i ? Progress::done : Progress::pending) << plan.steps[k].id;
    EXPECT_EQ(state.past_return(), step.irreversible || (i > 0 && state.goal == Goal::finish)) << step.id;
    EXPECT_EQ(state.epoch, 5u);
    EXPECT_EQ(state.steps[i].result["n"], number);
    if (step.id != "own") continue;
    auto back = recalled;
    back["new"]["calls"].push_back(logged(3, 1, "own", "undo", -1));
    std::swap(back, recalled);
    EXPECT_EQ(rebuilt().steps[i].progress, Progress::undoing);
    EXPECT_EQ(rebuilt().goal, Goal::back);
    std::swap(back, recalled);
  }
  // What was tuned is kept beside the plan; an agent that was away then knows the plan without it.
  auto kept = recalled["new"]["plan"];
  const auto plain = kept;
  EXPECT_FALSE(add_to_kept_plan(kept, {{"type", "epoch"}, {"at", 1}, {"epoch", 1}}));
  EXPECT_TRUE(add_to_kept_plan(kept, {{"type", "tuned"}, {"at", 1}, {"what", "x"}, {"by", "y"}, {"set", {{{"what", "budget"}, {"service", "web"}, {"value", 4711}}}}}));
  EXPECT_NE(kept["hash"], plain["hash"]);
  recalled["old"]["plan"] = kept;
  EXPECT_EQ(get_int_or(rebuilt().plan.budgets, "web", 0), 4711);
  std::swap(recalled["old"]["plan"], recalled["new"]["plan"]);
  EXPECT_EQ(get_int_or(rebuilt().plan.budgets, "web", 0), 4711);
  EXPECT_EQ(rebuilt().hash, plain["hash"]);
  recalled["old"]["calls"] = Json::array();
  EXPECT_NE(rebuild_journal(recalled, 5, "j", 0).error().what.find("no record of it"), std::string::npos);
}

TEST(ReportTest, HasWhatTheSchemaPromises) {
  Engine engine;
  ASSERT_TRUE(engine.fold(Engine::plan_record(0, *make_plan(whole_manifest(), {}, no_text))));
  const Json meter{{"services", {{{"name", "web"}, {"requests", 10}, {"failed", 0}, {"longest_pause_ms", 12}, {"downtime_ms", {{"lower", 0}, {"upper", 0}}}}}},
                   {"addresses", {{{"address", "192.0.2.10"}, {"blackout_ms", {{"lower", 20}, {"upper", 60}}}}}}};
  const auto report = make_report(engine.state(), meter);
  EXPECT_EQ(report["schema"], "midstream.report/1");
  EXPECT_EQ(report["verdict"], "failed");
  EXPECT_EQ(report["services"][0]["budget_ms"], 300'000);
  EXPECT_EQ(report["addresses"][0]["blackout_ms"], 60);
  EXPECT_NE(report_markdown(report).find("| web | 10 | 0 |"), std::string::npos);
}

}  // namespace
}  // namespace midstream
