// Dovecot on this host, asked through doveadm. Tried with 2.3.19; what was found out is in docs/movers/mail.md.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "sys/child.h"
#include "sys/clock.h"

namespace midstream::mail {

// Each call's limits. Copied freely.
struct Limits {
  Deadline deadline;
  std::stop_token stop;
};

class Dovecot {
 public:
  explicit Dovecot(std::filesystem::path conf) : conf_(std::move(conf)) {}

  const std::filesystem::path& conf() const { return conf_; }
  // The words before the verb: {"doveadm", "-c", CONF}.
  std::vector<std::string> doveadm(std::vector<std::string> words) const;
  // An exit code other than 0 is refused, or retry where doveadm says temporary (75), with its words.
  Result<std::string> run(std::vector<std::string> words, const Limits& limits) const;

  Result<> reload(const Limits& limits) const;
  // One setting as it is in force in the file, within `filter` ("protocol=lmtp") where not empty.
  Result<std::string> setting(const std::string& name, const std::string& filter, const Limits& limits) const;
  Result<std::vector<std::string>> users(const Limits& limits) const;
  Result<std::filesystem::path> home(const std::string& user, const Limits& limits) const;
  // The serial of the map that the running auth process answers from for `user`, 0 where it has no line.
  Result<std::uint64_t> serial(const std::string& user, const Limits& limits) const;
  // Who of `users` has sessions (imap, pop3, sieve) on this side, proxied ones not counted.
  Result<std::map<std::string, std::set<pid_t>>> sessions(const std::vector<std::string>& users,
                                                          const Limits& limits) const;
  Result<> kick(const std::string& user, const Limits& limits) const;
  // LMTP processes between RCPT and the answer to DATA: what was let in and may yet be written. By pid, what it is at.
  Result<std::map<pid_t, std::string>> deliveries(const Limits& limits) const;
  // Of each of `users`, all in a look of doveadm's or two, which cost more than what they look at. Neither is for a user who
  // has not been copied to this host: looking would make an INBOX of another identity.
  // {USER: {"mailbox NAME": guid, uidvalidity, uidnext, how many messages, how many unseen}}
  Result<Json> counters(const std::vector<std::string>& users, const Limits& limits) const;
  // What a client can see of their mail: {USER: {"mailbox NAME": {"identity", "messages": {uid: what it is}},
  // "subscriptions", "sieve NAME"}}; the text of a message is a hash over guid, date and size, and its flags.
  Result<Json> snapshots(const std::vector<std::string>& users, const Limits& limits) const;

 private:
  using Row = std::map<std::string, std::string>;
  // What `words` says of each of `users`, by column; "Username" is whose it is.
  Result<std::vector<Row>> table(const std::vector<std::string>& words, const std::vector<std::string>& users,
                                 const std::vector<std::string>& rest, const Limits& limits) const;
  Result<std::vector<Row>> mailboxes(const std::string& fields, const std::vector<std::string>& users,
                                     const Limits& limits) const;
  Result<> add_scripts(const std::vector<std::string>& users, Json& snapshots, const Limits& limits) const;
  std::filesystem::path conf_;
};

// How two `counters` differ, in words; "" where they do not.
std::string difference(const Json& here, const Json& there);
// The same for a user who is at work: snapshots of the home `before` and `after` a sync, and of the other side in
// between. What did not change at home meanwhile must be `there`, and nothing else may be.
std::string steady_difference(const Json& before, const Json& there, const Json& after);
// Whether an LMTP process's title says that it is in a transaction.
bool is_delivering(std::string_view title);

}  // namespace midstream::mail
