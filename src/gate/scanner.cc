#include "gate/scanner.h"

#include <fmt/format.h>

#include <algorithm>

namespace midstream::gate {

bool Scanner::take_header(std::string_view& bytes) {
  if (bytes.size() < kHeaderSize) return false;
  const char type = bytes[0];
  const auto& kind = message_kind(sender_, type);
  const auto length = read_u32(bytes.substr(1));
  if (!kind.known) {
    // The words of PostgreSQL, which gives the type as a number.
    broken_ = Fatal{"08P01",
                    fmt::format("invalid {} message type {}", sender_ == Sender::client ? "frontend" : "backend",
                                static_cast<unsigned char>(type)),
                    ""};
    return false;
  }
  if (length < 4 || length > kind.limit) {
    broken_ =
        Fatal{"08P01", "invalid message length",
              fmt::format("A message of type {} cannot be {} bytes long.", static_cast<unsigned char>(type), length)};
    return false;
  }
  type_ = type;
  size_ = left_ = length - 4;
  keep_ = std::min(size_, std::max(kind.keep, least_kept_));
  kept_.clear();
  bytes.remove_prefix(kHeaderSize);
  return true;
}

std::optional<Message> Scanner::next(std::string_view& bytes) {
  if (broken_ || (between() && !take_header(bytes))) return std::nullopt;
  const auto here = bytes.substr(0, left_);
  const bool in_one_piece = left_ == size_ && here.size() == left_;
  if (!in_one_piece && kept_.size() < keep_) kept_.append(here.substr(0, keep_ - kept_.size()));
  bytes.remove_prefix(here.size());
  left_ -= static_cast<std::uint32_t>(here.size());
  if (left_ > 0) return std::nullopt;
  const Message found{type_, size_, in_one_piece ? here.substr(0, keep_) : std::string_view(kept_)};
  type_ = 0;
  return found;
}

}  // namespace midstream::gate
