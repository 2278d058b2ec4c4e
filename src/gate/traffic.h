// One session between client and server, after its start-up: the bytes of both directions go on as they are, and what they
// say is followed, so that it is known at every moment whether the session could move. Sans-I/O: no sockets, no clock.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "gate/answers.h"
#include "gate/scanner.h"
#include "gate/statements.h"

namespace midstream::gate {

struct Counts {
  std::uint64_t client_bytes = 0;
  std::uint64_t server_bytes = 0;
  std::uint64_t requests = 0;      // ReadyForQuery seen
  std::uint64_t transactions = 0;  // those of them after which none is open
  std::uint64_t prepared = 0;      // statements with a name, by Parse or PREPARE
  std::uint64_t errors = 0;        // ErrorResponse seen
  std::uint64_t notifications = 0;
  Counts& operator+=(const Counts& other);
};

class Traffic {
 public:
  // `replication`: the start-up packet asked for a replication connection.
  explicit Traffic(bool replication = false) : replication_(replication) {}

  // How many bytes of the front of `bytes` go on to the other side, unchanged. What is left is fed again, with what comes
  // after it: a part of a header; what is held; or what waits until the server has answered. On `broken()` nothing goes on
  // beyond what is wrong.
  std::size_t from_client(std::string_view bytes);
  std::size_t from_server(std::string_view bytes);

  // Hold: what the client sends beyond the next boundary of a transaction does not go on; nor, at rest, the server's word that it ends
  // the session, for the session may go on at another.
  void hold(bool on) { hold_ = on; }
  bool held() const { return hold_ && may_stop(); }

  // Between two messages in both directions, every request answered, no transaction open: nothing on this server would be
  // missed on another but what belongs to the session.
  bool safe() const;
  // Why it is not safe now and will be later ("" if it is safe); and why it never can move ("" if it can).
  std::string_view busy() const;
  std::string_view pinned() const;

  char transaction() const { return transaction_; }  // I, T or E, as the last ReadyForQuery said
  // The client has said that it leaves, or the server that it ends the session.
  bool terminated() const { return terminated_; }
  bool server_ended() const { return server_ended_; }
  // The error that the client is to be told, if it broke the protocol; may be told only `between_server_messages()`.
  const std::optional<Fatal>& client_broken() const { return client_broken_; }
  const std::optional<Fatal>& server_broken() const { return server_.broken(); }
  bool between_server_messages() const { return server_.between(); }

  const std::map<std::string, std::string>& parameters() const { return parameters_; }
  void set_parameter(std::string name, std::string value);
  const Statements& statements() const { return statements_; }
  const std::set<std::string>& portals() const { return portals_; }
  const Answers& answers() const { return answers_; }
  const Counts& counts() const { return counts_; }
  // Names of settings that no catalog lists ("app.tenant"), as the texts of the client's statements show them.
  const std::set<std::string>& custom_settings() const { return custom_; }
  // Some text of the client's may have made a temporary table ON COMMIT DELETE ROWS.
  bool may_delete_on_commit() const { return texts_delete_; }
  // Grows with every request that the server has answered: what belongs to the session may have changed.
  std::uint64_t changes() const { return counts_.requests; }
  // The gate has told the client of these itself.
  void moved(const std::map<std::string, std::string>& parameters);

 private:
  bool may_stop() const;
  bool ends_unasked(std::string_view bytes) const;
  bool may_forward();
  void client_said(const Message& message);
  void server_said(const Message& message);
  void follow(const Message& message);
  void note_settings(const Message& message);
  Scanner client_{Sender::client};
  Scanner server_{Sender::server};
  Answers answers_;
  Statements statements_;
  std::set<std::string> portals_;
  std::map<std::string, std::string> parameters_;
  std::set<std::string> custom_;
  bool custom_hidden_ = false;  // there may be others
  bool texts_delete_ = false;
  Counts counts_;
  std::optional<Fatal> client_broken_;
  const bool replication_;
  bool copied_both_ = false;
  bool hold_ = false;
  bool terminated_ = false;
  bool server_ended_ = false;
  char transaction_ = 'I';
};

}  // namespace midstream::gate
