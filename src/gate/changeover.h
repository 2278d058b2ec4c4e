// The way of one session from its server to another: what belongs to it is asked of its server at a moment of rest and made
// again on a connection to the other, all while the session is used; and in the end that connection takes the place of the
// first. Belongs to its session.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "gate/belongings.h"
#include "gate/server_link.h"
#include "gate/temporary.h"
#include "gate/traffic.h"

namespace midstream::gate {

class Changeover {
 public:
  // `to` outlives it; `place`: where it is in Shared::servers. `login`: with what to log in there as the client.
  Changeover(const Server& to, std::size_t place, ServerLogin::Setting login, Watch watch, TemporaryLimits limits);

  std::size_t place() const { return place_; }
  // Goes on with the connection to the other server as far as it can. `settled`: the session is held and at rest, so that its
  // locks may be taken.
  void step_target(bool settled);
  // Is still on its way to the other server: not many sessions do that at once.
  bool connecting() const { return link_.state() != ServerLink::State::ready && link_.state() != ServerLink::State::failed; }
  bool failed() const { return !trouble_.empty(); }

  // The session is to be at rest for a moment, so that it can be asked.
  bool wants_rest(const Traffic& traffic) const;
  // It is to be asked again before the hold, for it has been used since: the hold is shorter by every session that need not be.
  void refresh() { again_ = true; }
  bool fresh(const Traffic& traffic) const { return known_ && known_at_ == traffic.changes(); }
  // Asks on the session's own connection. REQUIRES a session at rest. From here until step_own() has answered nobody else may
  // read from that connection.
  // `also`: names of custom settings beside those that the traffic has shown. `undisturbed`: nobody can cancel it meanwhile, as far as
  // the gate can see to that; else cursors are not touched.
  void ask(const Traffic& traffic, std::string_view user, const std::set<std::string>& also, bool undisturbed);
  // It costs more to ask than with other sessions: it has tables or cursors that are copied.
  bool heavy() const { return known_ && (known_->temporary_tables || !known_->cursors.empty()); }
  bool asking() const { return own_.has_value(); }
  bool draining() const { return draining_; }
  enum class Own { waiting, answered, broken };
  // `rest`: whole messages for the client that came meanwhile; `behind`: bytes that came behind the answer. broken: the
  // connection is of no more use; `rest` is what the client is told.
  Own step_own(TlsSocket& own, const Traffic& traffic, std::string& rest, std::string& behind);

  // In the hold: from here on what is known must be of now, and the session's locks are taken too. Off: they are given back.
  void final(bool on);
  // Why it could not go over now: "" if everything that belongs to the session is there, and it has not been used since; and
  // why it never will ("" if it can).
  std::string why_not(const Traffic& traffic) const;
  std::string pinned() const { return known_ ? known_->pinned : ""; }
  const std::optional<Known>& known() const { return known_; }

  // From here on notifications that come from the other server are the client's.
  void keep_notifications() { (void)heard_.take_for_client(), keep_ = true; }
  // Asks the session's own connection for nothing, so that everything the server had to say to it has come (`ask` before it).
  void drain();
  // REQUIRES why_not() == "". The other connection; what it said that is the client's; the settings that it reported.
  struct Taken {
    TlsSocket socket;
    std::string for_client;  // whole messages
    std::string bytes;       // behind them, perhaps a part of one
    std::map<std::string, std::string> parameters;
    CancelKey key;
  };
  Taken take();

 private:
  void make(bool settled);
  bool talk(bool settled);
  void answered();
  void compared(bool begin);
  bool ask_more(const Traffic& traffic);
  void learned(const Traffic& traffic);
  enum class Doing { nothing, making, comparing, warming, locking, unlocking };
  const std::size_t place_;
  const std::string label_;
  ServerLink link_;
  // On the other connection.
  Exchange heard_{"", 0};
  Doing doing_ = Doing::nothing;
  std::string in_;
  std::optional<Belongings> made_;
  std::optional<TemporaryReader> copy_;  // reads what was made there
  bool tables_there_ = false;            // those of made_, and they have been compared
  bool tables_kept_ = false;             // and only their rows were made last
  bool keep_ = false, final_ = false, locked_ = false, warm_ = false;
  std::string trouble_;
  // On the session's own.
  std::optional<Exchange> own_;
  std::string own_in_;
  const TemporaryLimits limits_;
  std::optional<TemporaryReader> reader_;
  std::optional<Known> learning_;  // while reader_ reads
  bool undisturbed_ = false;
  std::optional<Known> known_;
  int cancelled_ = 0;  // questions in a row
  std::uint64_t known_at_ = 0;  // the session's requests when it was asked
  bool draining_ = false;
  bool again_ = false;           // asked before the hold, though it is known
  bool question_there_ = false;  // prepared in the session
  bool temporary_question_there_ = false;
  std::uint64_t resets_ = 0;     // of the session's statements, when it was
};

}  // namespace midstream::gate
