#include "gate/traffic.h"

#include "gate/belongings.h"

namespace midstream::gate {

namespace {

// Requests that may be owed at once. The server sends answers off when 8 KiB of them have gathered, and the shortest has 5
// bytes: with this many forwarded it must have sent some, so that waiting for it always ends.
constexpr std::size_t kMostOwed = 16'384;
constexpr std::size_t kMostPortals = 4'096;
constexpr std::size_t kMostParameters = 256;
constexpr std::size_t kMostCustom = 1'000;

}  // namespace

Counts& Counts::operator+=(const Counts& other) {
  client_bytes += other.client_bytes;
  server_bytes += other.server_bytes;
  requests += other.requests;
  transactions += other.transactions;
  prepared += other.prepared;
  errors += other.errors;
  notifications += other.notifications;
  return *this;
}

bool Traffic::may_stop() const {
  return client_.between() && transaction_ == 'I' && !answers_.needs_more() && !replication_;
}

bool Traffic::may_forward() {
  if (terminated_ || server_ended_ || (hold_ && may_stop())) return false;
  if (answers_.size() < kMostOwed) return true;
  if (answers_.copying_in()) client_broken_ = Fatal{"54000", "too many messages other than COPY data during COPY", ""};
  return false;
}

std::size_t Traffic::from_client(std::string_view bytes) {
  const auto fed = bytes.size();
  while (!client_broken_ && !(client_.between() && (bytes.empty() || !may_forward()))) {
    const auto found = client_.next(bytes);
    if (client_.broken()) client_broken_ = client_.broken();
    if (!found) break;
    client_said(*found);
  }
  counts_.client_bytes += fed - bytes.size();
  return fed - bytes.size();
}

std::size_t Traffic::from_server(std::string_view bytes) {
  const auto fed = bytes.size();
  while (!ends_unasked(bytes)) {
    const auto found = server_.next(bytes);
    if (!found) break;
    server_said(*found);
  }
  counts_.server_bytes += fed - bytes.size();
  return fed - bytes.size();
}

// An error where nothing was asked is the server's last word.
bool Traffic::ends_unasked(std::string_view bytes) const {
  return hold_ && may_stop() && answers_.none() && server_.between() && bytes.starts_with('E');
}

void Traffic::client_said(const Message& message) {
  if (message.type == 'X') terminated_ = true;
  if (message.type == 'Q' || message.type == 'P') note_settings(message);
  answers_.requested(message);
}

void Traffic::note_settings(const Message& message) {
  auto found = gate::custom_settings(message.head);
  custom_hidden_ = custom_hidden_ || found.hidden;
  texts_delete_ = texts_delete_ || !message.whole() || (found.commit && gate::may_delete_on_commit(message.head));
  for (auto& name : found.names) {
    if (custom_.size() < kMostCustom) custom_.insert(std::move(name));
    else custom_hidden_ = true;
  }
}

void Traffic::moved(const std::map<std::string, std::string>& parameters) {
  for (const auto& [name, value] : parameters) set_parameter(name, value);
}

void Traffic::server_said(const Message& message) {
  const auto done = answers_.answered(message);
  switch (message.type) {
    case '1':
      if (done) statements_.prepared(done->name, done->body);
      if (done && !done->name.empty()) ++counts_.prepared;
      break;
    case '2':
      if (done && portals_.size() < kMostPortals) portals_.insert(done->name);
      break;
    case '3':
      if (done && done->portal) portals_.erase(done->name);
      if (done && !done->portal) statements_.closed(done->name);
      break;
    case 'E':
      // A Parse without a name drops the statement before it, whether it succeeds or not.
      if (done && done->type == 'P' && done->name.empty()) statements_.unnamed_gone();
      break;
    case 'Z':
      if (done && done->type == 'Q') statements_.unnamed_gone();
      break;
    default: break;
  }
  follow(message);
}

void Traffic::follow(const Message& message) {
  auto head = message.head;
  switch (message.type) {
    case 'Z':
      ++counts_.requests;
      if (!head.empty()) transaction_ = head[0];
      if (transaction_ != 'I') break;
      portals_.clear();
      ++counts_.transactions;
      break;
    case 'S': {
      const auto name = take_string(head);
      const auto value = take_string(head);
      if (name && value) set_parameter(std::string(*name), std::string(*value));
      break;
    }
    case 'C':
      if (const auto tag = take_string(head)) {
        statements_.command(*tag);
        if (*tag == "PREPARE") ++counts_.prepared;
        // Of a statement too long to be kept, nobody knows which settings it made.
        if (answers_.large() && (*tag == "SET" || *tag == "DO" || *tag == "CALL" || tag->starts_with("SELECT"))) custom_hidden_ = true;
        if (*tag == "DISCARD ALL") custom_hidden_ = false;
      }
      break;
    case 'E': {
      ++counts_.errors;
      auto severity = error_field(head, 'V');
      if (severity.empty()) severity = error_field(head, 'S');
      server_ended_ = server_ended_ || severity == "FATAL" || severity == "PANIC";
      break;
    }
    case 'A': ++counts_.notifications; break;
    case 'W': copied_both_ = true; break;
    default: break;
  }
}

void Traffic::set_parameter(std::string name, std::string value) {
  if (parameters_.size() < kMostParameters || parameters_.contains(name))
    parameters_[std::move(name)] = std::move(value);
}

bool Traffic::safe() const { return busy().empty(); }

std::string_view Traffic::busy() const {
  if (terminated_ || server_ended_) return "it is ending";
  if (!client_.between()) return "the client is in the middle of a message";
  if (!server_.between()) return "the server is in the middle of a message";
  if (answers_.copying_in()) return "COPY reads from the client";
  if (!answers_.none()) return "a request is not answered yet";
  if (transaction_ != 'I') return "a transaction is open";
  return "";
}

std::string_view Traffic::pinned() const {
  if (replication_ || copied_both_) return "it is a replication connection";
  if (answers_.lost()) return "the server's answers do not match the client's requests";
  if (!statements_.complete()) return "a prepared statement is too long, or there are too many, to be prepared again";
  if (custom_hidden_) return "it may have custom settings whose names its statements do not show";
  return "";
}

}  // namespace midstream::gate
