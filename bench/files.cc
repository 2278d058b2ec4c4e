// Drives two agents that run on two hosts as a controller does, over their sockets, for the rows files-*: a follow from old to
// new, its observation, its barrier, its undo. And makes the trees.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <random>

#include "base/json.h"
#include "sys/clock.h"
#include "sys/net.h"
#include "sys/stream.h"

namespace midstream {
namespace {

constexpr Millis kLimit{1'800'000};

struct Order {
  std::string old_socket, new_socket, path = "/srv", until = "copied";
  std::filesystem::path tree;
  std::uint64_t count = 1000, size = 4096, folder = 100;
};

// A connection to one agent.
class Link {
 public:
  static Result<Link> open(const std::string& socket) {
    Link link;
const auto deadline = Deadline::in(Millis(10'000));
    auto connected = connect_unix(socket, deadline);
    while (!connected && !deadline.expired()) {  // an agent that has just been started
      pause_for(Millis(20), {});
      connected = connect_unix(socket, deadline);
    }
    link.stream_ = make_fd_stream(TRY(std::move(connected)));
    link.hello_ = TRY(link.ask({{"type", "hello"}, {"version", 1}, {"move", "bench"}}));
    return link;
  }
  const Json& hello() const { return hello_; }
  Result<Json> ask(Json request) {
    request["id"] = ++number_;
    CHECK_OK(write_message(*stream_, request, Deadline::in(kLimit), {}));
    const auto reply = TRY(read_message(*stream_, Deadline::in(kLimit), {}));
    if (get_bool_or(reply, "ok", false)) return reply.value("result", Json::object());
    return std::unexpected(error_from_json(reply.value("error", Json::object())));
  }
  Result<Json> call(std::int64_t epoch, const char* verb, const Json& desired) {
    return ask({{"type", "call"},
                {"move", "bench"},
                {"step", "tree"},
                {"epoch", epoch},
                {"mover", "files"},
                {"verb", verb},
                {"desired", desired},
                {"deadline_ms", kLimit.count()}});
  }

 private:
  std::unique_ptr<Stream> stream_;
  Json hello_;
  std::uint64_t number_ = 0;
};

class Driver {
 public:
  static Result<Driver> open(const Order& order) {
    Driver driver(order);
    driver.old_ = TRY(Link::open(order.old_socket));
    driver.new_ = TRY(Link::open(order.new_socket));
    driver.epoch_ = TRY(get_int(driver.old_.hello(), "epoch"));
    Json peers;
    for (const auto* link : {&driver.old_, &driver.new_}) {
      const auto& hello = link->hello();
      peers[hello["host"].get<std::string>()] = {
          {"address", hello["address"]}, {"port", hello["port"]}, {"fingerprint", hello["fingerprint"]}};
    }
    if (driver.epoch_ > 0 && driver.new_.hello()["epoch"] == driver.epoch_) return driver;
    ++driver.epoch_;
    for (auto* link : {&driver.old_, &driver.new_}) {
      TRY(link->ask({{"type", "adopt"},
                     {"epoch", driver.epoch_},
                     {"peers", peers},
                     {"journal", "bench"},
                     {"deadline_ms", 30'000}}));
    }
    return driver;
  }

  // From nothing on new until the observation says that it is there.
  Result<Json> copy() {
    const auto began = boot_now();
    TRY(old_.call(epoch_, "apply", desired("follow")));
    auto seen = TRY(reach());
    seen["seconds"] = std::chrono::duration<double>(boot_now() - began).count();
    return seen;
  }
  Result<Json> reach() {
    std::string told;
    for (const auto deadline = Deadline::in(kLimit); !deadline.expired(); pause_for(Millis(10), {})) {
      auto seen = TRY(old_.call(epoch_, "observe", desired("follow")));
      if (get_bool_or(seen, "reached", false)) return seen;
      told = get_string_or(seen, "why", "");
    }
    return retry("it is not copied: " + told);
  }
  Result<Json> act(const char* verb, const char* kind) { return old_.call(epoch_, verb, desired(kind)); }

 private:
  explicit Driver(const Order& order) : order_(order) {}
  Json desired(const char* kind) const {
    return {{"kind", kind},          {"id", "tree"}, {"path", order_.path}, {"to", "new"}, {"except", Json::array()},
            {"until", order_.until}, {"first", true}};
  }

  const Order& order_;
  Link old_, new_;
  std::int64_t epoch_ = 0;
};

Result<> write_one(const std::filesystem::path& path, std::uint64_t size, std::mt19937_64& random) {
  const Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!fd) return errno_failure("cannot make " + path.string(), errno);
  std::vector<std::uint64_t> block(std::min<std::uint64_t>(size, 1u << 20) / 8);
  for (std::uint64_t done = 0; done < size; done += block.size() * 8) {
    for (auto& word : block) word = random();
    const auto want = block.size() * 8;
    if (::write(fd.get(), block.data(), want) != static_cast<ssize_t>(want))
      return errno_failure("cannot write " + path.string(), errno);
  }
  return {};
}

// `count` files of `size` bytes (a multiple of 8) that no compression makes smaller, `folder` of them in each directory.
Result<> make(const Order& order) {
  std::mt19937_64 random(7);
  for (std::uint64_t i = 0; i < order.count; ++i) {
    const auto folder = order.tree / fmt::format("d{:05}", i / order.folder);
    if (i % order.folder == 0) std::filesystem::create_directory(folder);
    CHECK_OK(write_one(folder / fmt::format("file-{:06}", i), order.size, random));
  }
  return {};
}

Result<> print(const Result<Json>& answer) {
  if (!answer) return std::unexpected(answer.error());
  fmt::print("{}\n", answer->dump());
  return {};
}

}  // namespace
}  // namespace midstream

int main(int argc, char** argv) {
  using namespace midstream;
  Order order;
  CLI::App app("drives the follow of a tree between two agents");
  app.require_subcommand(1);
  auto* make_tree = app.add_subcommand("make", "make a tree");
  make_tree->add_option("tree", order.tree)->required();
  make_tree->add_option("--count", order.count);
  make_tree->add_option("--size", order.size);
  make_tree->add_option("--folder", order.folder, "files in one directory");
  std::map<std::string, CLI::App*> acts;
  for (const char* name : {"copy", "observe", "reach", "barrier", "verify", "undo"}) {
    auto* act = acts[name] = app.add_subcommand(name);
    act->add_option("--old", order.old_socket)->required();
    act->add_option("--new", order.new_socket)->required();
    act->add_option("--path", order.path);
    act->add_option("--until", order.until, "copied or caught-up");
  }
  CLI11_PARSE(app, argc, argv);
  const auto done = [&]() -> Result<> {
    if (*make_tree) return make(order);
    auto driver = TRY(Driver::open(order));
    if (*acts["copy"]) return print(driver.copy());
    if (*acts["reach"]) return print(driver.reach());
    if (*acts["observe"]) return print(driver.act("observe", "follow"));
    if (*acts["undo"]) return print(driver.act("undo", "follow"));
    return print(driver.act("apply", *acts["barrier"] ? "barrier" : "verify"));
  }();
  if (done) return 0;
  fmt::print(stderr, "bench-files: {}\n", done.error().text());
  return 1;
}
