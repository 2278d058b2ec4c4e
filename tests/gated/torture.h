// Sessions that use everything which may belong to a session, change it all along, and look all along whether it is still as they
// made it. A client of a gate; what it does not get back is written down.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace midstream {

class TortureSession;

class Torture {
 public:
  // That many sessions of role `client` in database `shop`, on 127.0.0.1:`port`; each has made what belongs to it when this returns.
  Torture(int sessions, int port);
  ~Torture();
  int sessions() const { return static_cast<int>(all_.size()); }
  // Waits until each has looked at all that belongs to it, from now on. False: not within the time.
  bool all_looked(int within_ms);
  // The first has a temporary view, or a cursor WITH HOLD that is NO SCROLL, and keeps it until it is let go.
  void pin(bool with_cursor);
  void let_go();
  // They end, once everything that they were told of has been heard or 10 s are over.
  void end();

  std::int64_t orders() const;  // that they were told are committed
  std::int64_t notifications() const;
  std::int64_t rounds() const;
  std::vector<std::string> wrong() const;  // errors, disconnects, and what was not as it was made

 private:
  std::vector<std::unique_ptr<TortureSession>> all_;
  std::vector<std::jthread> threads_;
};

}  // namespace midstream
