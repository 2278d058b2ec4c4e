#include "lab/workload/desk.h"

#include <algorithm>

#include "sys/log.h"

namespace midstream::lab {

Result<PgConnection> OrderDesk::take(Deadline deadline, const std::stop_token& stop) {
  {
    std::lock_guard lock(mutex_);
    while (!idle_.empty()) {
      PgConnection connection = std::move(idle_.back());
      idle_.pop_back();
      if (boot_now() - connection.opened() < options_.session_limit) return connection;
    }
  }
  return PgConnection::connect(options_.conninfo, {}, deadline, stop);
}

void OrderDesk::give_back(PgConnection connection) {
  std::lock_guard lock(mutex_);
  if (!connection.dead() && idle_.size() < options_.pool) idle_.push_back(std::move(connection));
}

void OrderDesk::forget_idle() {
  std::lock_guard lock(mutex_);
  idle_.clear();
}

template <class T>
Result<T> OrderDesk::patiently(const std::function<Result<T>(PgConnection&, Deadline)>& work,
                               const std::stop_token& stop) {
  const auto deadline = Deadline::in(options_.patience);
  Millis pause(10);
  Result<T> out = retry("the database was not tried");
  while (true) {
    const auto limit = deadline.sooner(options_.try_limit);
    out = [&]() -> Result<T> {
      auto connection = TRY(take(limit, stop));
      auto done = work(connection, limit);
      if (done || done.error().kind == ErrorKind::refused) give_back(std::move(connection));
      return done;
    }();
    if (out || out.error().kind == ErrorKind::refused) return out;
    forget_idle();
    // One line for each failed order would say nothing more than the first.
    if (pause == Millis(10)) log_warn("shop", "database: {}; trying again", out.error().what);
    if (deadline.expired() || !pause_for(std::min(pause, deadline.remaining()), stop)) return out;
    pause = std::min(pause * 2, Millis(80));
  }
}

Result<Placed> OrderDesk::place(const Order& order, const std::stop_token& stop) {
  return patiently<Placed>(
      [&](PgConnection& connection, Deadline deadline) {
        return place_order(connection, order, options_.placed_by, deadline, stop);
      },
      stop);
}

Result<std::optional<StoredOrder>> OrderDesk::find(const std::string& key, const std::stop_token& stop) {
  return patiently<std::optional<StoredOrder>>(
      [&](PgConnection& connection, Deadline deadline) {
        return find_order(connection, key, deadline, stop);
      },
      stop);
}

}  // namespace midstream::lab
