#include "manifest/yaml_tree.h"

#include <fmt/format.h>
#include <yaml-cpp/anchor.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <map>
#include <sstream>
#include <utility>

namespace midstream {

namespace {

constexpr std::size_t kMaxBytes = 256u << 10;
constexpr std::size_t kMaxDepth = 32;

Position position(const YAML::Mark& mark) { return {mark.line + 1, mark.column + 1}; }

// Leaves the parser from within an event; never leaves read_yaml.
struct Stop {
  YamlProblem problem;
};

class TreeBuilder final : public YAML::EventHandler {
 public:
  explicit TreeBuilder(YamlTree& tree) : tree_(tree) {}

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    place(mark, make(YamlNode::Kind::null, mark, anchor));
  }
  void OnAlias(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    const auto found = anchors_.find(anchor);
    if (found == anchors_.end()) throw Stop{{position(mark), "found an alias within what it stands for, expected a value"}};
    place(mark, found->second);
  }
  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor, const std::string& value) override {
    // "?" is plain and "!" quoted; a plain scalar may also come with no tag at all.
    if (!tag.empty() && tag != "?" && tag != "!") {
      throw Stop{{position(mark), fmt::format("found the tag '{}', expected a plain value", tag)}};
    }
    auto* node = make(YamlNode::Kind::scalar, mark, anchor);
    node->text = value;
    place(mark, node);
  }
  void OnSequenceStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::list, mark, anchor);
  }
  void OnSequenceEnd() override { close(); }
  void OnMapStart(const YAML::Mark& mark, const std::string&, YAML::anchor_t anchor, YAML::EmitterStyle::value) override {
    open(YamlNode::Kind::map, mark, anchor);
  }
  void OnMapEnd() override { close(); }

 private:
  struct Level {
    YamlNode* node;
    YAML::anchor_t anchor;
    bool key_next = true;
  };

  YamlNode* make(YamlNode::Kind kind, const YAML::Mark& mark, YAML::anchor_t anchor) {
    auto* node = tree_.add();
    node->kind = kind;
    node->at = position(mark);
    const bool open_yet = kind == YamlNode::Kind::list || kind == YamlNode::Kind::map;
    if (anchor != 0 && !open_yet) anchors_[anchor] = node;
    return node;
  }

  void open(YamlNode::Kind kind, const YAML::Mark& mark, YAML::anchor_t anchor) {
    if (levels_.size() >= kMaxDepth) {
      throw Stop{{position(mark), fmt::format("found more than {} levels, expected fewer", kMaxDepth)}};
    }
    auto* node = make(kind, mark, 0);
    place(mark, node);
    levels_.push_back({node, anchor});
  }

  // An anchor can be spoken of once its node is whole: this keeps cycles out.
  void close() {
    const auto level = levels_.back();
    levels_.pop_back();
    if (level.anchor != 0) anchors_[level.anchor] = level.node;
  }

  void place(const YAML::Mark& mark, const YamlNode* node) {
    if (levels_.empty()) {
      tree_.root = node;
      return;
    }
    auto& level = levels_.back();
    if (level.node->kind == YamlNode::Kind::list) {
      level.node->items.push_back(node);
    } else if (std::exchange(level.key_next, !level.key_next)) {
      if (node->kind != YamlNode::Kind::scalar) throw Stop{{position(mark), "found a key that is no text, expected a name"}};
      level.node->entries.push_back({node->text, position(mark), nullptr});
    } else {
      level.node->entries.back().value = node;
    }
  }

  YamlTree& tree_;
  std::vector<Level> levels_;
  std::map<YAML::anchor_t, const YamlNode*> anchors_;
};

}  // namespace

const YamlNode* YamlNode::find(std::string_view key) const {
  for (const auto& entry : entries) {
    if (entry.key == key) return entry.value;
  }
  return nullptr;
}

std::expected<YamlTree, YamlProblem> read_yaml(std::string_view yaml) {
  if (yaml.size() > kMaxBytes) {
    return std::unexpected(YamlProblem{{}, fmt::format("found {} bytes, expected at most {}", yaml.size(), kMaxBytes)});
  }
  YamlTree tree;
  try {
    std::istringstream in{std::string(yaml)};
    YAML::Parser parser(in);
    TreeBuilder builder(tree);
    if (!parser.HandleNextDocument(builder)) return std::unexpected(YamlProblem{{}, "found nothing, expected a manifest"});
    YamlTree rest;
    TreeBuilder second(rest);
    if (parser.HandleNextDocument(second)) {
      return std::unexpected(YamlProblem{rest.root ? rest.root->at : Position{}, "found a second document, expected one"});
    }
  } catch (const Stop& stop) {
    return std::unexpected(stop.problem);
  } catch (const YAML::Exception& error) {
    const auto at = error.mark.is_null() ? Position{} : position(error.mark);
    return std::unexpected(YamlProblem{at, fmt::format("found no valid YAML ({}), expected a manifest", error.msg)});
  } catch (const std::exception& error) {
    return std::unexpected(YamlProblem{{}, fmt::format("found no valid YAML ({}), expected a manifest", error.what())});
  }
  return tree;
}

}  // namespace midstream
