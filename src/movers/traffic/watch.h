// What the guard is told: how the requests of old's and of new's servers end, and how long they take.
//
// Users' own requests are counted by HAProxy; beside them every server gets probe traffic straight from here, so that new
// is seen before it serves anybody, and old after it serves nobody. Latency is the probes' alone: HAProxy keeps means only.
#pragma once

#include <memory>
#include <mutex>

#include "base/histogram.h"
#include "movers/mover.h"
#include "movers/traffic/haproxy.h"

namespace midstream::haproxy {

// Requests of one side, since the watching began.
struct Tally {
  std::uint64_t requests = 0;
  std::uint64_t failed = 0;  // answered with 5xx, or not answered
  Histogram latency;
  Json to_json() const;
};

// Adds up counters that begin anew whenever HAProxy is started or reloaded.
class CounterSum {
 public:
  // `instance` tells one HAProxy process from another. What the first reading brings is from before the watching.
  void read(const std::string& instance, const std::string& server, std::uint64_t requests, std::uint64_t failed);
  std::uint64_t requests() const { return requests_; }
  std::uint64_t failed() const { return failed_; }

 private:
  struct Last {
    std::string instance;
    std::uint64_t requests = 0;
    std::uint64_t failed = 0;
  };
  std::map<std::string, Last> last_;
  std::uint64_t requests_ = 0;
  std::uint64_t failed_ = 0;
};

// Every watch of one mover, by backend. Thread-safe. A watch begins when it is first observed and ends, with its probe
// traffic, when nobody has observed it for `forgotten`: there is nothing to undo and nothing that outlives the controller.
class Watches {
 public:
  explicit Watches(Millis forgotten = Millis(30'000));
  ~Watches();
  // Kind `watch` of docs/formats/desired.md.
  Result<Json> observe(const Context& context, const Json& desired);

 private:
  class Watch;
  const Millis forgotten_;
  std::mutex mutex_;
  std::map<std::string, std::shared_ptr<Watch>> watches_;
};

}  // namespace midstream::haproxy
