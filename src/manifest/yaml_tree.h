// A YAML document as a tree with positions. Scalars stay text: what they mean is the manifest's business.
#pragma once

#include <deque>
#include <expected>
#include <string>
#include <string_view>
#include <vector>

namespace midstream {

struct Position {
  int line = 1;  // both from 1
  int column = 1;
};

struct YamlNode {
  enum class Kind { null, scalar, list, map };
  struct Entry {
    std::string key;
    Position at;  // of the key
    const YamlNode* value = nullptr;
  };

  Kind kind = Kind::null;
  Position at;
  std::string text;                    // of a scalar
  std::vector<const YamlNode*> items;  // of a list
  std::vector<Entry> entries;          // of a map, in the document's order, duplicates included

  // The value of the first entry `key` of a map; nullptr where there is none.
  const YamlNode* find(std::string_view key) const;
};

// Owns the nodes. An alias is the same node again, so a small document may stand for a large one: whoever walks a
// tree counts its steps. There are no cycles, and no node is deeper than 32 levels as written.
class YamlTree {
 public:
  YamlNode* add() { return &nodes_.emplace_back(); }
  const YamlNode* root = nullptr;

 private:
  std::deque<YamlNode> nodes_;
};

struct YamlProblem {
  Position at;
  std::string text;
};

// The one document in `yaml`. Bounded: 256 KiB, 32 levels.
std::expected<YamlTree, YamlProblem> read_yaml(std::string_view yaml);

}  // namespace midstream
