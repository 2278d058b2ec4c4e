// Users change their home: the order of a flip, the same in both directions. Runs on new and speaks to both sides by verbs.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "movers/mail/side.h"
#include "movers/mover.h"

namespace midstream::mail {

using Ask = std::function<Result<Json>(std::string_view verb, const Json& args)>;

struct Flip {
  std::string giver_host;
  std::string taker_host;
  Ask giver;
  Ask taker;
  std::function<void(std::string_view)> checkpoint;
  std::size_t at_once = 8;  // users that wait at the same time
  Limits limits;
};

// Dovecot's syncs that run on one host at the same time.
constexpr std::size_t kSyncsAtOnce = 3;

// Makes the taker the home of each of `users`; those that have it there already are left. Returns {"users": flipped now,
// "hold_ms": {"p50", "worst"}}: how long deliveries and logins waited, an upper bound. Retry where some could not be
// flipped: those are at home where they were, and the error names them.
Result<Json> flip_users(const Flip& flip, const std::vector<std::string>& users);

// The giver's part, on its own host: hold, drain, the last sync, proof that both sides are equal, yield. Returns
// {"given": [..], "kept": {user: why}, "ms": {"held", "drained", "synced"}}; whoever is not given is at home here again.
Result<Json> give_users(Side& side, const MailOptions& options, const Context& context, const Side::Turns& users,
                        const Limits& limits);

// {user: {"state","turn","copied"}} of a side.
Json titles_of(const Side& side);
Side::Turns turns_from(const Json& users);
Json to_json(const Side::Turns& turns);

// Who is at home where, from both sides' titles: "old", "new", "none" or "both".
std::string home_of(const Json& old_titles, const Json& new_titles, const std::string& user);

}  // namespace midstream::mail
