// The switch through the gate with something struck at each of its steps: the gate, a server, the agents killed with -9, or a link cut.
// Afterwards no confirmed commit is lost and none doubled, the sides never commit in turns but by a hand-over, and everybody is served.
//
// Resumes: MIDSTREAM_MATRIX names a file of what has passed, which is passed over (tests/gated/kills); without it, a small choice.
#include <fmt/format.h>
#include <signal.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <fstream>
#include <set>

#include "base/text.h"
#include "gate/gate.h"
#include "sys/child.h"
#include "sys/clock.h"
#include "tests/gated/gated.h"
#include "tests/gated/ledger.h"

namespace midstream {
namespace {

constexpr int kOldPort = 5501, kNewPort = 5502;

// In the order in which a switch comes to them; `often`: where a mistake would cost most.
struct Step {
  const char* name;
  bool often;
};
constexpr std::array<Step, 14> kSteps{{{"switch.prepared", false}, {"give.held", false}, {"give.closing", false}, {"give.fenced", true}, {"give.barrier", false},
                                       {"give.kept", false}, {"give.yielded", true}, {"switch.given", false}, {"take.arrived", false}, {"take.slot", false},
                                       {"take.owner", false}, {"switch.taken", false}, {"switch.over", true}, {"after.reverse", false}}};
// Gives: the side that owns before. Links: between the gate and a server, between the two servers, the two agents, the agents and the gate.
constexpr std::array<const char*, 9> kVictims{"gate", "giver", "taker", "agents", "link gate-giver", "link gate-taker", "link servers", "link agents", "link agents-gate"};

struct Cell {
  std::string victim, step;
  int time = 0;  // which time of this
  std::string name() const { return fmt::format("{} at {}, {}", victim, step, time); }
};

std::vector<Cell> whole() {
  std::vector<Cell> all;
  // Everything once, then everything once more: ended early, it has seen all of it.
  for (int time = 1; time <= 10; ++time)
    for (const auto* victim : kVictims)
      for (const auto& step : kSteps)
        if (time <= (step.often ? 10 : 3)) all.push_back({victim, step.name, time});
  return all;
}

std::vector<Cell> small() {
  // The second on the way back, where the first thing is what was left to do on the way there.
  return {{"gate", "give.yielded", 1}, {"gate", "after.reverse", 1}, {"giver", "give.yielded", 1}, {"giver", "give.fenced", 1}, {"taker", "give.yielded", 1},
          {"link agents", "give.yielded", 1}, {"link gate-taker", "switch.over", 1}};
}

// What has passed, kept in a file if there is one.
class Passed {
 public:
  explicit Passed(const char* path) : path_(path == nullptr ? "" : path) {
    std::ifstream in(path_);
    for (std::string line; std::getline(in, line);) names_.insert(line.substr(0, line.find(" ->")));
  }
  bool has(const Cell& cell) const { return names_.contains(cell.name()); }
  void add(const Cell& cell, const std::string& figures) {
    if (!path_.empty()) std::ofstream(path_, std::ios::app) << cell.name() << " -> " << figures << std::endl;
  }

