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

Changeover::Changeover(const Server& to, std::size_t place, ServerLogin::Setting login, Watch watch, TemporaryLimits limits)
    : place_(place), label_(to.config.label), link_(to, std::move(login), std::move(watch)), limits_(limits) {}

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
      else if (!made_->temporary.empty()) compared(true);
      break;
    case Doing::comparing: compared(false); break;
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

// Reads what was made there of tables and cursors, round by round: it must be the same.
void Changeover::compared(bool begin) {
  if (begin) {
    TemporaryReader::Found found{.tables = !tables_kept_ && !made_->temporary.definitions.empty(), .copy = true, .tables_of = tables_kept_ ? &made_->temporary : nullptr};
    for (const auto& cursor : made_->temporary.cursors) found.cursors.emplace_back(cursor.name, cursor.binary);
    // A copy may take more room than what it is a copy of.
    copy_.emplace(TemporaryLimits{4 * limits_.bytes, limits_.tables}, std::move(found));
  } else {
    copy_->answered(heard_);
  }
  if (!copy_->done()) {
    heard_.again(copy_->next());
    doing_ = Doing::comparing;
    return;
  }
  auto why = copy_->pinned();
  if (why.empty()) why = difference(made_->temporary, copy_->take());
  copy_.reset();
  tables_there_ = why.empty();
  if (!why.empty()) trouble_ = fmt::format("its temporary tables and cursors cannot be made the same on {}: {}", label_, why);
}

// Begins what is still to be done on the other connection, if anything is.
void Changeover::make(bool settled) {
  if (!known_ || !known_->pinned.empty() || doing_ != Doing::nothing) return;
  if (!made_ || *made_ != known_->belongings) {
    const auto& wanted = known_->belongings.temporary;
    tables_kept_ = made_ && tables_there_ && !wanted.definitions.empty() && made_->temporary.same_tables(wanted) && can_keep_tables(wanted);
    heard_.again(make_again(known_->belongings, made_.has_value(), tables_kept_));
    made_ = known_->belongings;
    tables_there_ = false;
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

void Changeover::ask(const Traffic& traffic, std::string_view user, const std::set<std::string>& also, bool undisturbed) {
  undisturbed_ = undisturbed;
  const bool prepare = !question_there_ || resets_ != traffic.statements().resets();
  auto names = traffic.custom_settings();
  names.insert(also.begin(), also.end());
  own_.emplace(ask_belongings(names, user, prepare));
  question_there_ = true;
  temporary_question_there_ = temporary_question_there_ && !prepare;
  resets_ = traffic.statements().resets();
  draining_ = false;
}

void Changeover::drain() {
  own_.emplace(nothing());
  draining_ = true;
}

Changeover::Own Changeover::step_own(TlsSocket& own, const Traffic& traffic, std::string& rest, std::string& behind) {
  bool open = true;
  do {
    open = send(own, own_->to_send());
    std::array<char, 8'192> bytes;
    std::string_view view = own_in_;
    own_->from_server(view);
    own_in_.erase(0, own_in_.size() - view.size());
    while (open && !own_->done()) {
      std::size_t n = 0;
      const auto io = own.read(bytes, n);
      if (io == Io::blocked) return Own::waiting;
      open = io == Io::done;
      if (open) own_in_.append(bytes.data(), n);
      view = own_in_;
      own_->from_server(view);
      own_in_.erase(0, own_in_.size() - view.size());
    }
  } while (open && !own_->broken() && !draining_ && ask_more(traffic));
  rest = own_->take_for_client();
  for (const auto& [name, value] : own_->parameters()) rest += parameter_status(name, value);
  if (!open || own_->broken()) {
    if (!draining_) rest += own_->fatal();  // else it is needed no more, and what it said before is what counts
    own_.reset();
    return Own::broken;
  }
  behind = std::exchange(own_in_, {});
  if (!draining_) learned(traffic);
  own_.reset();
  return Own::answered;
}

// True: there is another question. What belongs to it is in learning_ when there is none.
bool Changeover::ask_more(const Traffic& traffic) {
  if (reader_) {
    reader_->answered(*own_);
  } else {
    const auto encoding = traffic.parameters().find("client_encoding");
    auto known = read_belongings(*own_, traffic.statements(), encoding == traffic.parameters().end() ? "" : encoding->second);
    // A cancel request of the client that came too late for its own statement, or its statement_timeout: asked again.
    if (!known && own_->sqlstate() != kQueryCanceled) known = Known{{}, {}, "it could not be asked what belongs to it: " + known.error()};
    if (!own_->error().empty()) question_there_ = temporary_question_there_ = false;
    if (!known) return false;
    learning_ = std::move(*known);
    if (!learning_->pinned.empty() || (!learning_->temporary_tables && learning_->cursors.empty())) return false;
    if (!learning_->cursors.empty() && !undisturbed_) {
      learning_.reset();  // as if it had been cancelled
      return false;
    }
    reader_.emplace(limits_, TemporaryReader::Found{.tables = learning_->temporary_tables, .cursors = learning_->cursors, .question_there = temporary_question_there_,
                                                    .texts_delete = traffic.may_delete_on_commit()});
    temporary_question_there_ = learning_->temporary_tables;
  }
  if (!reader_->done()) {
    own_->again(reader_->next());
    return true;
  }
  if (!reader_->pinned().empty()) temporary_question_there_ = false;
  if (reader_->cancelled()) learning_.reset();
  else if (learning_->pinned = reader_->pinned(); learning_->pinned.empty()) learning_->belongings.temporary = reader_->take();
  reader_.reset();
  return false;
}

void Changeover::learned(const Traffic& traffic) {
  cancelled_ = learning_ ? 0 : cancelled_ + 1;
  if (!learning_ && cancelled_ >= kCancelled) learning_ = Known{{}, {}, "it could not be asked what belongs to it: it is cancelled all the time"};
  known_ = std::exchange(learning_, {});
  known_at_ = traffic.changes();
  again_ = false;
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
