#include "base/result.h"

#include <array>
#include <cerrno>
#include <cstring>

namespace midstream {

namespace {
constexpr std::array<std::pair<ErrorKind, std::string_view>, 6> kKinds{{
    {ErrorKind::retry, "retry"},
    {ErrorKind::refused, "refused"},
    {ErrorKind::fenced, "fenced"},
    {ErrorKind::corrupt, "corrupt"},
    {ErrorKind::cancelled, "cancelled"},
    {ErrorKind::unknown, "unknown"},
}};
}  // namespace

std::string_view to_string(ErrorKind kind) {
  for (const auto& [value, name] : kKinds) {
    if (value == kind) return name;
  }
  return "corrupt";
}

ErrorKind error_kind_from(std::string_view name) {
  for (const auto& [value, text] : kKinds) {
    if (text == name) return value;
  }
  return ErrorKind::corrupt;
}

std::string Error::text() const { return todo.empty() ? what : what + "; " + todo; }

std::unexpected<Error> failure(ErrorKind kind, std::string what, std::string todo) {
  return std::unexpected(Error{kind, std::move(what), std::move(todo)});
}

std::unexpected<Error> errno_failure(std::string what, int code) {
  ErrorKind kind = ErrorKind::refused;
  switch (code) {
    // clang-format off
    case EINTR: case EAGAIN: case EBUSY: case ECONNREFUSED: case ECONNRESET: case ECONNABORTED:
    case ETIMEDOUT: case EPIPE: case EHOSTUNREACH: case ENETUNREACH: case EADDRINUSE:
      kind = ErrorKind::retry;
      break;
    case EUCLEAN: case EBADMSG:
      kind = ErrorKind::corrupt;
      break;
    // clang-format on
    default: break;
  }
  return failure(kind, what + ": " + std::strerror(code));
}

std::unexpected<Error> with_context(Error error, std::string_view context) {
  error.what = std::string(context) + ": " + error.what;
  return std::unexpected(std::move(error));
}

}  // namespace midstream
