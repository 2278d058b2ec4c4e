// Errors as values. Every fallible function returns Result<T>; no exception crosses a module's edge.
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace midstream {

// What the caller does next, not where the error came from.
enum class ErrorKind {
  retry,      // transient (slow peer, cut link, lock held): the same call may succeed later
  refused,    // an operator must change something first: a setting, a right, the manifest
  fenced,     // someone with a newer epoch or title owns this: stand down, touch nothing
  corrupt,    // what was read cannot be true: stop and keep the evidence
  cancelled,  // asked to stop, or the deadline passed with the effect not begun
  unknown,    // the effect may or may not have happened: observe before doing anything else
};

std::string_view to_string(ErrorKind kind);
// The kind spelled `name`; ErrorKind::corrupt for a name that is not a kind.
ErrorKind error_kind_from(std::string_view name);

struct Error {
  ErrorKind kind = ErrorKind::refused;
  std::string what;  // what happened, and to what
  std::string todo;  // what to do about it; may be empty where nothing can be done

  // "what; todo", for people.
  std::string text() const;
};

template <class T = void>
using Result = std::expected<T, Error>;

// Shorthands: `return refused("pg_hba.conf has no line for ...", "add ...")`.
std::unexpected<Error> failure(ErrorKind kind, std::string what, std::string todo = "");
inline std::unexpected<Error> retry(std::string what, std::string todo = "") {
  return failure(ErrorKind::retry, std::move(what), std::move(todo));
}
inline std::unexpected<Error> refused(std::string what, std::string todo = "") {
  return failure(ErrorKind::refused, std::move(what), std::move(todo));
}
inline std::unexpected<Error> corrupt(std::string what, std::string todo = "") {
  return failure(ErrorKind::corrupt, std::move(what), std::move(todo));
}

// "what: strerror(code)", with the kind that such an errno calls for (ENOSPC, EACCES ... are refused,
// EINTR, ECONNREFUSED, ETIMEDOUT ... are retry).
std::unexpected<Error> errno_failure(std::string what, int code);

// Puts `context: ` in front of the error's text and keeps its kind.
std::unexpected<Error> with_context(Error error, std::string_view context);

}  // namespace midstream

// auto value = TRY(fallible());   leaves the function with the error, else yields the value.
#define TRY(expression)                                                         \
  __extension__({                                                               \
    auto&& try_result_ = (expression);                                          \
    if (!try_result_) return std::unexpected(std::move(try_result_).error());   \
    *std::move(try_result_);                                                    \
  })
// The same for Result<void>, as a statement.
#define CHECK_OK(expression)                                                    \
  do {                                                                          \
    if (auto check_result_ = (expression); !check_result_)                      \
      return std::unexpected(std::move(check_result_).error());                 \
  } while (false)
