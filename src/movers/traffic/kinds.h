// The kinds of the traffic mover, and their preconditions. Used by traffic.cc alone, which serialises
// effects.
#pragma once

#include <map>
#include <mutex>
#include <string>

#include "movers/mover.h"

namespace midstream::haproxy {

Result<Json> observe_weights(const Context& context, const Json& desired);
Result<Json> apply_weights(const Context& context, const Json& desired);
Result<Json> undo_weights(const Context& context, const Json& desired);

Result<Json> observe_drain(const Context& context, const Json& desired);
Result<Json> apply_drain(const Context& context, const Json& desired);
Result<Json> undo_drain(const Context& context, const Json& desired);

// Kind `silent`: since when the servers have had no session and been given none. In memory: after a restart it is counted
// anew. Thread-safe.
class Silences {
 public:
  Result<Json> observe(const Context& context, const Json& desired);

 private:
  struct Heard {
    std::string instance;
    std::int64_t requests = 0;
    std::int64_t since_ms = 0;  // boot clock
  };
  std::mutex mutex_;
  std::map<std::string, Heard> heard_;  // by backend and server
};
// Whether old's servers could take the traffic back now, and whether new's take any (Mover::observe_undo).
Result<Json> observe_way_back(const Context& context, const Json& desired);

// `weights` tells whether weights are to be changed; a drain asks for less.
Result<Json> check_backend(const Context& context, const Json& desired, bool weights);

}  // namespace midstream::haproxy
