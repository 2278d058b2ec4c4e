// Are both sides the same? Compared while clients write, in the background of new's agent, part by part: the owner walks each
// table's key, both sides digest the same range at once, and what differs is looked at again, row by row, after the stream has
// passed. Kept on disk, so that an agent that died goes on:
//   STATE/MOVE-N.verify   how far it is, and how the last one ended (compare.h, Progress); N is the database's number
// A verify that found nothing is worth something for a while only: it is done again by itself at half of its age, as long as
// old owns. Nothing is compared while a database is handed over.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "movers/postgres/cluster.h"
#include "movers/postgres/compare.h"
#include "movers/postgres/manners.h"

namespace midstream::postgres {

// Figures of a comparison under way. Thread-safe.
struct VerifyFigures {
  std::atomic<int> tables = 0;
  std::atomic<int> tables_done = 0;
  std::atomic<std::int64_t> rows_total = 0;  // an estimate
  std::atomic<std::int64_t> rows_done = 0;
  std::atomic<std::int64_t> rows_now = 0;  // of them in this agent's life
  std::atomic<std::int64_t> looked_again = 0;
  std::atomic<std::int64_t> began_ms = 0;  // boot clock, this agent's life
  MannersFigures manners;
};
// "45 % of 10000000 rows in 12 tables, 900000 rows/s, about 7 s left; 3 rows looked at again"; pure.
std::string words_of(const VerifyFigures& figures, std::int64_t now_ms);

// Thread-safe.
class Verifier {
 public:
  explicit Verifier(const PostgresOptions& options) : options_(options) {}

  // How the other side is asked from the background; lives as long as this. Before the first begin.
  void use(Peers& peers) { peers_ = &peers; }

  // Kind `verify`, on new. Begins where no clean verdict is young enough, or goes on.
  Result<Json> begin(const Work& work);
  // Reached while every database's last verdict is clean and young enough. Refused, naming tables and keys, where both
  // sides differ.
  Result<Json> observe(const Work& work);
  // Goes on with what is noted for this move; called again and again by the agent's own thread.
  void go_on(const Work& work);
  // Ends it and forgets its verdicts.
  Result<> forget(const Work& work);
  // Retry where a database has no clean verdict that began within `age_ms`.
  Result<> recently_clean(const Work& work, std::int64_t age_ms) const;

  // While it lives nothing is compared.
  class Pause {
   public:
    explicit Pause(Verifier& verifier) : verifier_(&verifier) {}
    Pause(Pause&& other) noexcept : verifier_(std::exchange(other.verifier_, nullptr)) {}
    Pause& operator=(Pause&&) = delete;
    ~Pause();

   private:
    Verifier* verifier_;
  };
  // Waits until what is being asked is answered; retry at the deadline.
  Result<Pause> pause(Deadline deadline, const std::stop_token& stop);

 private:
  friend class Comparison;
  struct Thread {
    std::map<std::string, VerifyFigures> figures;  // by database; filled before the thread begins
    std::map<std::string, std::string> trouble;    // guarded by Verifier::mutex_
    std::jthread thread;                           // last: joined before what it uses goes
  };
  void run(const Json& desired, const Task& task, const std::string& host, const std::filesystem::path& state, Thread& thread,
           const std::stop_token& stop);
  // One request to either side, unless paused. 0 for the first of a comparison; else the generation it began in.
  bool enter(std::uint64_t generation);
  void leave();
  std::uint64_t generation() const;

  const PostgresOptions& options_;
  Peers* peers_ = nullptr;
  Pool pool_;
  std::mutex titles_;  // nothing here changes a title
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  int paused_ = 0;
  int asking_ = 0;
  std::uint64_t generation_ = 0;  // how often it was paused
  std::map<std::string, std::unique_ptr<Thread>> threads_;  // by move
};

}  // namespace midstream::postgres
