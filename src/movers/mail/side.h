// What one host knows and does about the users of one move: their titles, the map that Dovecot answers from, and the
// acts of a flip on this side. Everything durable is in the mover's state directory, but for the map, which lies beside
// Dovecot's configuration where its auth process can read it, and is made anew from the titles at every start.
#pragma once

#include <condition_variable>
#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "movers/mail/block.h"
#include "movers/mail/dovecot.h"
#include "movers/mail/mail.h"
#include "movers/mail/plan.h"

namespace midstream::mail {

struct User {
  Title title;
  std::filesystem::path home;
  bool fresh = false;   // no home was here before the move
  bool copied = false;  // this side has, or has had, all of the user's mail
  // Transient; after a restart nothing is held.
  std::int64_t held_until = 0;  // see Standing
  std::optional<std::chrono::nanoseconds>
      waiting;  // since when deliveries and logins wait here: yielding, or about to take
};

class Side {
 public:
  Side(const MailOptions& options, std::filesystem::path state);

  // Reads what is on disk. What was yielding counts as expired: kept, and the map says so.
  Result<> load(const Limits& limits);

  bool installed() const;
  std::string move() const;
  std::string host() const;
  std::optional<Plan> plan() const;  // as given to install
  const Dovecot& dovecot() const { return dovecot_; }

  // Makes this host answer for `users` by title: all are at home here (`owner`), or on the other side. Idempotent; users
  // that are known keep their titles. Refused, with nothing changed, where a user has a mailbox here and is not at home.
  Result<> install(const std::string& move, const std::string& host, const Plan& plan,
                   const std::vector<std::string>& users, bool owner, const Limits& limits);
  // Puts Dovecot's configuration back and forgets the titles. `closed`: Dovecot serves no protocol here any more.
  Result<> uninstall(bool closed, const Limits& limits);
  // More users, as install would have them.
  Result<> add_users(const std::vector<std::string>& users, bool owner, const Limits& limits);

  std::map<std::string, User> users() const;
  Result<User> user(const std::string& name) const;
  Result<> set_copied(const std::string& name);
  // Removes what was copied here of users that had no home before and are not at home now.
  Result<std::size_t> wipe(const Limits& limits);

  // One user's mailboxes are worked on by one of us at a time; retry when out of time.
  class Hold {
   public:
    Hold(Side& side, std::string user) : side_(&side), user_(std::move(user)) {}
    Hold(Hold&& other) noexcept : side_(std::exchange(other.side_, nullptr)), user_(std::move(other.user_)) {}
    Hold& operator=(Hold&&) = delete;
    ~Hold();

   private:
    Side* side_;
    std::string user_;
  };
  Result<Hold> occupy(const std::string& user, Deadline deadline);

  // ---- the acts of a flip; `users` are names, each with the turn it is for. Durable before they are told to Dovecot, in
  // force when they return, unless said otherwise.
  using Turns = std::map<std::string, std::uint64_t>;
  Result<> stand_by(const Turns& users, const Limits& limits);      // not home: nothing is let in, nothing sent back
  Result<> begin_yield(const Turns& users, const Limits& limits);   // home: logins and deliveries wait
  Result<> keep(const Turns& users, const Limits& limits);          // home again
  Result<> finish_yield(const Turns& users, const Limits& limits);  // sent to the other side (told, not waited for)
  Result<> take(const Turns& users, const Limits& limits);          // home
  Result<> send_back(const std::vector<std::string>& users, const Limits& limits);  // end of stand_by without taking
  // Ends the sessions of users who wait, and waits for them and for every delivery that was let in before. Retry, naming
  // who is in the way, at the deadline.
  Result<> drain(const std::vector<std::string>& users, const Limits& limits);
  // Nobody is at work in the users' mailboxes: retry, naming who.
  Result<> quiet(const std::vector<std::string>& users, const Limits& limits);

  // Users that have waited for longer than the lease: yielding ones, or those about to be taken.
  Turns overdue(bool yielding, Millis lease) const;

 private:
  Result<std::set<pid_t>> kick_all(const std::vector<std::string>& users, const Limits& limits);  // those told to end
  using Change = Result<Title> (*)(const Title&, std::uint64_t);
  Result<> change(const Turns& users, Change act);
  Result<> store(const std::string& name, const User& user) const;
  std::filesystem::path record_of(const std::string& name) const;
  std::filesystem::path map_path() const;
  // Writes the map from the titles; returns its serial.
  Result<std::uint64_t> write_map(const Limits& limits);
  Result<> in_force(std::uint64_t serial, const std::string& user, const Limits& limits);
  Result<> tell(const std::string& user, const Limits& limits);  // write_map, then in_force
  Result<> put_blocks(const Limits& limits);
  Result<> take_blocks(bool closed, const Limits& limits);
  Result<std::map<std::string, User>> new_users(const std::vector<std::string>& names, bool owner,
                                                const Limits& limits) const;

  const MailOptions& options_;
  const std::filesystem::path state_;
  const Dovecot dovecot_;
  std::mutex writing_;        // one map at a time; taken before mutex_
  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable freed_;
  std::map<std::string, User> users_;
  std::set<std::string> occupied_;
  std::string move_;
  std::string host_;
  std::optional<Plan> plan_;
  bool cached_auth_ = false;
  std::uint64_t serial_ = 0;
};

}  // namespace midstream::mail
