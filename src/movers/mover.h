// The contract between the agent and the code for one kind of thing that moves.
//
// A mover is level-triggered: it is told a desired state, never an order of deeds. It does not decide, does not
// retry on its own and does not sleep to poll; the engine does all three. Movers never include each other.
#pragma once

#include <filesystem>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>

#include "base/json.h"
#include "base/result.h"
#include "sys/clock.h"
#include "sys/stream.h"

namespace midstream {

// Who asks. Every effect is made in the name of one step of one move under one epoch.
struct Task {
  std::string move;
  std::string step;
  std::uint64_t epoch = 0;
};

// The agents on the other hosts of this move, by the names that the manifest gives the hosts. Thread-safe.
class Peers {
 public:
  virtual ~Peers() = default;
  // Asks the mover `mover` on `host`: its `peer(verb, args)` runs there under the same task. The error of the
  // other side comes back as it is; a broken link is ErrorKind::unknown once the request has left, else retry.
  virtual Result<Json> call(const std::string& host, std::string_view mover, std::string_view verb, const Json& args,
                            const Task& task, Deadline deadline, const std::stop_token& stop) = 0;
  // A stream of its own to the mover `mover` on `host`, whose `serve(stream, hello)` takes the other end.
  virtual Result<std::unique_ptr<Stream>> open(const std::string& host, std::string_view mover, const Json& hello,
                                               const Task& task, Deadline deadline, const std::stop_token& stop) = 0;
  // Brings this agent and the one on `host` to the higher of their two epochs, each ending its commands of earlier ones
  // first. For a dead-man's act alone: a controller that died while it began an epoch leaves agents that refuse each
  // other's calls. Errors as with call; retry where a command does not end in time.
  virtual Result<> level_epochs(const std::string& host, Deadline deadline, const std::stop_token& stop);
};

// What an agent gives a mover with each call. Valid during the call only.
struct Context {
  Task task;
  std::string host;             // our host's name in the manifest
  std::filesystem::path state;  // a directory of this mover's own on this host, 0700, durable; removed at the end
  Peers& peers;
  Deadline deadline;
  std::stop_token stop;  // requested when a newer epoch takes over or the agent ends: return ErrorKind::cancelled
};

// All verbs may be called from any thread, several at once. `desired` is the step's desired state: an object
// whose "kind" picks what is desired and whose other fields that kind documents. Unknown kinds are refused.
class Mover {
 public:
  virtual ~Mover() = default;
  virtual std::string_view name() const = 0;

  // Once, when the agent starts and before any other verb: goes on with what the state directory says was in
  // force (following, leases). After a reboot leases count as expired. `base` has no task and lives as long as
  // the agent; background work keeps a copy and ends when base.stop is requested.
  virtual Result<> start(const Context& base) = 0;

  // What is true now. Changes nothing and reads the world, not memory. The answer has at least
  //   "reached": bool    whether the desired state holds now
  //   "why":     string  where it does not: what is waited for, in words for the operator
  //   "held":    bool    (false where missing) an apply stopped half-way, and users wait until it goes on or is undone:
  //                      then neither pause nor window nor budget keep the engine from going on
  // and the figures that the kind documents (progress, lag, sessions ...).
  virtual Result<Json> observe(const Context& context, const Json& desired) = 0;

  // Makes it so. Idempotent: after success, and after a crash at any point, the same call is harmless and ends
  // in the same state. Returns figures for the report ({} where there are none). Long work (a copy) is begun
  // here, goes on in the background over restarts of the agent, and is seen through observe.
  virtual Result<Json> apply(const Context& context, const Json& desired) = 0;

  // Puts back what apply(desired) changed, also where apply ended half-way. Idempotent. Refused, with the reason,
  // where that is not possible.
  virtual Result<Json> undo(const Context& context, const Json& desired) = 0;

  // Whether undo(desired) would work now, were all undone that was done after it, and lose nothing. Asked again and again
  // while other steps are under way: changes nothing, reads the world, takes no longer than a look does. At least
  //   "possible": bool
  //   "why":      string  where it is not: what is missing, in words for the operator
  //   "new_dead": bool    (false where missing) new serves nobody: going back must not dwell
  // and figures where there are any. Movers whose undo needs nothing but this agent keep the default: yes.
  virtual Result<Json> observe_undo(const Context& context, const Json& desired);

  // Preconditions of `desired`, read-only: a list of {"what": string, "ok": bool, "detail": string, "todo": string}.
  virtual Result<Json> check(const Context& context, const Json& desired) = 0;

  // One line for the plan, in the present tense; pure, runs on the controller.
  virtual std::string describe(const Json& desired) const = 0;

  // Asked by the same mover on another host of this move (Peers::call, Peers::open).
  virtual Result<Json> peer(const Context& context, std::string_view verb, const Json& args);
  virtual Result<> serve(const Context& context, Stream& stream, const Json& hello);
};

// {"reached": reached, "why": why}
Json observation(bool reached, std::string why);
// {"possible": why is empty, "why": why}
Json undo_outlook(std::string why);
// One finding of check().
Json finding(std::string what, bool ok, std::string detail, std::string todo = "");

}  // namespace midstream