 private:
  const std::string path_;
  std::set<std::string> names_;
};

class KillMatrix : public Gated {
 protected:
  void SetUp() override {
    Gated::SetUp();
    if (IsSkipped()) return;
    world.use_gate([this](std::string_view verb, const Json& args) -> Result<Json> {
      auto request = args;
      request["verb"] = verb;
      if (gate_cut) return failure(ErrorKind::unknown, "the link is cut");
      auto answer = gate::ask_gate(directory / "gate.sock", request);
      if (gate_cut) return failure(ErrorKind::unknown, "the link is cut");
      return answer;
    });
    // A client whose link is cut does not wait for longer than the test.
    world.restart_agents(true, Millis(6'000));
  }
  void TearDown() override {
    heal();
    Gated::TearDown();
  }
  postgres::test::Server& giver() { return server(on_new); }
  postgres::test::Server& taker() { return server(!on_new); }
  static void nft(const std::string& rules) {
    const auto done = run_child({"nft", "-f", "-"}, rules, Deadline::in(Millis(10'000)));
    EXPECT_TRUE(done && done->code == 0) << (done ? done->err : done.error().text());
  }
  // Nothing that processes of that user send to these ports arrives.
  static void cut(const char* user, const std::string& ports) {
    nft(fmt::format("table inet cut {{\nchain out {{\ntype filter hook output priority 0;\nmeta skuid {} tcp dport {{ {} }} drop\n}}\n}}\n", user, ports));
    cut_ = true;
  }
  void heal() {
    if (std::exchange(cut_, false)) nft("delete table inet cut\n");
    gate_cut = false;
    world.cut_agents(false);
  }
  std::string sessions() const {
    const auto all = gate::ask_gate(directory / "gate.sock", {{"verb", "sessions"}});
    return all ? all->dump() : all.error().text();
  }
  int port_of(bool new_side) const { return new_side ? kNewPort : kOldPort; }

  void strike(const std::string& victim) {
    struck = true;
    if (victim == "gate") {
      ::kill(gate->pid(), SIGKILL);
      EXPECT_TRUE(gate->wait(Deadline::in(Millis(5'000))));
    } else if (victim == "giver") {
      giver().kill();
    } else if (victim == "taker") {
      taker().kill();
    } else if (victim == "link gate-giver") {
      cut("root", std::to_string(port_of(on_new)));
    } else if (victim == "link gate-taker") {
      cut("root", std::to_string(port_of(!on_new)));
    } else if (victim == "link servers") {
      cut("postgres", fmt::format("{}, {}", kOldPort, kNewPort));
    } else if (victim == "link agents") {
      world.cut_agents(true);
    } else if (victim == "link agents-gate") {
      gate_cut = true;
    }
  }
  // What was struck stands again, as whoever watches over it sees to it.
  void raise(const std::string& victim) {
    if (victim == "gate") start_gate();
    if (victim == "giver" || victim == "taker") {
      auto& fallen = victim == "giver" ? giver() : taker();
      ASSERT_TRUE(fallen.start());
    }
    if (victim == "agents") world.restart_agents(true, Millis(6'000));
    heal();
  }
  std::int64_t turn() {
    std::int64_t newest = 0;
    for (const bool side : {false, true}) newest = std::max<std::int64_t>(newest, std::atoll(server(side).sql("shop", "SELECT turn FROM midstream.owner", true).c_str()));
    return newest;
  }
  // Both sides without an order: each cell is judged by itself.
  void clear() {
    const auto done = server(on_new).sql("shop", "DELETE FROM orders");
    ASSERT_EQ(done.find("ERROR"), std::string::npos) << done;
    server(on_new).sql("shop", "UPDATE stock SET sold = 0");
    ASSERT_NO_FATAL_FAILURE(same_on_both());
  }
  void same_on_both() {
    const auto state = [&](bool side) { return server(side).sql("shop", "SELECT count(*) || ' ' || coalesce(sum(key), 0) || ' ' || (SELECT sum(sold) FROM stock) FROM orders", true); };
    for (const auto deadline = Deadline::in(Millis(30'000)); state(false) != state(true); pause_for(Millis(20), {}))
      ASSERT_FALSE(deadline.expired()) << "the sides do not become the same: " << state(false) << " / " << state(true);
  }
  void run(const Cell& cell, std::string& figures) {
    ASSERT_NO_FATAL_FAILURE(clear());
    const auto turn_before = turn();
    Ledger ledger({kGatePort, kGatePort, kGatePort, kOldPort, kNewPort});
    ASSERT_TRUE(ledger.wait_more(kGatePort, 5, 20'000));
    struck = false;
    world.once_at(cell.step, [&] { strike(cell.victim); });
    if (cell.victim == "agents") world.crash_at(cell.step);
    world.patience = Millis(5'000);
    // What still follows after the cell before may postpone it.
    for (const auto deadline = Deadline::in(Millis(30'000)); !struck && !deadline.expired(); pause_for(Millis(20), {})) {
      try {
        (void)(on_new ? world.undo("switch") : world.apply("switch"));
      } catch (const postgres::test::Crash&) {
      }
    }
    world.patience = Millis(30'000);
    world.forget_acts();
    world.crash_at("");
    if (cell.victim.starts_with("link")) pause_for(Millis(1'000), {});
    ASSERT_TRUE(struck) << "the switch did not come to " << cell.step;
    ASSERT_NO_FATAL_FAILURE(raise(cell.victim));
    // Without any command: clients are served, or somebody says that nobody owns.
    const bool served = ledger.wait_more(kGatePort, 1, 15'000);
    const auto seen = world.observe("switch");
    EXPECT_TRUE(served || (seen && seen->value("owner", "") == "none")) << "not all are served: " << (seen ? seen->dump() : seen.error().text()) << sessions();
    Result<Json> done = Json::object();
    switch_over(!on_new, done);
    OK(done);
    on_new = !on_new;
    EXPECT_TRUE(ledger.wait_more(kGatePort, 5, 20'000)) << "not all are served after the switch: " << sessions();
    ledger.end();
    EXPECT_EQ(ledger.audit(server(on_new)), "");
    ASSERT_NO_FATAL_FAILURE(same_on_both());
    EXPECT_EQ(ledger.audit(server(!on_new)), "");
    const auto turns = turn() - turn_before;
    EXPECT_LE(postgres::test::side_changes(world), turns);
    figures = fmt::format("{} confirmed, longest pause {} ms, {} hand-overs{}", ledger.confirmed(), ledger.longest_ms(kGatePort), turns, served ? "" : ", held until told");
  }
  bool on_new = false, struck = false;
  std::atomic<bool> gate_cut = false;
  static inline bool cut_ = false;
};

TEST_F(KillMatrix, NothingIsLostAndNobodyIsLeftOut) {
  const char* path = std::getenv("MIDSTREAM_MATRIX");
  Passed passed(path);
  const char* only = std::getenv("MIDSTREAM_VICTIM");
  const char* at = std::getenv("MIDSTREAM_STEP");
  const auto end = Deadline::in(Millis(1'000L * from_environment("MIDSTREAM_SECONDS", 3'600)));
  ASSERT_NO_FATAL_FAILURE(follow());
  int left = 0, ran = 0;
  for (const auto& cell : path == nullptr ? small() : whole()) {
    if (passed.has(cell) || (only != nullptr && cell.victim != only) || (at != nullptr && cell.step != at)) continue;
    if (end.expired()) {
      ++left;
      continue;
    }
    SCOPED_TRACE(cell.name());
    std::string figures;
    const auto start = boot_now();
    run(cell, figures);
    if (HasFailure()) return;
    passed.add(cell, figures);
    fmt::print("{}: {} (to {}, {} ms)\n", cell.name(), figures, on_new ? "new" : "old", (boot_now() - start).count() / 1'000'000);
    ++ran;
  }
  fmt::print("{} cells passed in this run, {} are left\n", ran, left);
}

}  // namespace
}  // namespace midstream
