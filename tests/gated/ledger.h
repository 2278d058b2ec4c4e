// Clients that place orders all along, come again when they lose their connection, and keep a ledger of what they were told.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "movers/postgres/live_clusters.h"

namespace midstream {

class Ledger {
 public:
  // One client for each port: the gate's, or that of a server.
  explicit Ledger(const std::vector<int>& ports);
  ~Ledger() { end(); }
  // Each client of that port is told of that many more commits.
  bool wait_more(int port, int commits, int within_ms);
  void end();
  // What is wrong with what `server` holds, "" if nothing: a confirmed order lost, one there that was refused, a doubled one.
  std::string audit(postgres::test::Server& server) const;
  std::size_t confirmed() const;
  // The longest time without a commit for any client of that port.
  std::int64_t longest_ms(int port) const;

 private:
  struct One {
    int port = 0;
    std::int64_t first = 0;  // key
    std::atomic<std::int64_t> commits = 0, longest_ms = 0;
    std::set<std::int64_t> confirmed, unknown;  // under mutex
    mutable std::mutex mutex;
  };
  static void run(One& one, const std::stop_token& stop);
  std::vector<std::unique_ptr<One>> all_;
  std::vector<std::jthread> threads_;
};

}  // namespace midstream
