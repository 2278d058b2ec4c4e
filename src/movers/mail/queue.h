// The queue of Postfix changes hands: as queue files, each injected exactly once. Who holds it is a title like a user's
// (title.h): the holder sends under the mail address itself, the other side relays through the holder.
//
//   giver: yielding -> nothing delivered or taken, files renamed into a spool beside the queue -> copies sent -> yielded -> spool removed
//   taker: copies fsynced in a directory of this turn -> owner -> renamed into the queue
//
// Until `yielded` the giver has every message and can take all back; after it the taker has them all on disk. A rename is
// the injection, so what is left in the taker's directory has not been injected, and what is gone from it has.
#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "movers/mail/flip.h"
#include "movers/mail/mail.h"
#include "movers/mail/plan.h"
#include "movers/mail/postfix.h"
#include "movers/mail/title.h"
#include "movers/mover.h"

namespace midstream::mail {

class Queue {
 public:
  Queue(const MailOptions& options, std::filesystem::path state)
      : options_(options), state_(std::move(state)), postfix_(options.postfix_conf) {}

  // Verbs, on this host:
  //   queue-install {desired}, queue-uninstall
  //   queue-status -> {"state", "turn", "deferring", "left"}: files of this turn that are not injected yet
  //   queue-rest, queue-release             mail is taken, no delivery is begun, those under way have ended; for a reload of Dovecot
  //   queue-defer, queue-release            4xx to everybody, no delivery is begun; under a lease
  //   queue-give {turn}, queue-take {turn}, queue-after {turn}: the hand-over
  Result<Json> act(const Context& context, std::string_view verb, const Json& args);
  // The taker's end of a stream of queue files.
  Result<> receive(Stream& stream, const Json& hello, const Limits& limits);
  // Leases, and what a crash left half done on this side. `lease` is for SMTP deferred while mail still leaves from here.
  Result<> keep(Millis lease, const Limits& limits);
  // A hand-over stands between the two sides: given away and not known to be taken, or copied here and not known to be
  // given. Then the other side's queue-status says how it goes on, also where whoever ran it is gone.
  Result<bool> between(const Limits& limits);
  Result<> settle(const Json& theirs, const Limits& limits);
  Result<Json> observe(const Context& context, const Plan& plan, const Ask& old_side);

 private:
  struct Record {
    std::string move;
    std::string host;
    Plan plan;
    Title title;
    std::int64_t deferring_ms = 0;  // CLOCK_REALTIME when it began, 0: not
    bool taking = false;            // while deferring: mail is taken nevertheless
  };
  Result<std::optional<Record>> load();
  Result<Record> installed();
  Result<> store(const Record& record);
  Result<Json> install(const Context& context, const Plan& plan);
  Result<> uninstall(const Limits& limits);
  Result<> sweep(const std::filesystem::path& out, const Limits& limits);
  Result<Json> status(const Limits& limits);
  Result<> configure(const Record& record, const Limits& limits);
  Result<> defer(bool taking, const Limits& limits);
  Result<> deliveries_end(const Limits& limits) const;
  Result<> look_again(const Limits& limits);
  Result<> put_relay(const std::string& move, bool there, const Limits& limits);  // in master.cf
  Result<> release(const Limits& limits);
  Result<Json> give(const Context& context, std::uint64_t turn, const Limits& limits);
  Result<> take_back(Record record, const Limits& limits);
  Result<Json> take(std::uint64_t turn, const Limits& limits);
  Result<> after(std::uint64_t turn, const Limits& limits);
  Result<bool> leaves_from_here(const Limits& limits) const;
  Result<std::size_t> inject(std::uint64_t turn, const Limits& limits);
  Result<std::filesystem::path> spool(const std::string& move, const Limits& limits) const;

  const MailOptions& options_;
  const std::filesystem::path state_;
  const Postfix postfix_;
  std::mutex mutex_;     // one act at a time; guards what follows
  bool skipped_ = true;  // the queue manager is new, or may be: what an agent had in hand it has passed over
  std::optional<std::map<int, std::string>> in_hand_;  // those agents, where known
};

// The hand-over, run on new; `back`: from new to old. Returns {"messages", "ms"}.
Result<Json> hand_queue(const std::shared_ptr<Queue>& queue, const Ask& old_side, const Context& context,
                        const Plan& plan, bool back);

}  // namespace midstream::mail
