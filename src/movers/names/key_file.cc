#include "movers/names/key_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "sys/file.h"

namespace midstream::dns {

namespace {

constexpr std::string_view kExpected = "expected: key \"name\" { algorithm hmac-sha256; secret \"...\"; };";

bool is_blank(char c) {
  return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

// Moves `at` over blanks and comments (#, // to the end of the line, /* */).
void skip(std::string_view text, std::size_t& at) {
  while (at < text.size()) {
    if (is_blank(text[at])) {
      ++at;
    } else if (text[at] == '#' || text.substr(at, 2) == "//") {
      at = std::min(text.find('\n', at), text.size());
    } else if (text.substr(at, 2) == "/*") {
      const auto end = text.find("*/", at + 2);
      at = end == std::string_view::npos ? text.size() : end + 2;
    } else {
      return;
    }
  }
}

std::vector<std::string> tokens_of(std::string_view text) {
  std::vector<std::string> tokens;
  std::size_t at = 0;
  for (skip(text, at); at < text.size(); skip(text, at)) {
    if (text[at] == '"') {
      const auto end = std::min(text.find('"', at + 1), text.size());
      tokens.emplace_back(text.substr(at + 1, end - at - 1));
      at = std::min(end + 1, text.size());
    } else if (text[at] == '{' || text[at] == '}' || text[at] == ';') {
      tokens.emplace_back(1, text[at++]);
    } else {
      const auto begin = at;
      while (at < text.size() && !is_blank(text[at]) &&
             std::string_view("{};\"").find(text[at]) == std::string_view::npos)
        ++at;
      tokens.emplace_back(text.substr(begin, at - begin));
    }
  }
  return tokens;
}

std::string absolute_lower(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  if (!name.ends_with('.')) name += '.';
  return name;
}

bool is_base64(std::string_view text) {
  return text.size() >= 4 && text.size() % 4 == 0 && std::all_of(text.begin(), text.end(), [](char c) {
           return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '+' ||
                  c == '/' || c == '=';
         });
}

}  // namespace

Result<TsigKey> parse_key_file(std::string_view text) {
  const auto tokens = tokens_of(text);
  if (tokens.size() < 4 || tokens[0] != "key" || tokens[2] != "{") {
    return refused("the key file does not begin with a key", std::string(kExpected));
  }
  TsigKey key;
  key.name = absolute_lower(tokens[1]);
  std::size_t at = 3;
  for (; at + 2 < tokens.size() && tokens[at] != "}"; at += 3) {
    if (tokens[at + 2] != ";")
      return refused("the key file has a clause without a semicolon", std::string(kExpected));
    if (tokens[at] == "algorithm") key.algorithm = absolute_lower(tokens[at + 1]);
    if (tokens[at] == "secret") key.secret = tokens[at + 1];
  }
  if (at >= tokens.size() || tokens[at] != "}")
    return refused("the key in the key file has no end", std::string(kExpected));
  if (at + 1 < tokens.size() && tokens[at + 1] == ";") ++at;
  if (at + 1 != tokens.size())
    return refused("the key file holds more than one key", "keep the one for this move in a file of its own");
  constexpr std::array<std::string_view, 2> algorithms{"hmac-sha256.", "hmac-sha512."};
  if (std::find(algorithms.begin(), algorithms.end(), key.algorithm) == algorithms.end()) {
    return refused("the key's algorithm is neither hmac-sha256 nor hmac-sha512",
                   "make one with tsig-keygen -a hmac-sha256");
  }
  if (!is_base64(key.secret)) return refused("the key's secret is not base64", "make one with tsig-keygen");
  return key;
}

Result<TsigKey> load_key_file(const std::filesystem::path& path) {
  const auto text = read_file(path, 64u << 10);
  if (!text) return with_context(text.error(), "TSIG key");
  auto key = parse_key_file(*text);
  if (!key) return with_context(std::move(key).error(), path.string());
  return key;
}

}  // namespace midstream::dns
