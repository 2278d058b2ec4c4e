#include "gate/answers.h"

#include <algorithm>

#include "gate/statements.h"

namespace midstream::gate {

namespace {

// Bodies are kept only while what is owed stays small; the request is counted either way.
constexpr std::size_t kMostBytes = 4u << 20;

std::string first_name(std::string_view body) {
  const auto name = take_string(body);
  return Statements::key(name ? *name : body);
}

Answers::Owed owed_by(const Message& message, std::size_t held) {
  Answers::Owed owed{.type = message.type};
  switch (message.type) {
    case 'P':
      owed.name = first_name(message.head);
      if (message.whole() && held + message.size <= kMostBytes) owed.body = message.head;
      break;
    case 'B': owed.name = first_name(message.head); break;
    case 'C':
    case 'D':
      owed.portal = !message.head.empty() && message.head[0] == 'P';
      if (!message.head.empty()) owed.name = first_name(message.head.substr(1));
      break;
    default: break;
  }
  return owed;
}

}  // namespace

void Answers::push(Owed owed, bool in_copy) {
  bytes_ += owed.body.size();
  owed_.push_back({std::move(owed), in_copy, false});
}

Answers::Entry Answers::take_front() {
  auto entry = std::move(owed_.front());
  owed_.pop_front();
  bytes_ -= entry.owed.body.size();
  return entry;
}

void Answers::requested(const Message& message) {
  switch (message.type) {
    case 'S':
      if (!copying_in_) skipping_ = unsynced_ = false;
      push({.type = 'S'}, copying_in_);
      break;
    case 'c':
    case 'f':
      if (skipping_) break;
      copying_in_ = false;
      if (!owed_.empty()) push({.type = 'c'});
      break;
    case 'Q':
    case 'F':
      if (skipping_) break;
      unsynced_ = false;
      push({.type = message.type, .large = message.type == 'Q' && !message.whole()});
      break;
    case 'P':
    case 'B':
    case 'D':
    case 'C':
    case 'E':
      if (skipping_) break;
      unsynced_ = true;
      push(owed_by(message, bytes_));
      break;
    default: break;  // CopyData, Flush, Terminate: nothing of their own comes back
  }
}

// The type of the request whose answer is next, 0 where there is none. Ends of COPY data that the server did not ask for
// have no answer; a Sync that may have been dropped becomes a doubt.
char Answers::front() {
  while (!owed_.empty() && (owed_.front().owed.type == 'c' || owed_.front().maybe)) {
    if (take_front().maybe) ++doubts_;
  }
  return owed_.empty() ? '\0' : owed_.front().owed.type;
}

std::optional<Answers::Owed> Answers::take(char expected) {
  if (front() != expected) {
    lost_ = true;
    return std::nullopt;
  }
  return take_front().owed;
}

void Answers::advanced(std::string_view expected) {
  const char at = front();
  if (at == 0 || expected.find(at) == std::string_view::npos) lost_ = true;
  progress_ = true;
}

std::optional<Answers::Owed> Answers::answered(const Message& message) {
  static constexpr std::string_view kAnyTime = "NASRKv";
  if (kAnyTime.find(message.type) != std::string_view::npos) return std::nullopt;
  if (message.type == 'Z') return ready();
  front();
  doubts_ = 0;  // a doubt that is answered is answered by a bare ReadyForQuery
  switch (message.type) {
    case '1': return take('P');
    case '2': return take('B');
    case '3': return take('C');
    case 'n': return take('D');
    case 'T':
      if (front() == 'D') return take('D');
      advanced("Q");
      break;
    case 't': advanced("D"); break;
    case 'D':
    case 'H':
    case 'd':
    case 'c': advanced("QE"); break;
    case 'V': advanced("F"); break;
    case 's': return take('E');
    case 'C':
    case 'I': return completed();
    case 'G':
    case 'W': copy_in_began(); break;
    case 'E': return failed();
    default: break;
  }
  return std::nullopt;
}

std::optional<Answers::Owed> Answers::completed() {
  const bool simple = front() == 'Q';
  std::optional<Owed> done;
  if (simple) {
    progress_ = true;
  } else {
    done = take('E');
  }
  if (reading_) copy_in_ended(simple ? 1 : 0);
  return done;
}

void Answers::copy_in_began() {
  advanced("QE");
  if (lost_) return;
  reading_ = true;
  const auto begin = owed_.begin() + 1;
  const auto end = std::find_if(begin, owed_.end(), [](const Entry& entry) { return entry.owed.type == 'c'; });
  copying_in_ = end == owed_.end();
  for (auto it = begin; it != end; ++it) it->in_copy = it->owed.type == 'S';
  if (owed_.front().owed.type != 'E') return;
  unsynced_ =
      std::none_of(begin, owed_.end(), [](const Entry& entry) { return entry.owed.type == 'S' && !entry.in_copy; });
}

// The COPY was read to its end: what the server dropped meanwhile, from `from` on, goes; and the end itself.
void Answers::copy_in_ended(std::size_t from) {
  reading_ = copying_in_ = false;
  const auto begin = owed_.begin() + static_cast<std::ptrdiff_t>(from);
  auto end = std::find_if(begin, owed_.end(), [](const Entry& entry) { return entry.owed.type == 'c'; });
  if (end == owed_.end()) {
    lost_ = true;
    return;
  }
  for (auto it = begin; it != end; ++it) bytes_ -= it->owed.body.size();
  owed_.erase(begin, end + 1);
}

std::optional<Answers::Owed> Answers::failed() {
  for (auto& entry : owed_) entry.maybe = entry.maybe || (reading_ && entry.in_copy);
  reading_ = copying_in_ = false;
  const char at = front();
  if (at == 0) return std::nullopt;
  if (at == 'Q' || at == 'F' || at == 'S') {
    progress_ = true;
    return std::nullopt;
  }
  auto first = take_front().owed;
  while (!owed_.empty() && (owed_.front().owed.type != 'S' || owed_.front().maybe)) {
    if (take_front().maybe) ++doubts_;
  }
  skipping_ = owed_.empty();
  if (skipping_) unsynced_ = false;
  return first;
}

std::optional<Answers::Owed> Answers::ready() {
  const char at = front();
  const bool complete = at == 'S' || ((at == 'Q' || at == 'F') && progress_);
  progress_ = false;
  if (complete) {
    auto done = take_front().owed;
    front();
    return done;
  }
  if (doubts_ == 0) {
    lost_ = true;
    return std::nullopt;
  }
  --doubts_;
  skipping_ = false;
  return std::nullopt;
}

}  // namespace midstream::gate
