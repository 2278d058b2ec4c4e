// The agent: a daemon on one host of one move. It alone makes effects there, in the name of the highest epoch that
// it has seen, and outlives the controller's connection. Wire format: docs/formats/link.md.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "control/call_log.h"
#include "control/commands.h"
#include "control/peers.h"
#include "movers/mover.h"
#include "sys/fd.h"
#include "sys/tls.h"

namespace midstream {

struct AgentConfig {
  std::string move;
  std::string host;                // our name in the manifest
  std::string data_address;        // numeric, where the other agents reach us
  std::filesystem::path state;     // durable, 0700
  std::filesystem::path socket;    // where `connect` finds us
};

class Agent {
 public:
  // Takes the state directory's lock, loads or makes the identity, binds both listeners, starts the movers.
  // Refused if another agent of the move runs on this host.
  static Result<std::unique_ptr<Agent>> open(AgentConfig config, std::vector<std::unique_ptr<Mover>> movers);
  ~Agent();

  // Serves until stopped.
  Result<> serve(const std::stop_token& stop);

 private:
  struct Link;  // one controller connection

  Agent(AgentConfig config, std::vector<std::unique_ptr<Mover>> movers, Fd lock, TlsIdentity identity, Json saved);
  Result<> bind();
  Result<> persist(std::uint64_t epoch);
  Mover* mover(std::string_view name);
  Context context(const Task& task, std::string_view mover, Deadline deadline, std::stop_token stop);
  Result<> start_movers();

  void serve_link(std::shared_ptr<Link> link, const std::stop_token& stop);
  Result<Json> answer(const Json& request);
  Result<Json> adopt(const Json& request);
  Result<Json> keep_plan(const Json& request);
  Result<Json> recall();
  Result<Json> make_effect(Mover& mover, const Json& request, const Context& asked, const Json& desired);
  Result<Json> run_call(const Json& request);
  Result<Json> observe_undos(const Json& request);
  void serve_peer(Fd socket, const std::stop_token& stop);
  Result<Json> peer_call(const Json& request);
  Result<std::uint64_t> raise(std::uint64_t epoch, Deadline deadline);
  void spawn(std::function<void(const std::stop_token&)> body);

  AgentConfig config_;
  std::vector<std::unique_ptr<Mover>> movers_;
  Fd lock_;
  TlsIdentity identity_;
  Json saved_;  // {"epoch", "peers", "port", "journal"}; guarded by saved_mutex_
  std::mutex saved_mutex_;
  Commands commands_;
  CallLog calls_;
  TlsPeers peers_;
  Fd control_listener_;
  Fd data_listener_;
  std::stop_source stop_;  // ends background work
  std::mutex threads_mutex_;
  struct Worker;
  std::vector<std::unique_ptr<Worker>> workers_;
};

}  // namespace midstream
