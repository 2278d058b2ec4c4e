#include "sys/log.h"

#include <unistd.h>

#include <array>

#include "base/text.h"
#include "sys/clock.h"

namespace midstream {

void log_line(LogLevel level, std::string_view part, std::string_view text) {
  static constexpr std::array<std::string_view, 4> names{"debug", "info", "warn", "error"};
  const auto line = fmt::format("{} {} {}: {}\n", format_wall(wall_now_ms()), names[static_cast<std::size_t>(level)],
                                part, printable(text));
  // One write keeps lines of several threads whole; a full or closed stderr must not stop the work.
  [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace midstream
