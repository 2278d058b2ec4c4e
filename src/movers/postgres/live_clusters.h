// Two private PostgreSQL clusters, two movers joined in this process, and a client with a ledger: for the
// tests.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "movers/postgres/libpq.h"
#include "movers/postgres/postgres.h"
#include "sys/child.h"

namespace midstream::postgres::test {

// What a test's checkpoint throws to stand for the death of the process.
struct Crash {
  std::string point;
};

// One server in a directory of its own.
class Server {
 public:
  Server(std::filesystem::path directory, std::uint16_t port);
  ~Server() { crash(); }  // returns when none of its processes is left
  bool start();
  bool stop();  // in order, as a supervisor would
  bool running() const { return running_.has_value(); }
  // The server is gone at once, as after a power cut: no checkpoint, nothing said to anybody. start() recovers it.
  void crash();
  // kill -9 of its first process: the others end by themselves as they notice. Returns when none is left.
  void kill();

  // The first value, "ERROR ..." on failure. As the move's own role where `through` a fence.
  std::string sql(const std::string& database, const std::string& text, bool through = false);
  std::string read(const std::string& name) const;               // a file in the data directory
  void write(const std::string& name, const std::string& text);  // as the server's user
  std::string log() const;
  std::uint16_t port() const { return port_; }
  const std::filesystem::path& directory() const { return directory_; }

 private:
  void end(int signal);
  std::filesystem::path directory_;  // sockets here, data in data/
  std::uint16_t port_;
  std::optional<Child> running_;
};

// One side: its mover, its state directory, and the way to ask it.
struct Side {
  std::string host;
  std::filesystem::path state;
  PostgresOptions options;
  std::unique_ptr<Mover> mover;
  std::stop_source stop;
};

class Joined : public Peers {
 public:
  Result<Json> call(const std::string& host, std::string_view mover, std::string_view verb, const Json& args,
                    const Task& task, Deadline deadline, const std::stop_token& stop) override;
  Result<std::unique_ptr<Stream>> open(const std::string& host, std::string_view mover, const Json& hello,
                                       const Task& task, Deadline deadline, const std::stop_token& stop) override;
  std::map<std::string, Side*> sides;
  std::function<Result<Json>(std::string_view verb, const Json& args)> gate;  // where there is one
  std::atomic<bool> cut = false;  // the link between the sides: nothing is asked, and no answer comes back
};

// Both clusters for the whole program, in the world that encloses it (sys/enclosed.h); a move's two sides for one test.
class World {
 public:
  static World& get();
  ~World();
  bool usable() const { return usable_; }

  Server& old_server() { return *old_; }
  Server& new_server() { return *new_; }
  void make_shop();  // database `shop` on old, as a small shop has it
  void drop_shop();  // on both, with its roles
  void restart_agents(bool with_keepers, Millis lease = Millis(10'000));  // new movers over the same state
  void set_wal_floor(std::int64_t bytes);                                 // for the agents that are started next
  void forget();                                                          // state directories emptied

  void use_road(const std::string& road, std::int64_t limit = 0);         // of what is desired from here on
  void restore_new();  // new's own cluster is in its place again, whatever a seed has left
  void restore_old();  // old's cluster is a primary again, whatever a switch has left
  bool crashed();      // the point of crash_at() was reached
  void set_copy_chunk(std::int64_t bytes);                                // the same
  void set_verify_rows(std::int64_t rows);                                // the same

  // From here on (and until it is given none) clients come through a gate, which answers what movers ask of it.
  void use_gate(std::function<Result<Json>(std::string_view verb, const Json& args)> gate) { joined_.gate = std::move(gate); }
  std::filesystem::path state_of(const std::string& host) const { return root_ / ("state-" + host); }

  Json desired(const std::string& kind) const;
  std::string reverse;                  // of what is desired: "sync", or nothing
  std::int64_t commit_latency_ms = 0;   // of what is desired; 0: nothing
  std::string database = "shop";        // the one that is desired
  std::int64_t verified_within_ms = 0;  // what a switch asks for; 0: nothing
  Result<Json> apply(const std::string& kind);
  Result<Json> undo(const std::string& kind);
  Result<Json> observe(const std::string& kind);
  Result<Json> observe_undo(const std::string& kind);
  Result<Json> check(const std::string& kind);
  Result<Json> ask_old(const std::string& verb);  // old's mover, as new's or an operator's program asks it
  bool wait_reached(const std::string& kind, Millis within);  // with the last `why` in `why`
  std::string why;
  void crash_at(const std::string& point);  // "" for never
  // Once, when that point is reached; ahead of the crash there, if there is one.
  void once_at(const std::string& point, std::function<void()> act);
  void forget_acts();
  void cut_agents(bool on) { joined_.cut = on; }
  std::uint64_t epoch = 1;
  Millis patience{30'000};  // of each call

 private:
  World();
  Context context(Side& side);
  Side& runs(const std::string& kind);
  std::filesystem::path root_;
  bool usable_ = false;
  std::unique_ptr<Server> old_;
  std::unique_ptr<Server> new_;
  Side old_side_;
  Side new_side_;
  Joined joined_;
  std::string road_;
  std::int64_t limit_ = 0;
  std::string crash_point_;  // guarded by acts_mutex_
  std::mutex acts_mutex_;
  std::map<std::string, std::function<void()>> acts_;  // guarded: workers of one copy come to the same point
};

// A client that places orders all along at whichever side lets it in, and keeps a ledger.
class Client {
 public:
  explicit Client(World& world);
  ~Client() { end(); }
  void end();
  bool wait_orders(int more, Millis within);  // that many more acknowledged
  // Compares the ledger with `server`: what is wrong, "" if nothing.
  std::string audit(Server& server);
  Millis longest_pause() const { return Millis(longest_ms_.load()); }
  void forget_pause() { longest_ms_ = 0; }
  int acknowledged() const { return static_cast<int>(count_.load()); }

 private:
  void run(const std::stop_token& stop);
  World& world_;
  std::mutex mutex_;
  std::set<std::int64_t> acknowledged_;
  std::set<std::int64_t> unknown_;
  std::atomic<std::int64_t> count_ = 0;
  std::atomic<std::int64_t> longest_ms_ = 0;
  std::jthread thread_;
};

// Commits of local origin on both sides in the order of time: how often the side changed.
int side_changes(World& world);

}  // namespace midstream::postgres::test
