// Asks the server for the verifiers of users, over one connection of the gate's own role. Each login asks anew: a password
// changed a moment ago counts. Belongs to one worker.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "gate/scanner.h"
#include "gate/server_link.h"

namespace midstream::gate {

class Lookup {
 public:
  // `found`: what pg_authid has; nullopt if there is no such user, or no password that is valid now.
  struct Answer {
    std::optional<std::string> found;
    std::string failed;  // why nothing can be known; "" otherwise
  };
  using Done = std::function<void(Answer)>;

  Lookup(const Config& config, const Server& server, Watch watch) : config_(config), server_(server), watch_(std::move(watch)) {}
  void ask(const std::string& user, Done done);
  // Goes on as far as it can; called when its socket is ready.
  void turn();

 private:
  void connect();
  void said(const Message& message);
  void finish(Answer answer);
  void broke(std::string why);
  bool read();
  bool write();
  struct Question {
    std::string user;
    Done done;
  };
  const Config& config_;
  const Server& server_;
  const Watch watch_;
  std::unique_ptr<ServerLink> link_;
  std::deque<Question> waiting_;  // the first is the one under way, if asked_
  bool asked_ = false;
  bool turning_ = false;
  std::unique_ptr<Scanner> scanner_;
  std::string out_, in_;
  Answer answer_;
};

}  // namespace midstream::gate
