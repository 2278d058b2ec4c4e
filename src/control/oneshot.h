// An agent that looks and changes nothing: sent to the host's /run (a file system in memory), started over ssh,
// gone with its file when the connection ends. `check` and `plan` use it, so that neither leaves a trace.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "control/link.h"
#include "movers/mover.h"

namespace midstream {

class Oneshot {
 public:
  static Result<Oneshot> open(const SshTarget& target, const std::string& move, const std::filesystem::path& agent_binary, Deadline deadline);

  // What the host is: {"memory", "cpus", "disk_free", "wall_ms", "addresses": [..]}, bytes and numeric addresses.
  Result<Json> facts(Deadline deadline);
  // Carries a question that a mover asks its like on another host while it checks; answered by peer() there.
  using Relay = std::function<Result<Json>(const std::string& host, const Json& question)>;
  // Mover::check or Mover::observe there.
  Result<Json> ask(std::string_view mover, std::string_view verb, const Json& desired, Deadline deadline, const Relay& relay);
  // Mover::peer there; `question` is what a relay was given.
  Result<Json> peer(const Json& question, Deadline deadline);
  // The link has broken, or the program at its other end has ended: what was answered since says nothing about the host.
  bool cut() const { return cut_; }

 private:
  Oneshot(Child child, std::unique_ptr<Stream> stream, std::string move)
      : child_(std::move(child)), stream_(std::move(stream)), move_(std::move(move)) {}
  Result<Json> exchange(const Json& request, Deadline deadline, const Relay& relay);
  Result<> send(const Json& message, Deadline deadline);

  Child child_;
  std::unique_ptr<Stream> stream_;
  std::string move_;
  bool cut_ = false;
};

// The host's end: answers on stdin and stdout until they close. Read-only verbs alone.
Result<> serve_oneshot(const std::string& host, const std::vector<std::unique_ptr<Mover>>& movers, const std::stop_token& stop);

}  // namespace midstream
