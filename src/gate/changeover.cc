#include "gate/changeover.h"

#include <fmt/format.h>

#include <array>
#include <utility>

namespace midstream::gate {

namespace {

constexpr int kCancelled = 20;  // questions in a row
constexpr std::string_view kQueryCanceled = "57014";

// What is to be sent, as far as the socket takes it. False: the connection is of no more use.
bool send(TlsSocket& socket, std::string& out) {
  while (!out.empty()) {
    std::size_t n = 0;
    const auto io = socket.write(out, n);
    if (io == Io::blocked) return true;
    if (io != Io::done) return false;
    out.erase(0, n);
  }
  return true;
}

}  // namespace

Changeover::Changeover(const Server& to, std::size_t place, ServerLogin::Setting login, Watch watch)
    : place_(place), label_(to.config.label), link_(to, std::move(login), std::move(watch)) {}

void Changeover::step_target(bool settled) {
  if (failed()) return;
  const bool before = link_.state() != ServerLink::State::ready;
  if (before && link_.step() == ServerLink::State::failed) {
    trouble_ = link_.why();
    return;
  }
  if (link_.state() != ServerLink::State::ready) return;
  if (before) in_ = link_.take_rest();
  while (talk(settled)) {
  }
}

// One round of what is to be done on the other connection; true: there may be more.
bool Changeover::talk(bool settled) {
  if (!heard_.done()) {
    if (!send(link_.socket(), heard_.to_send())) trouble_ = fmt::format("its connection to {} was closed", label_);
    if (failed()) return false;
  }
  std::array<char, 8'192> bytes;
  for (;;) {
    std::string_view view = in_;
    heard_.overhear(view);
    in_.erase(0, in_.size() - view.size());
    if (!keep_) (void)heard_.take_for_client();
    if (heard_.broken()) break;
    std::size_t n = 0;
    const auto io = link_.socket().read(bytes, n);
    if (io == Io::blocked) break;
    if (io != Io::done) {
      trouble_ = fmt::format("its connection to {} was closed", label_);
      return false;
    }
    in_.append(bytes.data(), n);
  }
  if (heard_.broken()) {
    trouble_ = fmt::format("{} ended its connection: {}", label_, heard_.error());
    return false;
  }
  if (!heard_.done()) return false;
  answered();
  if (failed()) return false;
  make(settled);
  return doing_ != Doing::nothing;
}

// What was being done on the other connection is done, well or not.
void Changeover::answered() {
  if (heard_.transaction() != 'I') trouble_ = fmt::format("what belongs to it left a transaction open on {}", label_);
  switch (std::exchange(doing_, Doing::nothing)) {
    case Doing::making:
      if (!heard_.error().empty()) trouble_ = fmt::format("what belongs to it cannot be made again on {}: {}", label_, heard_.error());
      break;
    case Doing::locking:
      locked_ = true;
      for (const auto& row : heard_.rows())
        if (row.empty() || row[0] != "t") trouble_ = fmt::format("an advisory lock of it is taken on {}", label_);
      if (!heard_.error().empty()) trouble_ = fmt::format("its advisory locks cannot be taken on {}: {}", label_, heard_.error());
      break;
    case Doing::unlocking: locked_ = false; break;
    case Doing::warming:  // whatever came of it
    case Doing::nothing: break;
  }
}

// Begins what is still to be done on the other connection, if anything is.
void Changeover::make(bool settled) {
  if (!known_ || !known_->pinned.empty()) return;
  if (!made_ || *made_ != known_->belongings) {
    heard_.again(make_again(known_->belongings, made_.has_value()));
    made_ = known_->belongings;
    locked_ = warm_ = false;
    doing_ = Doing::making;
  } else if (!warm_ && !final_) {
    heard_.again(warm_up());
    warm_ = true;
    doing_ = Doing::warming;
  } else if (final_ && settled && !locked_ && !known_->locks.empty()) {
    heard_.again(take_locks(known_->locks));
    doing_ = Doing::locking;
  } else if (!final_ && locked_) {
    heard_.again(drop_locks());
    doing_ = Doing::unlocking;
  }
}

bool Changeover::wants_rest(const Traffic& traffic) const {
  if (failed() || own_ || connecting()) return false;
  return !known_ || ((final_ || again_) && !fresh(traffic));
}

void Changeover::ask(const Traffic& traffic, std::string_view user, const std::set<std::string>& also) {
  const bool prepare = !question_there_ || resets_ != traffic.statements().resets();
  auto names = traffic.custom_settings();
  names.insert(also.begin(), also.end());
  own_.emplace(ask_belongings(names, user, prepare));
  question_there_ = true;
  resets_ = traffic.statements().resets();
  draining_ = false;
}

void Changeover::drain() {
  own_.emplace(nothing());
  draining_ = true;
}

Changeover::Own Changeover::step_own(TlsSocket& own, const Traffic& traffic, std::string& rest, std::string& behind) {
  bool open = send(own, own_->to_send());
  std::array<char, 8'192> bytes;
  while (open && !own_->done()) {
    std::size_t n = 0;
    const auto io = own.read(bytes, n);
    if (io == Io::blocked) return Own::waiting;
    open = io == Io::done;
    if (open) own_in_.append(bytes.data(), n);
    std::string_view view = own_in_;
    own_->from_server(view);
    own_in_.erase(0, own_in_.size() - view.size());
  }
  rest = own_->take_for_client();
  for (const auto& [name, value] : own_->parameters()) rest += parameter_status(name, value);
  if (!open || own_->broken()) {
    if (!draining_) rest += own_->fatal();  // else it is needed no more, and what it said before is what counts
    own_.reset();
    return Own::broken;
  }
  behind = std::exchange(own_in_, {});
  if (!draining_) {
    const auto encoding = traffic.parameters().find("client_encoding");
    auto known = read_belongings(*own_, traffic.statements(), encoding == traffic.parameters().end() ? "" : encoding->second);
    // A cancel request of the client that came too late for its own statement, or its statement_timeout: asked again.
    cancelled_ = own_->sqlstate() == kQueryCanceled ? cancelled_ + 1 : 0;
    if (known) known_ = std::move(*known);
    else if (cancelled_ > 0 && cancelled_ < kCancelled) known_.reset();
    else known_ = Known{{}, {}, "it could not be asked what belongs to it: " + known.error()};
    if (!known) question_there_ = false;
    known_at_ = traffic.changes();
    again_ = false;
  }
  own_.reset();
  return Own::answered;
}

void Changeover::final(bool on) {
  final_ = on;
  // Asked anew: what was in its way may be gone.
  if (known_ && !known_->pinned.empty()) known_.reset();
}

std::string Changeover::why_not(const Traffic& traffic) const {
  if (failed()) return trouble_;
  if (connecting()) return fmt::format("it is not connected to {} yet", label_);
  if (known_ && !known_->pinned.empty()) return known_->pinned;
  if (!known_ || (final_ && !fresh(traffic)) || (own_ && !draining_)) return "it is not known yet what belongs to it";
  if (!made_ || *made_ != known_->belongings || (final_ && !locked_ && !known_->locks.empty()) || doing_ != Doing::nothing || !heard_.done())
    return fmt::format("what belongs to it is not on {} yet", label_);
  return heard_.between_messages() ? "" : fmt::format("{} is in the middle of a message", label_);
}

Changeover::Taken Changeover::take() {
  std::map<std::string, std::string> parameters;
  for (const auto& [name, value] : link_.login().parameters()) parameters[name] = value;
  for (const auto& [name, value] : heard_.parameters()) parameters[name] = value;
  // What its own server had said when there was no more time to wait comes first.
  auto for_client = own_ ? own_->take_for_client() : "";
  for_client += heard_.take_for_client();
  return {std::move(link_.socket()), std::move(for_client), std::exchange(in_, {}), std::move(parameters), link_.login().key()};
}

}  // namespace midstream::gate
