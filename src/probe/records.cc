#include "probe/records.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>

#include "base/text.h"

namespace midstream {

namespace {

constexpr std::array<std::string_view, 4> kOutcomes{"ok", "slow", "failed", "timeout"};

// CRC-32C (RFC 3720, appendix B.4).
constexpr auto kCrcTable = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = (value >> 1) ^ ((value & 1) != 0 ? 0x82f63b78u : 0);
    table[i] = value;
  }
  return table;
}();

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = ~0u;
  for (const unsigned char byte : bytes) crc = (crc >> 8) ^ kCrcTable[(crc ^ byte) & 0xff];
  return ~crc;
}

std::string body_of(const SessionLine& line) {
  Json targets = Json::array();
  for (const auto& target : line.targets) {
    targets.push_back({{"name", target.name},
                       {"address", target.is_address},
                       {"every_ms", target.every.count()},
                       {"timeout_ms", target.timeout.count()}});
  }
  return fmt::format("S 1 {} {} {} {}", line.boot_id, line.boot.count(), line.wall_ms, targets.dump());
}

std::string body_of(const RunLine& line) {
  return fmt::format("P {} {} {} {} {} {} {} {} {} {}", line.target, line.first_seq, line.last_seq - line.first_seq + 1,
                     line.first_start.count(), (line.last_start - line.first_start).count(), line.first_latency.count(),
                     line.worst_latency.count(), to_string(line.outcome), log_word(line.error), log_word(line.host));
}

std::string body_of(const EndLine& line) { return fmt::format("E {}", line.boot.count()); }

std::unexpected<Error> bad_line(std::string_view text) {
  return corrupt(fmt::format("the probe's log has a line that is not one: '{}'", printable(text.substr(0, 80))));
}

// Takes the words of a line one after the other; `good` falls with the first that is not what it must be.
struct Words {
  std::string_view rest;
  bool good = true;

  std::string_view word() {
    const auto end = std::min(rest.find(' '), rest.size());
    const auto taken = rest.substr(0, end);
    rest.remove_prefix(std::min(end + 1, rest.size()));
    good = good && !taken.empty();
    return taken;
  }
  std::int64_t number() {
    const auto text = word();
    std::int64_t value = 0;
    const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
    good = good && failed == std::errc() && end == text.data() + text.size() && value >= 0;
    return value;
  }
};

Result<LogLine> decode_session(Words words, std::string_view text) {
  SessionLine line;
  const auto version = words.number();
  line.boot_id = words.word();
  line.boot = Nanos(words.number());
  line.wall_ms = words.number();
  if (!words.good || version != 1) return bad_line(text);
  const auto targets = TRY(parse_json(words.rest));
  if (!targets.is_array()) return bad_line(text);
  for (const auto& target : targets) {
    const auto every = TRY(get_int(target, "every_ms"));
    const auto timeout = TRY(get_int(target, "timeout_ms"));
    if (every <= 0 || timeout <= 0) return bad_line(text);
    line.targets.push_back({TRY(get_string(target, "name")), TRY(get_bool(target, "address")),
                            std::chrono::milliseconds(every), std::chrono::milliseconds(timeout)});
  }
  return line;
}

Result<LogLine> decode_run(Words words, std::string_view text) {
  RunLine line;
  line.target = static_cast<int>(words.number());
  line.first_seq = words.number();
  const auto count = words.number();
  line.last_seq = line.first_seq + count - 1;
  line.first_start = Nanos(words.number());
  line.last_start = line.first_start + Nanos(words.number());
  line.first_latency = std::chrono::microseconds(words.number());
  line.worst_latency = std::chrono::microseconds(words.number());
  const auto* const outcome = std::ranges::find(kOutcomes, words.word());
  line.error = words.word();
  line.host = words.word();
  if (!words.good || count < 1 || outcome == kOutcomes.end() || !words.rest.empty()) return bad_line(text);
  line.outcome = static_cast<ProbeOutcome>(outcome - kOutcomes.begin());
  return line;
}

}  // namespace

std::string_view to_string(ProbeOutcome outcome) { return kOutcomes[static_cast<std::size_t>(outcome)]; }

std::string encode_line(const LogLine& line) {
  const auto body = std::visit([](const auto& one) { return body_of(one); }, line);
  return fmt::format("{:08x} {}\n", crc32c(body), body);
}

Result<LogLine> decode_line(std::string_view text) {
  if (text.size() < 11 || text[8] != ' ') return bad_line(text);
  const auto body = text.substr(9);
  if (fmt::format("{:08x}", crc32c(body)) != text.substr(0, 8)) return bad_line(text);
  Words words{body};
  const auto kind = words.word();
  if (kind == "S") return decode_session(words, text);
  if (kind == "P") return decode_run(words, text);
  if (kind != "E") return bad_line(text);
  const EndLine line{Nanos(words.number())};
  if (!words.good || !words.rest.empty()) return bad_line(text);
  return line;
}

std::string log_word(std::string_view text) {
  std::string word;
  for (const char c : text.substr(0, 64)) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    word += plain || std::string_view("-_.:").contains(c) ? c : '_';
  }
  return word.empty() ? "-" : word;
}

}  // namespace midstream
