// One database copied by the postgres mover, from nothing on new until it is followed: both agents' movers in this process, the
// servers and the rows' way between them as in a move. Prints one JSON line: seconds, in all and by step. Undoes it all then.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>

#include "movers/postgres/postgres.h"
#include "sys/child.h"
#include "sys/clock.h"

namespace midstream {
namespace {

struct Side {
  std::string host;
  std::filesystem::path state;
  std::unique_ptr<Mover> mover;
};

// The two agents' link: a call to the other is a call here.
class Joined final : public Peers {
 public:
  explicit Joined(std::map<std::string, Side>& sides) : sides_(sides) {}
  Result<Json> call(const std::string& host, std::string_view, std::string_view verb, const Json& args, const Task& task,
                    Deadline deadline, const std::stop_token& stop) override {
    auto& side = sides_.at(host);
    return side.mover->peer(Context{task, host, side.state, *this, deadline, stop}, verb, args);
  }
  Result<std::unique_ptr<Stream>> open(const std::string&, std::string_view, const Json&, const Task&, Deadline,
                                       const std::stop_token&) override {
    return refused("the postgres mover opens no streams");
  }

 private:
  std::map<std::string, Side>& sides_;
};

struct Order {
  std::string old_socket, new_socket, database, agent;
  std::string road = "logical", new_data;
  std::filesystem::path state;
  std::uint16_t old_port = 5501, new_port = 5502;
};

// As a supervisor would, who has it started with what its configuration says.
Result<> run_server(const std::string& data, bool up) {
  const auto pg_ctl = [&](const std::vector<std::string>& words) {
    std::vector<std::string> argv{"setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "/usr/lib/postgresql/15/bin/pg_ctl", "-D", data, "-s"};
    argv.insert(argv.end(), words.begin(), words.end());
    return run_child(argv, "", Deadline::in(Millis(120'000)));
  };
  const bool running = TRY(pg_ctl({"status"})).code == 0;
  if (running == up) return {};
  const auto exit = TRY(up ? pg_ctl({"-w", "-l", data + ".log", "start"}) : pg_ctl({"-w", "-m", "fast", "stop"}));
  return exit.code == 0 ? Result<>() : retry("pg_ctl: " + exit.err);
}

class Copy {
 public:
  explicit Copy(const Order& order) : order_(order) {
    for (const bool old : {true, false}) {
      PostgresOptions options;
      options.socket_dir = old ? order.old_socket : order.new_socket;
      options.holder = {order.agent, "hold-snapshot"};
      if (!old && !order.new_data.empty()) options.server = [data = order.new_data](bool up) { return run_server(data, up); };
      auto& side = sides_[old ? "old" : "new"];
      side.host = old ? "old" : "new";
      side.state = order.state / side.host;
      std::filesystem::create_directories(side.state);
      side.mover = make_postgres_mover(options);
    }
  }

  Result<Json> run() {
    Json seconds;
    const auto since = boot_now();
    const auto timed = [&](const char* what, auto act) -> Result<> {
      const auto begun = boot_now();
      CHECK_OK(act());
      seconds[what] = std::chrono::duration<double>(boot_now() - begun).count();
      return {};
    };
    CHECK_OK(timed("source", [&] { return apply("source"); }));
    CHECK_OK(timed("target", [&] { return apply("target"); }));
    CHECK_OK(timed("follow", [&]() -> Result<> {
      CHECK_OK(apply("follow"));
      return wait_followed();
    }));
    seconds["all"] = std::chrono::duration<double>(boot_now() - since).count();
    return seconds;
  }

  Result<> undo() {
    for (const char* kind : {"follow", "target", "source"}) {
      auto& side = side_of(kind);
      CHECK_OK(side.mover->undo(context(side), desired(kind)));
    }
    return {};
  }

 private:
  Side& side_of(std::string_view kind) { return sides_.at(kind == "source" ? "old" : "new"); }
  Context context(const Side& side) {
    return Context{Task{"bench", "step", 1}, side.host, side.state, joined_, Deadline::in(Millis(600'000)), {}};
  }
  Json desired(std::string_view kind) const {
    const Json old_end{{"host", "old"}, {"address", "127.0.0.1"}, {"port", order_.old_port}};
    const Json new_end{{"host", "new"}, {"address", "127.0.0.1"}, {"port", order_.new_port}};
    return {{"kind", kind}, {"road", order_.road}, {"databases", {order_.database}}, {"old", old_end}, {"new", new_end}, {"until", "caught-up"}, {"deadline_ms", 3000}};
  }
  Result<> apply(const char* kind) {
    auto& side = side_of(kind);
    CHECK_OK(side.mover->apply(context(side), desired(kind)));
    return {};
  }
  Result<> wait_followed() {
    auto& side = side_of("follow");
    std::string told;
    for (const auto deadline = Deadline::in(Millis(1'800'000)); !deadline.expired(); pause_for(Millis(100), {})) {
      const auto seen = TRY(side.mover->observe(context(side), desired("follow")));
      if (get_bool_or(seen, "reached", false)) return {};
      told = get_string_or(seen, "why", "");
    }
    return retry("it is not followed: " + told);
  }

  const Order& order_;
  std::map<std::string, Side> sides_;
  Joined joined_{sides_};
};

Result<> run(const Order& order) {
  Copy copy(order);
  const auto seconds = TRY(copy.run());
  fmt::print("{}\n", seconds.dump());
  std::fflush(stdout);
  return copy.undo();
}

}  // namespace
}  // namespace midstream

int main(int argc, char** argv) {
  midstream::Order order;
  CLI::App app("copies a database as a move does, and says how long it took");
  app.add_option("--old-socket", order.old_socket, "directory of old's socket")->required();
  app.add_option("--old-port", order.old_port)->required();
  app.add_option("--new-socket", order.new_socket, "directory of new's socket")->required();
  app.add_option("--new-port", order.new_port)->required();
  app.add_option("--database", order.database)->required();
  app.add_option("--road", order.road, "logical or seeded");
  app.add_option("--new-data", order.new_data, "seeded: new's data directory; its server is stopped and started by pg_ctl");
  app.add_option("--state", order.state, "what the agents keep")->required();
  app.add_option("--agent", order.agent, "midstream-agent, which holds the snapshot")->required();
  CLI11_PARSE(app, argc, argv);
  if (const auto done = midstream::run(order); !done) {
    fmt::print(stderr, "bench-copy: {}\n", done.error().text());
    return 1;
  }
  return 0;
}
