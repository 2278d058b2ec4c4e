// The controller's link to the agent on one host: an ssh child that runs `midstream-agent connect` there, and
// frames of JSON on its stdin and stdout. docs/formats/link.md.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "base/json.h"
#include "control/peers.h"
#include "sys/child.h"
#include "sys/stream.h"

namespace midstream {

// How to reach one host.
struct SshTarget {
  std::string host;        // name in the manifest
  std::string destination; // user@host
  std::string config;      // file for -F; "" for ssh's own
  std::string data;        // numeric address of the data link
};

// The ssh command line for `target`: no prompts, no new host keys, keepalives, then `remote` words.
std::vector<std::string> ssh_command(const SshTarget& target, const std::vector<std::string>& remote);

// Runs `remote` there and returns what it printed. Whatever of it a shell could take for syntax must be fixed text or
// checked to be plain. Retry where the host cannot be reached, else refused with what it said.
Result<std::string> run_ssh(const SshTarget& target, const std::vector<std::string>& remote, std::string_view input, Deadline deadline);
// Makes sure that nothing but plain names and hex digests gets into such text.
Result<> plain_for_shell(const SshTarget& target, const std::string& move);

// Where things of a move live on every host.
std::string agent_directory(const std::string& move);
std::string agent_service(const std::string& move);
std::string agent_socket(const std::string& move);

// Puts this build's agent on the host and makes it a service there, unless it already runs. `agent_binary` is the
// file to send.
Result<> bootstrap_agent(const SshTarget& target, const std::string& move, const std::filesystem::path& agent_binary,
                         Deadline deadline);

// An open link. request() may be called from any thread; on_lost is called once, from the reading thread.
class AgentLink {
 public:
  using Done = std::function<void(Result<Json>)>;

  static Result<std::unique_ptr<AgentLink>> open(const SshTarget& target, const std::string& move, Deadline deadline,
                                                 std::function<void()> on_lost);
  ~AgentLink();

  // What the agent said of itself: fingerprint, address, port.
  const Json& hello() const { return hello_; }
  // Sends `message`; `done` is called once with the answer, or with ErrorKind::unknown when the link breaks first.
  void request(Json message, Done done);
  // The same, waiting.
  Result<Json> ask(Json message, Deadline deadline);

 private:
  AgentLink(Child child, std::unique_ptr<Stream> stream) : child_(std::move(child)), stream_(std::move(stream)) {}
  void read_replies(const std::stop_token& stop);
  void lose(const std::string& why);

  Child child_;
  std::unique_ptr<Stream> stream_;
  Json hello_;
  std::function<void()> on_lost_;
  std::mutex mutex_;
  std::mutex write_mutex_;
  std::map<std::uint64_t, Done> waiting_;
  std::uint64_t next_id_ = 1;
  bool lost_ = false;
  std::jthread reader_;
};

}  // namespace midstream
