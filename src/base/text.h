// Small pure text helpers.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace midstream {

// Parts of `text` between `separator`s; empty parts are kept. "" gives one empty part.
std::vector<std::string> split(std::string_view text, char separator);
std::string join(const std::vector<std::string>& parts, std::string_view separator);
std::string_view trim(std::string_view text);

// The candidate nearest to `word` by edit distance, or "" if none is within a third of the word's length.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

// `text` with control characters and non-ASCII bytes as \xNN, for messages and logs about untrusted names.
std::string printable(std::string_view text);

std::string to_hex(std::string_view bytes);
// The bytes that to_hex() wrote, in either case of letters; nullopt for anything else.
std::optional<std::string> from_hex(std::string_view text);

// Names that may become part of a path, a role or a slot: [a-z0-9_-], 1 to 40 characters, a letter first.
bool is_plain_name(std::string_view name);

}  // namespace midstream
