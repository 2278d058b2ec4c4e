// Carries the mail of the users at home on this host to the other one: all of it at first, then whatever changes.
#pragma once

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "movers/mail/side.h"
#include "movers/mover.h"

namespace midstream::mail {

// Sends one user's mail to the other side once. `full`: see send_user.
Result<> sync_user(Side& side, const MailOptions& options, const Context& context, const std::string& user, bool full,
                   const Limits& limits);

class Follower {
 public:
  // `base` lives as long as the agent; background work ends with this object.
  Follower(Side& side, const MailOptions& options, const Context& base);
  ~Follower();

  // {"users", "copied", "pending", "oldest_ms", "failed": {user: why}, "watched": bool}
  Json state() const;

 private:
  struct Entry {
    std::chrono::nanoseconds since;       // first change that is not carried over
    std::chrono::nanoseconds not_before;  // after a failure
    bool running = false;
    bool again = false;  // changed while running
    std::string why;     // of the last failure
  };
  void watch(const std::stop_token& stop);
  void work(const std::stop_token& stop, bool spare);
  void mark(const std::string& user);
  void mark_all();
  void mark_taken();
  void mark_path(const std::string& directory);
  void settle(const std::string& user, const Result<>& done);
  void learn_users(const std::stop_token& stop);

  Side& side_;
  const MailOptions& options_;
  const Context base_;
  mutable std::mutex mutex_;  // guards pending_, homes_, copied_
  std::condition_variable_any wake_;
  std::map<std::string, Entry> pending_;
  std::map<std::string, std::string> homes_;     // home to user
  std::map<std::string, std::uint64_t> copied_;  // by us, at that turn
  std::atomic<bool> watched_ = false;
  std::vector<std::jthread> threads_;  // last
};

}  // namespace midstream::mail
