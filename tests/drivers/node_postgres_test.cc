// node-postgres through the shipping gate, which the shipping mover switches between two real PostgreSQL 15 every second: nothing
// fails that was not asked for, and what the driver was told is what the database holds. By tests/drivers/run.
#include <fmt/format.h>
#include <signal.h>

#include "tests/gated/gated.h"
#include "sys/clock.h"
#include "sys/file.h"

namespace midstream {
namespace {

class Drivers : public Gated {
 protected:
  void start(int copies) {
    const char* modules = std::getenv("MIDSTREAM_NODE_MODULES");
    ASSERT_NE(modules, nullptr) << "tests/drivers/run installs node-postgres and says where";
    const auto command = fmt::format("exec env NODE_PATH={} node {}/node_postgres.js {} {} > {d}/out 2> {d}/err", modules, MIDSTREAM_DRIVERS, kGatePort, copies,
                                     fmt::arg("d", directory.string()));
    auto child = Child::start({"setpriv", "--pdeathsig", "KILL", "sh", "-c", command});
    ASSERT_TRUE(child);
    node.emplace(std::move(*child));
  }
  // Its report, once it has ended of itself.
  Json ended() {
    ::kill(node->pid(), SIGTERM);
    EXPECT_TRUE(node->wait(Deadline::in(Millis(60'000))));
    const auto out = read_file(directory / "out", 8u << 20).value_or("");
    const auto report = parse_json(out);
    EXPECT_TRUE(report) << out << read_file(directory / "err").value_or("");
    return report ? *report : Json::object();
  }
  std::optional<Child> node;
};

TEST_F(Drivers, NodePostgresNoticesNothing) {
  const int seconds = from_environment("MIDSTREAM_SECONDS", 60), every_ms = from_environment("MIDSTREAM_EVERY_MS", 1'000);
  ASSERT_NO_FATAL_FAILURE(follow());
  ASSERT_NO_FATAL_FAILURE(start(from_environment("MIDSTREAM_COPIES", 2)));
  ASSERT_NO_FATAL_FAILURE(wait_orders(false, 100));
  int switches = 0, postponed = 0, moved = 0;
  for (const auto end = Deadline::in(Millis(1'000L * seconds)); !end.expired();) {
    const auto next = Deadline::in(Millis(every_ms));
    Result<Json> done = Json::object();
    postponed += switch_over(switches % 2 == 0, done);
    OK(done);
    const auto& gated = (*done)["databases"]["shop"]["gate"];
    moved += gated.value("moved", 0);
    EXPECT_TRUE(gated.value("ended", Json::array()).empty()) << gated.dump();
    ++switches;
    pause_for(next.remaining(), {});
  }
  const auto report = ended();
  for (const auto& one : report.value("unexpected", Json::array())) ADD_FAILURE() << one.get<std::string>();
  for (const auto& [kind, rounds] : report["rounds"].items()) EXPECT_GT(rounds.get<int>(), 0) << kind;
  const auto held = parse_json(server(switches % 2 == 1).sql("shop",
                                                             "SELECT jsonb_object_agg(worker, n) FROM (SELECT key / 1000000000 AS worker, count(*) AS n FROM orders GROUP BY 1) AS each"));
  ASSERT_TRUE(held);
  EXPECT_EQ(*held, report["rows"]);
  fmt::print("{} switches in {} s, {} postponed, {} sessions moved; rounds {}, errors asked for {}, rows {}\n", switches, seconds, postponed, moved, report["rounds"].dump(),
             report["expected"].dump(), report["rows"].dump());
}

}  // namespace
}  // namespace midstream
