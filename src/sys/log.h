// One line an event to stderr: "2026-11-22T11:02:03.456Z warn files: text". The supervisor keeps it. A log line
// is never the only trace of an error: the error itself is returned.
#pragma once

#include <fmt/format.h>

#include <string_view>

namespace midstream {

enum class LogLevel { debug, info, warn, error };

// Thread-safe; control characters in `text` are escaped. `part` is the component's name.
void log_line(LogLevel level, std::string_view part, std::string_view text);

template <class... Args>
void log_info(std::string_view part, fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::info, part, fmt::format(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warn(std::string_view part, fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::warn, part, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace midstream
