#include "control/lost.h"

#include <fmt/format.h>

#include "sys/clock.h"

namespace midstream {

namespace {

std::string missing_text(std::int64_t heard, std::int64_t safe, std::int64_t bytes) {
  if (safe == 0) return fmt::format("it was last heard of at {}; of what it acknowledged since the switch nothing can be said to be on old", format_wall(heard));
  if (bytes == 0) return fmt::format("everything that it had acknowledged by {} is on old; that is when it was last heard of", format_wall(heard));
  return fmt::format("everything that it had acknowledged by {} is on old; it was last heard of at {}, {:.1f} s later, and {} bytes of its log of that time are missing",
                     format_wall(safe), format_wall(heard), static_cast<double>(heard - safe) / 1e3, bytes);
}

}  // namespace

std::string lost_text(const std::string& database, const Json& outlook) {
  const auto state = get_string_or(outlook, "state", "");
  if (state != "yielded") return fmt::format("{}: old is '{}' there, it has not given it away: `midstream rollback` is enough\n", database, state);
  if (get_bool_or(outlook, "connected", false))
    return fmt::format("{}: new answers old, its stream runs: `midstream rollback` goes back and loses nothing\n", database);
  const auto heard = get_int_or(outlook, "heard_ms", 0);
  if (heard == 0) return fmt::format("{}: nobody has noted how far new was; what it acknowledged since the switch and old has not got cannot be said\n", database);
  auto text = fmt::format("{}: {}.\n", database, missing_text(heard, get_int_or(outlook, "safe_ms", 0), get_int_or(outlook, "bytes", 0)));
  if (get_bool_or(outlook, "sync", false)) {
    return text + "  Its commits waited for old then: of what was acknowledged later, too, nothing is missing but what sessions with synchronous_commit off or local wrote.\n";
  }
  return text + "  What it acknowledged after that nobody on this side knows: all of it may be missing.\n";
}

}  // namespace midstream
