// What a manifest may look like, as one table (fields.cc) from which both the parser's structural check and the
// published JSON Schema are made. What one value means for another (references, order, ranges) is manifest.cc's.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "manifest/yaml_tree.h"

namespace midstream {

struct Shape;

struct Field {
  enum class Need {
    optional,
    required,
    one_of,  // exactly one of the object's fields so marked
    any_of,  // one or more of those so marked, in the place of a one_of
    later,   // known by name, but this version cannot do it: an error that says so
  };
  std::string_view name;
  const Shape* shape;
  Need need;
  std::string_view about;  // one line for the schema; for `later`: what it will be
};

struct Shape {
  enum class Kind {
    text,         // a scalar for which `valid` holds
    words,        // one of `words`
    integer,      // `least` to `most`
    percent,      // an integer or "5%"
    boolean,
    list,         // of `item`
    one_or_list,  // an `item`, or a list of them
    object,       // of `fields`
    map,          // of any plain names to `item`
  };
  Kind kind;
  std::string_view expected;  // "a duration such as 100ms, 5s, 5m or 2h": the end of "expected ..."
  bool (*valid)(std::string_view) = nullptr;
  std::string_view pattern{};  // ECMA 262; at least as wide as `valid`
  bool secret = false;         // a value that is found wrong is not repeated: it may hold a password
  std::span<const std::string_view> words{};
  std::int64_t least = 0;
  std::int64_t most = 0;
  const Shape* item = nullptr;
  std::span<const Field> fields{};
};

// The whole manifest's shape.
const Shape& manifest_shape();

struct Problem {
  Position at;
  std::string text;  // "hosts.old: found ..., expected ..."
};

// Where `node` differs from `shape`, in the document's order. `path` names the node.
std::vector<Problem> check_shape(const YamlNode& node, const Shape& shape, const std::string& path);

Json schema_of(const Shape& shape);

// "hosts" and "old" to "hosts.old"; an empty parent gives the child alone.
std::string path_to(std::string_view parent, std::string_view child);
// "'word'", short and printable.
std::string in_quotes(std::string_view word);
// "found 'word', expected EXPECTED[, did you mean 'candidate'?]".
std::string found_expected(std::string_view word, std::string_view expected, const std::vector<std::string>& candidates);

}  // namespace midstream
