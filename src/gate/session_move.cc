// What a hold and a change of servers do to a session.
#include <fmt/format.h>

#include "gate/session.h"
#include "sys/clock.h"
#include "sys/log.h"

namespace midstream::gate {

namespace {

// Where asking costs more, a session must have rested for longer to be asked again.
constexpr Millis kHeavyRest{40};

}  // namespace

void Session::hold(bool on) {
  if (on != hold_) held_from_now(on);
  hold_ = on;
  if (!on && final_) final(false);
  apply_hold();
}

void Session::apply_hold() {
  if (traffic_) traffic_->hold(hold_ || (changeover_ && (changeover_->asking() || changeover_->wants_rest(*traffic_))));
}

bool Session::settled() const {
  if (phase_ == Phase::server) return false;  // its login may be cut off by whoever asked for the hold
  return !traffic_ || phase_ != Phase::relay || at_rest();
}

// Nothing is under way in either direction, and nothing more will be until the hold is off.
bool Session::at_rest() const {
  return traffic_->held() && traffic_->safe() && to_client_.empty() && to_server_.nothing_under_way() && !(changeover_ && changeover_->asking());
}

void Session::prepare(std::size_t server, const std::set<std::string>& settings) {
  also_ = settings;
  if (changeover_ && (changeover_->failed() || changeover_->place() != server)) give_up_target();
  wanted_ = server;
}

void Session::start_target() {
  ++needs_.tally.of(*wanted_, Purpose::to_go_over);
  changeover_.emplace(shared_.servers[*wanted_], *wanted_, server_login(), needs_.watch, shared_.config.temporary);
  if (final_) changeover_->final(true);
  apply_hold();
}

std::optional<std::chrono::nanoseconds> Session::stale_for(std::chrono::nanoseconds now) {
  if (!changeover_ || final_ || phase_ != Phase::relay || !traffic_) return std::nullopt;
  if (used_ != traffic_->changes()) used_ = traffic_->changes(), used_at_ = now;
  if (changeover_->heavy() && now - used_at_ < kHeavyRest) return std::nullopt;
  const bool may_be = changeover_->known() && !changeover_->fresh(*traffic_) && !changeover_->asking() && traffic_->safe();
  return may_be ? std::optional(now - used_at_) : std::nullopt;
}

void Session::refresh() {
  if (changeover_) changeover_->refresh();
  apply_hold();
}

void Session::give_up_target() {
  wanted_.reset();
  if (changeover_ && changeover_->asking()) return;  // its answer is under way
  changeover_.reset();
  final_ = last_ = false;
  apply_hold();
}

void Session::final(bool on) {
  final_ = on;
  last_ = false;
  if (changeover_) changeover_->final(on);
  apply_hold();
}

// False: not further now.
bool Session::step_changeover() {
  if (changeover_->asking()) {
    std::string rest, behind;
    const auto own = changeover_->step_own(server_->socket(), *traffic_, rest, behind);
    if (own == Changeover::Own::waiting) return false;
    shared_.cancel_keys.quiet(*key_, false);
    out_ += rest;  // nothing else is on its way to the client: it is at rest
    if (own == Changeover::Own::broken && !changeover_->draining()) return ends_by(Ending::server), closing(), false;
    if (!to_client_.begin_with(behind)) return end({"08P01", "the database server says too much at once", ""}), false;
    if (!wanted_) give_up_target();
    apply_hold();
    if (!changeover_) return true;
  }
  const bool rest = at_rest();
  changeover_->step_target(rest && final_ && changeover_->fresh(*traffic_));
  apply_hold();
  if (!at_rest()) return true;
  if (changeover_->wants_rest(*traffic_)) {
    changeover_->ask(*traffic_, login_.user(), also_, shared_.cancel_keys.quiet(*key_, true));
    return step_changeover();
  }
  return true;
}

std::string Session::why_not(std::size_t server) const {
  if (phase_ == Phase::server) return "it is logging in";
  if (!traffic_ || phase_ != Phase::relay || place_ == server) return "";
  if (const auto pinned = traffic_->pinned(); !pinned.empty()) return std::string(pinned);
  if (final_ && !last_ && !settled()) return std::string(traffic_->busy().empty() ? "it is not held yet" : traffic_->busy());
  return changeover_ ? changeover_->why_not(*traffic_) : "it is not connected to the other server";
}

bool Session::getting_ready() const {
  return phase_ == Phase::server || wants_target() || (changeover_ && !changeover_->failed() && changeover_->pinned().empty() && traffic_->pinned().empty());
}

std::optional<std::uint32_t> Session::server_pid() const {
  if (!traffic_ || phase_ != Phase::relay) return std::nullopt;
  const auto key = key_ ? shared_.cancel_keys.at_server(*key_) : std::nullopt;
  return key ? std::optional(key->key.process) : std::nullopt;
}

// Only who listens can have been told anything.
void Session::last_words() {
  if (!changeover_) return;
  changeover_->keep_notifications();
  last_ = true;
  const bool listens = changeover_->known() && !changeover_->known()->belongings.channels.empty();
  if (listens && !changeover_->asking()) changeover_->drain();
  apply_hold();
}

TlsSocket Session::go_over() {
  if (!traffic_ || phase_ != Phase::relay || !changeover_) return {};
  auto taken = changeover_->take();
  auto left = std::move(server_->socket());
  server_->replace(std::move(taken.socket));
  server_->socket().read_on_events();
  place_ = changeover_->place();
  ++moves_;
  ++needs_.tally.moved;
  shared_.cancel_keys.moved(*key_, {place_, taken.key});
  out_ += changed_parameters(traffic_->parameters(), taken.parameters);
  traffic_->moved(taken.parameters);
  to_client_.forget_waiting();  // that its first server ends it
  // What its first server said last, and behind it what the other one has said.
  const bool whole = traffic_->between_server_messages();
  out_ += taken.for_client;
  const bool fits = to_client_.move_on(taken.bytes);
  changeover_.reset();
  wanted_.reset();
  final_ = last_ = false;
  server_told_ = false;
  apply_hold();
  if (!fits || !whole) end({"08P01", "the database server was in the middle of a message", ""});
  return left;
}

}  // namespace midstream::gate
