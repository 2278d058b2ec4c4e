// The seeds that this agent has under way: new's cluster becomes a copy of old's, which then follows by logical replication like
// one that was copied table by table. Begun by `apply`, it goes on in the background, over restarts of the agent too:
//   STATE/MOVE.seed   what is under way and how far; gone when the copy is followed
//
//   stage     what is true
//   backup    a base backup runs into the box, or is to be begun; new's own server serves on, untouched
//   copied    it is whole, and was never started
//   pointed   old has made the slots; the copy recovers, by a server that only we reach, up to their point and becomes writable
//   adopted   it is the non-owner, fenced, proven, shut down, and has new's own configuration
//   swapped   it is in the place of new's data directory, whose cluster is set aside; new's server is started on it
//   undo      new's own cluster is being put back
// A base backup that was cut off is begun again (a new round); everything else goes on where it was.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "movers/postgres/cluster.h"
#include "movers/postgres/seed_note.h"

namespace midstream::postgres {

// As observe tells of it.
struct SeedLook {
  bool under_way = false;
  std::string words;  // for the operator
  std::string lost;   // why it does not go on by itself; "" where it does
  std::int64_t bytes_done = 0;
  std::int64_t bytes_total = 0;
};

// Thread-safe.
class Seeder {
 public:
  explicit Seeder(const PostgresOptions& options) : options_(options) {}

  // Notes that the seed is under way. Refused where the road is closed, or new's cluster is a copy already.
  Result<> begin(const Work& work);
  Result<bool> under_way(const Work& work) const;
  // Goes on with what is noted for this move, once: starts a thread where there is none. Called again and again by the agent's
  // own thread.
  void go_on(const Work& work);
  // New's own cluster is back in its place and serves, and nothing of the copy is left. Refused while new's title says that it
  // would lose something. Idempotent.
  Result<> undo(const Work& work);
  SeedLook look(const Work& work) const;

 private:
  struct Thread {
    SeedFigures figures;
    std::string trouble;  // guarded by Seeder::mutex_
    bool ended = false;   // guarded by Seeder::mutex_
    std::jthread thread;  // last: joined before what it uses goes
  };
  void run(const Json& desired, const std::string& move, const std::string& host, const std::filesystem::path& state, Thread& thread,
           const std::stop_token& stop);
  Result<> try_once(const Context& context, Pool& pool, const Json& desired, SeedFigures& figures);
  Result<> undo_here(const Work& work);
  void end_thread(const std::string& move);

  const PostgresOptions& options_;
  std::mutex titles_;  // nothing here changes a title that anybody else sees
  mutable std::mutex mutex_;
  std::map<std::string, std::unique_ptr<Thread>> threads_;  // by move
  std::set<std::string> undone_;                             // moves whose seed is being undone by a call
};

// The cluster that the local server runs on is a move's copy.
Result<bool> runs_on_copy(const Work& work);
// finish: the copy is an ordinary cluster.
Result<> settle_copy(const Work& work);

}  // namespace midstream::postgres
