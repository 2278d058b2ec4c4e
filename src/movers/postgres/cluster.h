// The local cluster: sessions in it, and what is kept about the move on this host.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "movers/mover.h"
#include "movers/postgres/libpq.h"
#include "movers/postgres/plan.h"
#include "movers/postgres/postgres.h"

namespace midstream::postgres {

// Sessions kept open between calls: a switch has no time to log in. Thread-safe.
class Pool {
 public:
  // A session that goes back to the pool when it is let go, if it is still good.
  class Loan {
   public:
    Loan(Pool& pool, std::string key, Session session, std::uint64_t generation)
        : pool_(&pool), key_(std::move(key)), session_(std::move(session)), generation_(generation) {}
    Loan(Loan&&) = default;
    Loan& operator=(Loan&&) = delete;
    ~Loan();
    Session* operator->() { return &*session_; }
    Session& operator*() { return *session_; }

   private:
    Pool* pool_;
    std::string key_;
    std::optional<Session> session_;
    std::uint64_t generation_;
    friend class Pool;
  };
  Result<Loan> get(const Session::Target& target, Deadline deadline, const std::stop_token& stop);
  void drop(const std::string& database);  // close the idle ones in `database`
  void drop_older_than(Millis age);
  void drop_all();  // those on loan too, when they come back

 private:
  struct Idle {
    Session session;
    std::chrono::nanoseconds since;
  };
  void give_back(const std::string& key, Session session, std::uint64_t generation);
  std::uint64_t generation_ = 0;  // how often all were dropped; guarded by mutex_
  std::mutex mutex_;
  std::multimap<std::string, Idle> idle_;  // by "database user"
};

// For what the agent does by itself: it asks nobody.
class NoPeers final : public Peers {
 public:
  Result<Json> call(const std::string& host, std::string_view, std::string_view, const Json&, const Task&, Deadline,
                    const std::stop_token&) override {
    return retry("nobody was given to ask " + host);
  }
  Result<std::unique_ptr<Stream>> open(const std::string& host, std::string_view, const Json&, const Task&, Deadline,
                                       const std::stop_token&) override {
    return retry("nobody was given to ask " + host);
  }
};

// One call's view: who asks, what is desired, the cluster here and the other end. Valid during the call.
struct Work {
  const Context& context;
  const PostgresOptions& options;
  Plan plan;
  bool on_old;
  Pool& pool;
  std::mutex& titles;  // held by whoever changes a title, or a slot that hangs on it, in this cluster
  // The agent's own duty (a lease that ended, a hand-over that arrived): bound to the title, to nobody's epoch.
  bool keeping = false;

  const End& mine() const { return on_old ? plan.old_end : plan.new_end; }
  const End& theirs() const { return on_old ? plan.new_end : plan.old_end; }
  // Name of the stream that leaves, or arrives at, this side.
  std::string outgoing(const std::string& database) const { return plan.stream(database, on_old); }
  std::string incoming(const std::string& database) const { return plan.stream(database, !on_old); }

  // As our own role in `database`; it gets through every fence of ours.
  Result<Pool::Loan> session(const std::string& database) const;
  // As the cluster's superuser in its maintenance database: before our role exists.
  Result<Session> maintenance() const;
  Session::Target target(const std::string& database, const std::string& user) const;
  // One statement in `database` as our role.
  Result<Rows> run(const std::string& database, const std::string& sql, const Params& params = {}) const;
  // The same in the maintenance database as superuser.
  Result<Rows> run_cluster(const std::string& sql, const Params& params = {}) const;
  // Asks the other side's mover.
  Result<Json> ask(std::string_view verb, Json args) const;
  // Asks the gate about `database`, which goes `to` "old" or "new". REQUIRES plan.gate.present().
  Result<Json> ask_gate(std::string_view verb, const std::string& database, std::string_view to, Json args = Json::object()) const;
  void at(std::string_view point) const {
    if (options.checkpoint) options.checkpoint(point);
  }
};

// What this host keeps about a move, in the state directory: durable, 0600, holds passwords.
//   side "old"/"new"; desired; own_password, peer_password (of the replication role on each side);
//   probe_password; made_roles, made_databases (target: what undo may drop); switching (bool)
struct Record {
  static Result<Json> load(const Context& context, const std::string& move);  // {} where there is none
  static Result<> save(const Context& context, const std::string& move, const Json& record);
  static Result<> remove(const Context& context, const std::string& move);
};

Result<Work> make_work(const Context& context, const PostgresOptions& options, Pool& pool, std::mutex& titles,
                       const Json& desired);

// 32 hex digits from the kernel's random source.
Result<std::string> random_secret();

// Waits `span` between two looks at something; the error of whoever ended the wait where it ended.
Result<> wait_a_bit(Millis span, Deadline deadline, const std::stop_token& stop, std::string_view waiting_for);

}  // namespace midstream::postgres
