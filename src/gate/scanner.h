// Finds the messages in one direction of a session's bytes, wherever these were split. It keeps the head of those bodies
// that the session wants to see (wire.h), never a whole large message: memory is bounded however long one is. Pure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "gate/wire.h"

namespace midstream::gate {

struct Message {
  char type = 0;
  std::uint32_t size = 0;  // of the body
  // The body's first bytes, as many as the kind wants at most. Valid until the scanner or the fed bytes change.
  std::string_view head;
  bool whole() const { return head.size() == size; }
};

class Scanner {
 public:
  // `least_kept`: of every body at least as much is kept as this, whatever its kind.
  explicit Scanner(Sender sender, std::uint32_t least_kept = 0) : sender_(sender), least_kept_(least_kept) {}

  // Goes through `bytes` up to the end of one message, and takes them off its front. A header (five bytes) is taken only as
  // a whole: what is left of `bytes` when there is no message yet is fewer than that, and is fed again with more.
  std::optional<Message> next(std::string_view& bytes);

  // Nothing of a message has been taken that has not been taken to its end.
  bool between() const { return type_ == 0; }
  // What is wrong with the bytes, once something is; nothing is taken any more from then on.
  const std::optional<Fatal>& broken() const { return broken_; }

 private:
  bool take_header(std::string_view& bytes);
  const Sender sender_;
  const std::uint32_t least_kept_;
  char type_ = 0;  // of the message under way, 0 between messages
  std::uint32_t size_ = 0;
  std::uint32_t left_ = 0;  // of its body
  std::uint32_t keep_ = 0;
  std::string kept_;  // the head of a body that came in pieces
  std::optional<Fatal> broken_;
};

}  // namespace midstream::gate
