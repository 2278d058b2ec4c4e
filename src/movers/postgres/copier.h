// The copies that this agent has under way. Begun by `apply`, they go on in the background, over restarts of the agent too:
//   STATE/MOVE-N.copy           what is under way: {"round": n, "why": "..."}; gone when the copy is whole and followed
//   STATE/MOVE-N.snapshot       of the process that holds the snapshot (snapshot_holder.h)
// N is the database's number. Where the snapshot has died (old or new lost power, or nobody touched it for its lease) the
// copy begins again, with round + 1 and the reason, and says so.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "movers/postgres/copy_run.h"

namespace midstream::postgres {

inline constexpr int kCopyWorkers = 4;  // at most; each takes one of new's max_replication_slots for its origin

// One database's copy, as observe tells of it.
struct CopyLook {
  bool under_way = false;
  int round = 1;
  std::string why;      // why it began again; "" in round 1
  std::string trouble;  // what failed last; it is tried again
  std::shared_ptr<const CopyFigures> figures;  // null before its first look at the tables
};
// "45 % of 1.2 GiB, 38 MiB/s, about 20 s left"; pure.
std::string words_of(const CopyFigures& figures, std::int64_t now_ms);

// Thread-safe.
class Copier {
 public:
  explicit Copier(const PostgresOptions& options) : options_(options) {}

  // Empties new's tables, makes the slot and its snapshot, and notes that the copy is under way.
  Result<> begin(const Work& work, const std::string& database);
  // Whether it is noted as under way.
  Result<bool> under_way(const Work& work, const std::string& database) const;
  // Goes on with what is noted for this move, once: starts a thread for each copy that has none. Called again and again
  // by the agent's own thread.
  void go_on(const Work& work);
  // Ends its thread, lets the snapshot go, forgets that it was under way; asks nothing of new's server. Idempotent.
  Result<> stop(const Work& work, const std::string& database);
  // The same, and takes out of new's database what the copy had put there beside the rows.
  Result<> give_up(const Work& work, const std::string& database);
  CopyLook look(const Work& work, const std::string& database) const;

 private:
  struct Thread {
    std::shared_ptr<CopyFigures> figures = std::make_shared<CopyFigures>();
    std::string trouble;       // guarded by Copier::mutex_
    bool ended = false;        // guarded by Copier::mutex_
    std::jthread thread;       // last: joined before what it uses goes
  };
  using Key = std::pair<std::string, std::string>;  // move, database
  void run(const Json& desired, const Key& key, const std::string& host, const std::filesystem::path& state,
           Thread& thread, const std::stop_token& stop);
  Result<> copy_rows(const Work& work, const std::string& database, CopyFigures& figures);
  Result<> copy_to_the_end(const Work& work, const std::string& database, CopyFigures& figures);
  Result<Snapshot> begin_again(const Work& work, const std::string& database, const std::string& why);

  const PostgresOptions& options_;
  Pool pool_;
  std::mutex titles_;  // nothing here changes a title
  mutable std::mutex mutex_;
  std::map<Key, std::unique_ptr<Thread>> threads_;
};

}  // namespace midstream::postgres
