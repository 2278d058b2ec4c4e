// The ears of a host: a thread that hears of every connection that is begun to it and sees which stand.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "movers/end/talk.h"
#include "sys/clock.h"
#include "sys/fd.h"

namespace midstream {

// Hears in the network namespace of the thread that called listen(). Needs CAP_NET_RAW. Thread-safe.
class Ears {
 public:
  static Result<std::unique_ptr<Ears>> listen();
  ~Ears();

  // As Talk::judge, with what was heard up to now.
  Result<Json> judge(const Silence& silence);
  // How long nobody has asked.
  Millis unasked() const;

 private:
  Ears(Fd four, Fd six);
  void run(const std::stop_token& stop);
  void hear(int fd);
  Result<> look(bool closely);
  void look_closely(const std::vector<SocketEntry>& all);

  const Fd four_;  // IPv4 packets
  const Fd six_;
  std::set<std::uint16_t> listening_;  // ports that were ever listened on; the thread's alone
  mutable std::mutex mutex_;           // guards what follows
  Talk talk_;
  std::chrono::nanoseconds asked_at_;
  std::optional<Error> trouble_;  // of the last look
  std::jthread thread_;           // last: it uses the rest
};

}  // namespace midstream
