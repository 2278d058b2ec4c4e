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
#include "gate/client_login.h"
#include "gate/lane.h"
#include "gate/server_link.h"
#include "gate/shared.h"
#include "gate/traffic.h"

namespace midstream::gate {

class Session {
 public:
  struct Needs {
    Watch watch;                                             // a socket of this session's
    std::function<void(const std::string& user)> verifier;  // answered by verifier_is() or verifier_failed()
  };
  Session(std::uint64_t id, Fd client, std::string address, Shared& shared, Needs needs);
  ~Session();

  enum class Turn { waiting, again, over };
  // Goes on as far as it can; called whenever something may have become possible.
  Turn turn();
  void verifier_is(const std::optional<std::string>& rolpassword);
  void verifier_failed(const std::string& why);
  // On: what the client sends beyond the next boundary of a transaction waits, as long as it is on. turn() after turning off.
  void hold(bool on);
  // While it is on: nothing of this session is under way any more; or it has not begun.
  bool settled() const { return !traffic_ || (traffic_->held() && traffic_->safe()); }
  // Tells the client why, as far as that can still be told, and ends.
  void end(const Fatal& reason);

  std::uint64_t id() const { return id_; }
  // When it must have logged in, 0 once it has: CLOCK_BOOTTIME.
  std::chrono::nanoseconds login_deadline() const { return phase_ == Phase::relay ? std::chrono::nanoseconds(0) : deadline_; }
  Json describe() const;

 private:
  enum class Phase { client, client_tls, verifier, server, relay, cancel, closing, over };
  bool step_client();
  bool read_client();
  bool step_client_tls();
  bool step_server();
  void go_to_server();
  void begin_relay();
  Turn relay();
  bool step_cancel();
  void closing();
  bool flush();
  bool over();

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
  std::optional<Traffic> traffic_;
  Lane to_server_, to_client_;
  bool hold_ = false;
  bool server_told_ = false;  // that the client has ended
};

}  // namespace midstream::gate
