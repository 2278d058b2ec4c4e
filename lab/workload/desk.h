// The shop's way to its database: a small pool, and patience. A connection that is broken or refused is tried
// again for a while with the same idempotency key, so that a database which changes hosts is a pause to the
// shop's users.
#pragma once

#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "base/result.h"
#include "lab/workload/orders.h"
#include "lab/workload/pq.h"

namespace midstream::lab {

struct DeskOptions {
  std::string conninfo;  // its host is looked up anew for each connection
  std::string placed_by;
  Millis patience{5000};        // from the first try to giving up
  Millis try_limit{2000};       // for one try: connecting, or the whole transaction
  Millis session_limit{30000};  // older connections are not used again
  std::size_t pool = 8;
};

// Thread-safe.
class OrderDesk {
 public:
  explicit OrderDesk(DeskOptions options) : options_(std::move(options)) {}

  // Refused: the order itself is wrong. Any other error: patience ran out; it may or may not be placed.
  Result<Placed> place(const Order& order, const std::stop_token& stop);
  Result<std::optional<StoredOrder>> find(const std::string& key, const std::stop_token& stop);

 private:
  // Runs `work` on a connection until it succeeds, is refused, or patience runs out.
  template <class T>
  Result<T> patiently(const std::function<Result<T>(PgConnection&, Deadline)>& work,
                      const std::stop_token& stop);
  Result<PgConnection> take(Deadline deadline, const std::stop_token& stop);
  void give_back(PgConnection connection);
  // A broken connection tells that the idle ones, made before, are broken too.
  void forget_idle();

  const DeskOptions options_;
  std::mutex mutex_;
  std::vector<PgConnection> idle_;
};

}  // namespace midstream::lab
