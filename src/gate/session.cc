// A session from its start-up to its end; what a hold and a change of servers do to it is in session_move.cc.
#include "gate/session.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "base/text.h"
#include "sys/clock.h"
#include "sys/log.h"

namespace midstream::gate {

namespace {

constexpr Millis kLoginTime{60'000};  // PostgreSQL's own authentication_timeout

ClientLogin::Setting login_setting(const Shared& shared, const std::string& address) {
  return {&shared.config.rules, address, shared.client_tls.has_value(), shared.mock_seed, random_nonce(), random_bytes(4)};
}

bool asks_for_replication(const std::string& value) {
  return !value.empty() && value != "false" && value != "off" && value != "no" && value != "0";
}

}  // namespace

Session::Session(std::uint64_t id, Fd client, std::string address, Shared& shared, Needs needs)
    : id_(id), address_(std::move(address)), since_ms_(wall_now_ms()), deadline_(boot_now() + kLoginTime), shared_(shared),
      needs_(std::move(needs)), client_(std::move(client)), login_(login_setting(shared, address_)) {}

Session::~Session() {
  if (key_) shared_.cancel_keys.withdraw(*key_);
  if (cancels_) shared_.cancel_keys.cancelled(*cancels_);
  held_from_now(false);
  waits(false);
  ++needs_.tally.of(ending_.value_or(Ending::left));
  if (traffic_) needs_.tally.counts += traffic_->counts();
}

bool Session::over() {
  ends_by(phase_ == Phase::cancel ? Ending::cancel : traffic_ && !traffic_->terminated() ? Ending::lost : traffic_ ? Ending::client : Ending::left);
  phase_ = Phase::over;
  client_.close();
  server_.reset();
  return false;
}

// True once everything is written.
bool Session::flush() {
  while (!out_.empty()) {
    std::size_t n = 0;
    const auto io = client_.write(out_, n);
    if (io == Io::blocked) return false;
    if (io != Io::done) return over();
    out_.erase(0, n);
  }
  return true;
}

void Session::closing() { phase_ = Phase::closing; }

void Session::end(const Fatal& reason, Ending ending) {
  if (phase_ == Phase::over || phase_ == Phase::closing) return;
  ends_by(ending);
  // Within a message of the server's, an error would be taken for a part of it.
  const bool may_tell = phase_ != Phase::client_tls && phase_ != Phase::cancel &&
                        (phase_ != Phase::relay || (traffic_->between_server_messages() && to_client_.nothing_under_way()));
  if (may_tell) out_ += error_message(reason);
  closing();
}

Session::Turn Session::turn() {
  for (bool more = true; more;) {
    switch (phase_) {
      case Phase::client: more = step_client(); break;
      case Phase::client_tls: more = step_client_tls(); break;
      case Phase::verifier: more = false; break;
      case Phase::primary: more = step_primary(); break;
      case Phase::server: more = step_server(); break;
      case Phase::relay: {
        const auto turn = relay();
        if (turn != Turn::over) return turn;
        more = phase_ == Phase::closing;
        break;
      }
      case Phase::cancel: more = step_cancel(); break;
      case Phase::closing:
        if (!flush()) return phase_ == Phase::over ? Turn::over : Turn::waiting;
        client_.end_writing();
        over();
        return Turn::over;
      case Phase::over: return Turn::over;
    }
  }
  return phase_ == Phase::over ? Turn::over : Turn::waiting;
}

bool Session::step_client() {
  out_ += login_.take_output();
  if (!flush()) return false;
  switch (login_.wants()) {
    case ClientLogin::Wants::bytes: return read_client();
    case ClientLogin::Wants::tls:
      if (const auto started = client_.start_tls(*shared_.client_tls, true); !started) return over();
      phase_ = Phase::client_tls;
      return true;
    case ClientLogin::Wants::verifier:
      needs_.begun(login_.database());
      phase_ = Phase::primary;
      return true;
    case ClientLogin::Wants::admitted: phase_ = Phase::primary; return true;
    case ClientLogin::Wants::cancel: {
      const auto key = shared_.cancel_keys.cancel(login_.packet().key);
      ends_by(Ending::cancel);
      if (!key) return ++needs_.tally.cancels_dropped, over();
      ++needs_.tally.of(key->server, Purpose::cancel);
      cancels_ = login_.packet().key;
      in_ = cancel_request(key->key);
      server_ = std::make_unique<ServerLink>(shared_.servers[key->server], std::nullopt, needs_.watch);
      phase_ = Phase::cancel;
      return true;
    }
    case ClientLogin::Wants::closing:
      if (login_.failure()) {
        log_info("gate", "client {} was turned away: {}", address_, login_.failure()->message);
        refused(refusal_of(login_.failure()->sqlstate));
      }
      closing();
      return true;
  }
  return false;
}

// In the clear only what is understood is taken, so that a TLS handshake finds its first byte; under TLS everything is.
bool Session::read_client() {
  std::array<char, 70'000> bytes;
  std::size_t n = 0;
  const bool peeking = !client_.encrypted();
  const auto io = peeking ? client_.peek(bytes, n) : client_.read(bytes, n);
  if (io == Io::blocked) return false;
  if (io != Io::done) return over();
  if (!peeking) in_.append(bytes.data(), n);
  std::string_view view = peeking ? std::string_view(bytes.data(), n) : std::string_view(in_);
  const auto before = view.size();
  const auto wants = login_.from_client(view);
  const auto taken = before - view.size();
  if (peeking && taken > 0) client_.read(std::span(bytes).first(taken), n);
  if (!peeking) in_.erase(0, taken);
  return taken > 0 || wants != ClientLogin::Wants::bytes || !peeking;
}

bool Session::step_client_tls() {
  switch (client_.handshake()) {
    case Io::blocked: return false;
    case Io::done: break;
    default:
      log_info("gate", "client {}: TLS: {}", address_, client_.tls_error());
      refused(Refusal::tls);
      return over();
  }
  login_.tls_started(shared_.client_tls->certificate_hash(), client_.alpn_postgresql());
  phase_ = Phase::client;
  return true;
}

void Session::verifier_is(const std::optional<std::string>& rolpassword) {
  if (phase_ != Phase::verifier) return;
  login_.verifier_is(rolpassword);
  phase_ = Phase::client;
}

void Session::verifier_failed(const std::string& why) {
  if (phase_ != Phase::verifier) return;
  login_.fail({"57P03", "the gate cannot look up the user's password verifier: " + why, ""});
  phase_ = Phase::client;
}

// Waits until it is known who owns the database, and as long as it is held: both before the verifier is asked for, and before
// the login, for that may be refused meanwhile.
bool Session::step_primary() {
  if (!shared_.serves(login_.database())) {
    login_.fail({"3D000", fmt::format("database \"{}\" is not behind this gate", login_.database()), ""});
    phase_ = Phase::client;
    return true;
  }
  const auto primary = shared_.primary(login_.database());
  if (!primary || hold_) return waits(true), false;
  waits(false);
  if (login_.wants() == ClientLogin::Wants::admitted) {
    go_to_server(*primary);
  } else {
    phase_ = Phase::verifier;
    needs_.verifier(login_.user(), *primary);
  }
  return true;  // it may have been answered at once
}

ServerLogin::Setting Session::server_login() const {
  ServerLogin::Setting setting{.parameters = login_.packet().parameters, .nonce = random_nonce()};
  std::visit([&](const auto& proof) { setting.secret = proof; }, login_.proof());
  return setting;
}

void Session::go_to_server(std::size_t place) {
  place_ = place;
  ++needs_.tally.of(place, Purpose::session);
  server_ = std::make_unique<ServerLink>(shared_.servers[place], server_login(), needs_.watch);
  phase_ = Phase::server;
}

bool Session::step_server() {
  if (!flush()) return false;
  switch (server_->step()) {
    case ServerLink::State::ready: begin_relay(); return true;
    case ServerLink::State::failed:
      log_info("gate", "client {}, user {}: {}", address_, printable(login_.user()), server_->why());
      out_ += server_->error();
      refused(server_->login().wants() == ServerLogin::Wants::failed ? Refusal::server : Refusal::unreachable);
      closing();
      return true;
    default: return false;
  }
}

void Session::begin_relay() {
  auto key = shared_.cancel_keys.issue({place_, server_->login().key()});
  if (!key) return end({"53000", key.error().what, ""});
  key_ = std::move(*key);
  ++needs_.tally.logins;
  traffic_.emplace(asks_for_replication(login_.packet().parameter("replication")));
  apply_hold();
  for (const auto& [name, value] : server_->login().parameters()) traffic_->set_parameter(name, value);
  out_ += server_->login().greeting(*key_);
  if (!to_server_.begin_with(in_) || !to_client_.begin_with(server_->take_rest()))
    return end({"08P01", "too much was sent before the session began", ""});
  in_.clear();
  client_.read_on_events();
  server_->socket().read_on_events();
  phase_ = Phase::relay;
}

void Session::event(bool of_client, bool ended) {
  if (of_client) client_.event(ended), came_ = came_ || !ended;
  else if (server_) server_->socket().event(ended);
}

Session::Turn Session::relay() {
  if (!flush()) return phase_ == Phase::over ? Turn::over : Turn::waiting;
  if (hold_) note_wait();
  if (changeover_ && !step_changeover()) return phase_ == Phase::relay ? Turn::waiting : Turn::over;
  // What came for the client while its server was asked: nothing else may happen for long.
  if (!flush()) return phase_ == Phase::over ? Turn::over : Turn::waiting;
  const bool rested = changeover_ && at_rest();
  if (final_ && last_) return Turn::waiting;
  if (final_ && rested) {
    // Notifications come all along; but whatever becomes of its server now, the session does not depend on it any more.
    const auto heard = to_client_.turn(server_->socket(), client_, [&](std::string_view bytes) { return traffic_->from_server(bytes); });
    return heard == Lane::Turn::again ? Turn::again : Turn::waiting;
  }
  auto& server = server_->socket();
  // Answers first: they may be what the client's next requests wait for.
  const auto down = to_client_.turn(server, client_, [&](std::string_view bytes) { return traffic_->from_server(bytes); });
  const auto up = to_server_.turn(client_, server, [&](std::string_view bytes) { return traffic_->from_client(bytes); });
  if (up != Lane::Turn::again) came_ = false;
  if (hold_) note_wait();
  if (up == Lane::Turn::ended && !std::exchange(server_told_, true)) server.end_writing();
  const auto& broken = traffic_->client_broken() ? traffic_->client_broken() : traffic_->server_broken();
  if (broken) {
    log_info("gate", "client {}, user {}: {}", address_, printable(login_.user()), broken->message);
    end(*broken);
  } else if (down == Lane::Turn::ended || down == Lane::Turn::sender_failed) {
    ends_by(traffic_->terminated() ? Ending::client : server_told_ ? Ending::lost : Ending::server);
    closing();
  } else if (down == Lane::Turn::receiver_failed || up == Lane::Turn::sender_failed) {
    over();
  } else {
    // It has come to rest: what waits for that goes on.
    if (changeover_ && !rested && at_rest()) return Turn::again;
    // A server that takes no more may still have said why: that is on its way down.
    return up == Lane::Turn::again || down == Lane::Turn::again ? Turn::again : Turn::waiting;
  }
  return Turn::over;
}

// The client waits until the server has closed: from then on the request has had its effect.
bool Session::step_cancel() {
  if (server_->step() == ServerLink::State::failed) return over();
  if (server_->state() != ServerLink::State::ready) return false;
  std::size_t n = 0;
  if (!in_.empty()) {
    if (server_->socket().write(in_, n) != Io::done || n != in_.size()) return over();
    in_.clear();
    ++needs_.tally.cancels_passed;
  }
  std::array<char, 64> ignored;
  const auto io = server_->socket().read(ignored, n);
  return io == Io::blocked ? false : io == Io::done ? true : over();
}

}  // namespace midstream::gate
