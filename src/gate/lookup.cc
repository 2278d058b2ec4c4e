#include "gate/lookup.h"

#include <array>
#include <utility>

#include "sys/log.h"

namespace midstream::gate {

namespace {

using namespace std::literals;

// One row: the verifier, NULL where there is none that is valid now.
constexpr std::string_view kQuery =
    "SELECT CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_catalog.pg_authid WHERE rolname = $1";

// By the extended protocol, so that a name is never part of a statement.
std::string question(std::string_view user) {
  std::string name;
  append_u32(name, static_cast<std::uint32_t>(user.size()));
  name += user;
  return message('P', "\0"s + std::string(kQuery) + "\0\0\0"s) + message('B', "\0\0\0\0\0\1"s + name + "\0\0"s) +
         message('E', "\0\0\0\0\0"s) + message('S', "");
}

// The one column of a DataRow.
std::optional<std::string> column(const Message& row) {
  if (row.head.size() < 6) return std::nullopt;
  const auto size = read_u32(row.head.substr(2));
  if (size > row.head.size() - 6) return std::nullopt;  // NULL too
  return std::string(row.head.substr(6, size));
}

}  // namespace

void Lookup::ask(const std::string& user, Done done) {
  waiting_.push_back({user, std::move(done)});
  if (!turning_) turn();
}

void Lookup::connect() {
  // Names are compared as the bytes that the client sent, as the server itself does with those of a start-up packet.
  ServerLogin::Setting setting{.parameters = {{"user", config_.lookup_user}, {"database", config_.lookup_database},
                                              {"application_name", "midstream gate"}, {"client_encoding", "SQL_ASCII"}},
                               .secret = config_.lookup_password, .nonce = random_nonce()};
  link_ = std::make_unique<ServerLink>(server_, std::move(setting), watch_);
  scanner_ = std::make_unique<Scanner>(Sender::server, 4'096);
  asked_ = false;
  in_.clear();
  out_.clear();
}

void Lookup::broke(std::string why) {
  log_warn("gate", "looking up password verifiers: {}", why);
  link_.reset();
  asked_ = false;
  for (auto all = std::exchange(waiting_, {}); auto& one : all) one.done({std::nullopt, why});
}

void Lookup::turn() {
  turning_ = true;
  // A connection that the server closed while it was idle is noticed when it is used: then one more is tried.
  for (bool fresh = false; link_ || !waiting_.empty();) {
    if (!link_) {
      connect();
      fresh = true;
    }
    if (link_->step() == ServerLink::State::failed) {
      broke(link_->why());
      break;
    }
    if (link_->state() != ServerLink::State::ready) break;
    if (!asked_ && !waiting_.empty()) {
      out_ = question(waiting_.front().user);
      answer_ = {};
      asked_ = true;
    }
    const bool alive = write() && read();
    if (alive && (asked_ || waiting_.empty())) break;
    if (alive) continue;
    const bool idle = waiting_.empty();
    if (fresh && !idle) {
      broke("the connection to the database server was closed");
      break;
    }
    link_.reset();
    if (idle) break;
  }
  turning_ = false;
}

bool Lookup::write() {
  while (!out_.empty()) {
    std::size_t n = 0;
    const auto io = link_->socket().write(out_, n);
    if (io == Io::blocked) return true;
    if (io != Io::done) return false;
    out_.erase(0, n);
  }
  return true;
}

// False: the connection is of no more use.
bool Lookup::read() {
  in_ += link_->take_rest();
  for (;;) {
    std::string_view view = in_;
    while (const auto found = scanner_->next(view)) said(*found);
    in_.erase(0, in_.size() - view.size());
    if (scanner_->broken()) return false;
    std::array<char, 4'096> bytes;
    std::size_t n = 0;
    const auto io = link_->socket().read(bytes, n);
    if (io == Io::blocked) return true;
    if (io != Io::done) return false;
    in_.append(bytes.data(), n);
  }
}

void Lookup::said(const Message& message) {
  switch (message.type) {
    case 'D': answer_.found = column(message); break;
    case 'E': answer_.failed = error_field(message.head, 'M'); break;
    case 'Z':
      if (asked_) finish(std::exchange(answer_, {}));
      break;
    default: break;
  }
}

void Lookup::finish(Answer answer) {
  auto question = std::move(waiting_.front());
  waiting_.pop_front();
  asked_ = false;
  question.done(std::move(answer));
}

}  // namespace midstream::gate
