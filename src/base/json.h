// JSON values and typed access to them: a missing or mistyped field is an error that names its path, never an
// exception.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

// Instantiated once, in json.cc: the class is the dearest thing that most files include.
extern template class nlohmann::basic_json<>;

namespace midstream {

using Json = nlohmann::json;  // objects are ordered by key, so dumps are deterministic

// Parses `text`; at most `max_depth` levels. Corrupt on anything that is not one JSON value.
Result<Json> parse_json(std::string_view text, int max_depth = 64);

// The field `key` of the object `object`; corrupt ("desired: field 'x' is missing / is not a ...") otherwise.
Result<std::string> get_string(const Json& object, std::string_view key);
Result<std::int64_t> get_int(const Json& object, std::string_view key);
Result<bool> get_bool(const Json& object, std::string_view key);
Result<Json> get_object(const Json& object, std::string_view key);
Result<std::vector<std::string>> get_strings(const Json& object, std::string_view key);

// The same with a default for a missing field; a mistyped one yields the default too.
std::string get_string_or(const Json& object, std::string_view key, std::string fallback);
std::int64_t get_int_or(const Json& object, std::string_view key, std::int64_t fallback);
bool get_bool_or(const Json& object, std::string_view key, bool fallback);

// An Error as it crosses the wire or is stored: {"kind","what","todo"}.
Json to_json(const Error& error);
Error error_from_json(const Json& value);

}  // namespace midstream
