// What is told of a session, and counted.
#include "base/text.h"
#include "gate/session.h"
#include "sys/clock.h"

namespace midstream::gate {

namespace {

double ms(std::chrono::nanoseconds span) { return static_cast<double>(std::chrono::duration_cast<std::chrono::microseconds>(span).count()) / 1e3; }

Json to_json(const Held& held) {
  return {{"times", held.times}, {"last_ms", ms(held.last)}, {"sum_ms", ms(held.sum)}, {"longest_ms", ms(held.longest)}};
}

}  // namespace

void Session::refused(Refusal why) {
  ends_by(Ending::refused);
  ++needs_.tally.of(why);
}

void Session::late() {
  ends_by(Ending::late);
  ++needs_.tally.of(Refusal::late);
}

void Session::held_from_now(bool on) {
  const auto now = boot_now();
  if (held_since_.count() != 0) {
    held_.add(now - held_since_);
    needs_.tally.held.add(now - held_since_);
  }
  held_since_ = on ? now : std::chrono::nanoseconds(0);
  if (!on && traffic_) waits(false);
}

// Only in a hold: otherwise nobody waits for the gate, and no clock is read.
void Session::note_wait() {
  if (traffic_->held() && (came_ || !to_server_.empty())) waits(true);
}

void Session::waits(bool on) {
  if (on == (waits_since_.count() != 0)) return;
  const auto now = boot_now();
  if (!on) {
    waited_.add(now - waits_since_);
    needs_.tally.waited.add(now - waits_since_);
  }
  waits_since_ = on ? now : std::chrono::nanoseconds(0);
}

Doing Session::doing() const {
  if (phase_ == Phase::closing || phase_ == Phase::over) return Doing::ending;
  if (waits_since_.count() != 0) return Doing::waiting;
  if (!traffic_) return Doing::logging_in;
  if (traffic_->terminated() || traffic_->server_ended()) return Doing::ending;
  if (traffic_->transaction() != 'I') return Doing::in_transaction;
  return traffic_->safe() ? Doing::idle : Doing::busy;
}

Movable Session::movable() const {
  if (!traffic_) return Movable::logging_in;
  if (!traffic_->pinned().empty() || (changeover_ && !changeover_->pinned().empty())) return Movable::pinned;
  return traffic_->safe() ? Movable::movable : Movable::after_transaction;
}

Other Session::other() const {
  if (!changeover_) return Other::none;
  return changeover_->connecting() ? Other::connecting : changeover_->failed() ? Other::failed : Other::connected;
}

void Session::add_to(Totals& totals) const {
  if (traffic_) totals.tally.counts += traffic_->counts();
  totals.count(doing(), movable(), other());
}

Json Session::describe() const {
  Json out{{"id", id_}, {"client", address_}, {"since_ms", since_ms_}, {"tls", login_.tls()}};
  if (!login_.user().empty()) {
    out["user"] = printable(login_.user());
    out["database"] = printable(login_.database());
  }
  out["doing"] = kDoings[static_cast<std::size_t>(doing())];
  out["state"] = kMovables[static_cast<std::size_t>(movable())];
  out["held"] = to_json(held_);
  out["waited"] = to_json(waited_);
  if (waits_since_.count() != 0) {
    out["waits_since_ms"] = wall_now_ms() - std::chrono::duration_cast<Millis>(boot_now() - waits_since_).count();
    out["waits_for"] = hold_ ? "the end of the hold" : "an owner of the database";
  }
  if (!traffic_) return out;
  const auto& counts = traffic_->counts();
  const auto& parameters = traffic_->parameters();
  const auto application = parameters.find("application_name");
  out["application"] = application == parameters.end() ? "" : printable(application->second);
  const auto pinned = traffic_->pinned();
  const auto belongings = changeover_ ? changeover_->pinned() : "";
  out["why"] = !pinned.empty() ? std::string(pinned) : !belongings.empty() ? printable(belongings) : std::string(traffic_->busy());
  out["server"] = shared_.servers[place_].config.label;
  // Before it is prepared for a switch, only the wire has been looked at.
  out["asked"] = changeover_ && changeover_->known();
  out["fresh"] = changeover_ && changeover_->fresh(*traffic_);
  out["transaction"] = std::string(1, traffic_->transaction());
  out["statements"] = traffic_->statements().all().size();
  out["prepared"] = counts.prepared;
  out["switches"] = moves_;
  out["requests"] = counts.requests;
  out["transactions"] = counts.transactions;
  out["errors"] = counts.errors;
  out["notifications"] = counts.notifications;
  out["from_client"] = counts.client_bytes;
  out["from_server"] = counts.server_bytes;
  return out;
}

}  // namespace midstream::gate
