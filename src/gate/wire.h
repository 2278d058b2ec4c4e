// The PostgreSQL protocol 3.0 as bytes: which messages there are, how long they may be, how they are written. Pure.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

namespace midstream::gate {

// Who sent a message: the same letter means different things from either side.
enum class Sender { client, server };

// Of a message: a type byte, then a length that counts itself but not the type byte.
inline constexpr std::size_t kHeaderSize = 5;
// What PostgreSQL takes at most of a message that carries data, and of one that does not.
inline constexpr std::uint32_t kLargeMessage = 0x3ffffffe;
inline constexpr std::uint32_t kSmallMessage = 10'000;

struct MessageKind {
  bool known = false;
  std::uint32_t limit = 0;  // of the length field
  std::uint32_t keep = 0;   // how much of the body's head the session wants to see
};
// A letter that protocol 3.0 does not have (PostgreSQL 12 to 17) gives one that is not known.
const MessageKind& message_kind(Sender sender, char type);

// An error that the gate itself tells a client, as PostgreSQL tells its own: severity FATAL, the connection ends.
struct Fatal {
  std::string sqlstate;
  std::string message;
  std::string detail;
};

std::uint32_t read_u32(std::string_view bytes);  // big-endian; REQUIRES four bytes
std::uint16_t read_u16(std::string_view bytes);  // REQUIRES two bytes
void append_u32(std::string& to, std::uint32_t value);

// One whole message around `body`.
std::string message(char type, std::string_view body);
std::string error_message(const Fatal& error);
std::string parameter_status(std::string_view name, std::string_view value);

// Takes a zero-terminated string off the front of `bytes`; nullopt where there is no terminator.
std::optional<std::string_view> take_string(std::string_view& bytes);

// The field `code` ('S' severity, 'C' SQLSTATE, 'M' message ...) of an ErrorResponse's or NoticeResponse's body; "" if absent
// or cut off.
std::string_view error_field(std::string_view body, char code);

}  // namespace midstream::gate
