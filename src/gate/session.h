// One client and its connection to the server: the shell around ClientLogin, ServerLogin and Traffic. Belongs to one worker,
// whose thread alone calls it.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "base/json.h"
#include "gate/changeover.h"
#include "gate/client_login.h"
#include "gate/lane.h"
#include "gate/server_link.h"
#include "gate/shared.h"
#include "gate/tally.h"
#include "gate/traffic.h"

namespace midstream::gate {

class Session {
 public:
  struct Needs {
    Watch watch;                                            // a socket of this session's
    // Of the user, from the server with that place in Shared::servers; answered by verifier_is() or verifier_failed().
    std::function<void(const std::string& user, std::size_t server)> verifier;
    std::function<void(const std::string& database)> begun;  // it is known where the client wants to go
    Tally& tally;                                            // of its worker's; outlives it
  };
  Session(std::uint64_t id, Fd client, std::string address, Shared& shared, Needs needs);
  ~Session();

  // The client's socket, or one of a server, can be read, or has ended; turn() after it.
  void event(bool of_client, bool ended);
  enum class Turn { waiting, again, over };
  // Goes on as far as it can; called whenever something may have become possible.
  Turn turn();
  void verifier_is(const std::optional<std::string>& rolpassword);
  void verifier_failed(const std::string& why);
  // On: what the client sends beyond the next boundary of a transaction waits, as long as it is on; and who has not logged in
  // to a server yet does not begin to. turn() after turning off.
  void hold(bool on);
  // While it is on: nothing of this session is under way any more; or it has not begun.
  bool settled() const;

  // Makes ready to go to that server: what belongs to the session is asked of its own and made again there. Idempotent; where
  // it failed before, it is tried again. turn() after it.
  // `settings`: names of custom settings that the database knows of.
  void prepare(std::size_t server, const std::set<std::string>& settings);
  bool wants_target() const { return wanted_ && !changeover_ && traffic_ && phase_ == Phase::relay && *wanted_ != place_; }
  void start_target();  // REQUIRES wants_target(); turn() after it
  bool logging_in() const { return !traffic_ && phase_ != Phase::over; }
  bool connecting() const { return changeover_ && changeover_->connecting(); }
  bool prepared() const { return changeover_.has_value(); }
  // While it is prepared: how long ago it was last used, where that was after it was asked what belongs to it, and it could be
  // asked again at once; nullopt where there is nothing to ask. As exact as the calls are frequent.
  std::optional<std::chrono::nanoseconds> stale_for(std::chrono::nanoseconds now);
  // Asks it again, before the hold; turn() after it.
  void refresh();
  // In a hold that is to end on the other server: everything must be as it is now. turn() after it.
  void final(bool on);
  // Why it could not go over to that server at once; "" if it could, is there, or has not begun.
  std::string why_not(std::size_t server) const;
  // Only time is in its way, as far as can be seen.
  bool getting_ready() const;
  // The process at its server; nullopt where there is none.
  std::optional<std::uint32_t> server_pid() const;
  // Just before going over: what its server still has to say to it is fetched, and notifications from the other one are the
  // client's from here on. turn() after it; then wait until it is not `fetching()`.
  void last_words();
  bool fetching() const { return changeover_ && changeover_->asking(); }
  // REQUIRES why_not() == "". The other server is its own from here on; or it has ended, where its connection did
  // not live up to it. turn() after it, once the hold is off. The connection that it has left, to be closed.
  TlsSocket go_over();
  // The connection to the other server is not needed any more.
  void give_up_target();

  // Tells the client why, as far as that can still be told, and ends.
  void end(const Fatal& reason, Ending ending = Ending::protocol);
  // It ends for this; what was said of it first counts.
  void ends_by(Ending ending) { ending_ = ending_.value_or(ending); }
  void late();  // to log in: it ends without a word, as with PostgreSQL

  std::uint64_t id() const { return id_; }
  // When it must have logged in, 0 once it has: CLOCK_BOOTTIME.
  std::chrono::nanoseconds login_deadline() const { return phase_ == Phase::relay ? std::chrono::nanoseconds(0) : deadline_; }
  // "" as long as it is not known.
  const std::string& database() const { return login_.database(); }
  // Where it is; nullopt before it is connected to any.
  std::optional<std::size_t> server() const { return server_ && phase_ != Phase::cancel ? std::optional(place_) : std::nullopt; }
  Json describe() const;
  // Counts it among the others, with all that it has done so far.
  void add_to(Totals& totals) const;

 private:
  enum class Phase { client, client_tls, verifier, primary, server, relay, cancel, closing, over };
  bool step_client();
  bool read_client();
  bool step_client_tls();
  bool step_primary();
  bool step_server();
  void go_to_server(std::size_t place);
  ServerLogin::Setting server_login() const;
  void begin_relay();
  Turn relay();
  bool at_rest() const;
  bool step_changeover();
  void apply_hold();
  bool step_cancel();
  void closing();
  bool flush();
  bool over();
  void refused(Refusal why);
  void note_wait();
  void held_from_now(bool on);
  void waits(bool on);
  Doing doing() const;
  Movable movable() const;
  Other other() const;

  const std::uint64_t id_;
  const std::string address_;
  const std::int64_t since_ms_;
  const std::chrono::nanoseconds deadline_;
  Shared& shared_;
  const Needs needs_;
  TlsSocket client_;
  ClientLogin login_;
  Phase phase_ = Phase::client;
  std::string in_, out_;  // from and to the client, outside the lanes
  std::unique_ptr<ServerLink> server_;
  std::optional<CancelKey> key_;
  std::optional<CancelKey> cancels_;  // the session that it is to cancel
  std::optional<Traffic> traffic_;
  Lane to_server_, to_client_;
  std::size_t place_ = 0;  // of its server in Shared::servers
  bool hold_ = false;
  bool server_told_ = false;  // that the client has ended
  std::optional<std::size_t> wanted_;  // the server that it is being prepared for
  bool final_ = false, last_ = false;
  std::set<std::string> also_;
  std::uint64_t used_ = 0;  // its requests, when stale_for() last saw that there were more of them
  std::chrono::nanoseconds used_at_{0};
  std::optional<Changeover> changeover_;
  std::optional<Ending> ending_;
  std::uint64_t moves_ = 0;  // to another server
  Held held_, waited_;
  std::chrono::nanoseconds held_since_{0}, waits_since_{0};  // 0: it is not, does not
  bool came_ = false;  // something that is not read yet, because of the hold
};

}  // namespace midstream::gate
