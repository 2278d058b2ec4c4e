#include "gate/wire.h"

namespace midstream::gate {

namespace {

using Table = std::array<MessageKind, 256>;

// Enough of a body's head for: names (Bind), a command tag, an error's severity and code, a setting.
constexpr std::uint32_t kNames = 256;
constexpr std::uint32_t kTag = 64;
constexpr std::uint32_t kError = 1024;
constexpr std::uint32_t kSetting = 8192;
// A statement is kept whole up to here, so that it can be prepared again on another server, and so that the settings show that
// it makes.
constexpr std::uint32_t kStatement = 64 * 1024;

void put(Table& table, std::string_view types, std::uint32_t limit, std::uint32_t keep = 0) {
  for (const char type : types) table[static_cast<unsigned char>(type)] = {true, limit, keep};
}

Table client_table() {
  Table table{};
  put(table, "Fd", kLargeMessage);
  put(table, "QP", kLargeMessage, kStatement);
  put(table, "B", kLargeMessage, kNames);
  put(table, "DEHScfX", kSmallMessage);
  put(table, "C", kSmallMessage, kNames);
  put(table, "p", 65'535, 65'535);
  return table;
}

Table server_table() {
  Table table{};
  put(table, "23cdDGHIVWnNAtT1sv", kLargeMessage);
  put(table, "C", kLargeMessage, kTag);
  put(table, "E", kLargeMessage, kError);
  put(table, "S", kLargeMessage, kSetting);
  put(table, "R", kSmallMessage, kSmallMessage);
  put(table, "K", kSmallMessage, kNames);
  put(table, "Z", 5, 1);
  return table;
}

}  // namespace

const MessageKind& message_kind(Sender sender, char type) {
  static const Table client = client_table();
  static const Table server = server_table();
  return (sender == Sender::client ? client : server)[static_cast<unsigned char>(type)];
}

std::uint32_t read_u32(std::string_view bytes) {
  const auto at = [&](std::size_t i) { return static_cast<std::uint32_t>(static_cast<unsigned char>(bytes[i])); };
  return at(0) << 24 | at(1) << 16 | at(2) << 8 | at(3);
}

std::uint16_t read_u16(std::string_view bytes) {
  return static_cast<std::uint16_t>(static_cast<unsigned char>(bytes[0]) << 8 | static_cast<unsigned char>(bytes[1]));
}

void append_u32(std::string& to, std::uint32_t value) {
  for (const int shift : {24, 16, 8, 0}) to.push_back(static_cast<char>(value >> shift & 0xff));
}

std::string message(char type, std::string_view body) {
  std::string out(1, type);
  append_u32(out, static_cast<std::uint32_t>(body.size() + 4));
  return out.append(body);
}

std::string error_message(const Fatal& error) {
  std::string body;
  const auto field = [&](char code, std::string_view text) {
    if (text.empty()) return;
    body.push_back(code);
    body.append(text).push_back('\0');
  };
  field('S', "FATAL");
  field('V', "FATAL");
  field('C', error.sqlstate);
  field('M', error.message);
  field('D', error.detail);
  body.push_back('\0');
  return message('E', body);
}

std::string parameter_status(std::string_view name, std::string_view value) {
  std::string body(name);
  body.push_back('\0');
  body.append(value).push_back('\0');
  return message('S', body);
}

std::optional<std::string_view> take_string(std::string_view& bytes) {
  const auto end = bytes.find('\0');
  if (end == std::string_view::npos) return std::nullopt;
  const auto text = bytes.substr(0, end);
  bytes.remove_prefix(end + 1);
  return text;
}

std::string_view error_field(std::string_view body, char code) {
  while (!body.empty() && body[0] != '\0') {
    const char here = body[0];
    body.remove_prefix(1);
    const auto text = take_string(body);
    if (!text) return {};
    if (here == code) return *text;
  }
  return {};
}

}  // namespace midstream::gate
