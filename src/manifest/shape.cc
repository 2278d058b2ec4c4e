#include "manifest/shape.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <utility>

#include "base/text.h"
#include "manifest/values.h"

namespace midstream {

namespace {

// Aliases make a small document stand for a large tree; the walk ends here.
constexpr int kMaxVisits = 50'000;
constexpr std::size_t kMaxProblems = 100;
constexpr const char* kHidden = "something else (not shown: it may hold a password)";

std::vector<std::string> names_of(const Shape& shape, bool with_later) {
  std::vector<std::string> names;
  for (const auto& field : shape.fields) {
    if (with_later || field.need != Field::Need::later) names.emplace_back(field.name);
  }
  return names;
}

std::string what_is(const YamlNode& node) {
  switch (node.kind) {
    case YamlNode::Kind::null: return "nothing";
    case YamlNode::Kind::list: return "a list";
    case YamlNode::Kind::map: return "a map";
    case YamlNode::Kind::scalar: break;
  }
  return in_quotes(node.text);
}

class Checker {
 public:
  void check(const YamlNode& node, const Shape& shape, const std::string& path) {
    if (++visits_ == kMaxVisits) add(node.at, path, fmt::format("found more than {} values, expected fewer", kMaxVisits));
    if (visits_ >= kMaxVisits || problems.size() >= kMaxProblems) return;
    switch (shape.kind) {
      case Shape::Kind::list: return check_list(node, shape, path);
      case Shape::Kind::one_or_list:
        if (node.kind == YamlNode::Kind::list) return check_list(node, shape, path);
        return check(node, *shape.item, path);
      case Shape::Kind::object: return check_object(node, shape, path);
      case Shape::Kind::map: return check_map(node, shape, path);
      default: return check_scalar(node, shape, path);
    }
  }

  std::vector<Problem> problems;

 private:
  void add(Position at, const std::string& path, std::string text) {
    problems.push_back({at, path.empty() ? std::move(text) : fmt::format("{}: {}", path, text)});
  }

  bool is(const YamlNode& node, YamlNode::Kind kind, const Shape& shape, const std::string& path) {
    if (node.kind == kind) return true;
    const bool hidden = shape.secret && node.kind == YamlNode::Kind::scalar;
    add(node.at, path, fmt::format("found {}, expected {}", hidden ? kHidden : what_is(node), shape.expected));
    return false;
  }

  void check_scalar(const YamlNode& node, const Shape& shape, const std::string& path) {
    if (!is(node, YamlNode::Kind::scalar, shape, path)) return;
    const auto number = parse_integer(node.text);
    std::vector<std::string> candidates;
    bool good = false;
    switch (shape.kind) {
      case Shape::Kind::integer: good = number && *number >= shape.least && *number <= shape.most; break;
      case Shape::Kind::percent: good = parse_percent(node.text).has_value(); break;
      case Shape::Kind::boolean: good = parse_boolean(node.text).has_value(); break;
      case Shape::Kind::words:
        candidates.assign(shape.words.begin(), shape.words.end());
        good = std::ranges::find(candidates, node.text) != candidates.end();
        break;
      default: good = shape.valid(node.text); break;
    }
    if (good) return;
    if (shape.secret) return add(node.at, path, fmt::format("found {}, expected {}", kHidden, shape.expected));
    add(node.at, path, found_expected(node.text, shape.expected, candidates));
  }

  void check_list(const YamlNode& node, const Shape& shape, const std::string& path) {
    if (!is(node, YamlNode::Kind::list, shape, path)) return;
    if (node.items.empty()) return add(node.at, path, fmt::format("found an empty list, expected {}", shape.expected));
    for (std::size_t i = 0; i < node.items.size(); ++i) check(*node.items[i], *shape.item, fmt::format("{}[{}]", path, i));
  }

  void check_map(const YamlNode& node, const Shape& shape, const std::string& path) {
    if (!is(node, YamlNode::Kind::map, shape, path)) return;
    if (node.entries.empty()) return add(node.at, path, fmt::format("found an empty map, expected {}", shape.expected));
    check_twice(node, path);
    for (const auto& entry : node.entries) {
      const auto child = path_to(path, printable(entry.key).substr(0, 60));
      if (!is_plain_name(entry.key)) {
        add(entry.at, path, fmt::format("found {}, expected a name of at most 40 of a-z, 0-9, _ and -, a letter first",
                                        in_quotes(entry.key)));
      }
      check(*entry.value, *shape.item, child);
    }
  }

  void check_object(const YamlNode& node, const Shape& shape, const std::string& path) {
    if (!is(node, YamlNode::Kind::map, shape, path)) return;
    check_twice(node, path);
    std::vector<std::string_view> chosen;
    bool any = false;                // an any_of was chosen
    std::vector<std::string> meant;  // what misspelled fields were most likely to be
    for (const auto& entry : node.entries) {
      const auto field = std::ranges::find(shape.fields, entry.key, &Field::name);
      if (field == shape.fields.end()) {
        const auto names = names_of(shape, false);
        add(entry.at, path, "unknown field: " + found_expected(entry.key, join(names, ", "), names));
        meant.push_back(nearest(entry.key.substr(0, 60), names));
      } else if (field->need == Field::Need::later) {
        add(entry.at, path, fmt::format("found '{}', which is not there yet ({}), expected {}; leave it out", field->name,
                                        field->about, join(names_of(shape, false), ", ")));
        chosen.push_back(field->name);
      } else {
        const bool together = field->need == Field::Need::any_of && !std::exchange(any, true);
        if (field->need == Field::Need::one_of || together) chosen.push_back(field->name);
        check(*entry.value, *field->shape, path_to(path, field->name));
      }
    }
    check_missing(node, shape, path, chosen, meant);
  }

  void check_missing(const YamlNode& node, const Shape& shape, const std::string& path,
                     const std::vector<std::string_view>& chosen, const std::vector<std::string>& meant) {
    std::vector<std::string> choice;
    for (const auto& field : shape.fields) {
      const bool chosen_from = field.need == Field::Need::one_of || field.need == Field::Need::any_of;
      if (chosen_from) choice.emplace_back(field.name);
      if (std::ranges::find(meant, field.name) != meant.end()) {
        if (chosen_from) return;
      } else if (field.need == Field::Need::required && node.find(field.name) == nullptr) {
        add(node.at, path, fmt::format("found no '{}', expected {}", field.name, field.shape->expected));
      }
    }
    if (choice.empty() || chosen.size() == 1) return;
    if (chosen.empty()) return add(node.at, path, fmt::format("found none of {}, expected one", join(choice, ", ")));
    if (std::ranges::any_of(shape.fields, [](const Field& f) { return f.need == Field::Need::later; }) &&
        std::ranges::none_of(choice, [&](const std::string& name) { return node.find(name) != nullptr; })) {
      return;  // only fields of later versions: said already
    }
    add(node.at, path, fmt::format("found both {} and {}, expected one of {}", chosen[0], chosen[1], join(choice, ", ")));
  }

  void check_twice(const YamlNode& node, const std::string& path) {
    std::set<std::string_view> seen;
    for (const auto& entry : node.entries) {
      if (!seen.insert(entry.key).second) {
        add(entry.at, path, fmt::format("found {} a second time, expected it once", in_quotes(entry.key)));
      }
    }
  }

  int visits_ = 0;
};

Json object_schema(const Shape& shape) {
  Json schema{{"type", "object"}, {"additionalProperties", false}};
  auto& properties = schema["properties"] = Json::object();
  Json choice = Json::array();
  Json any = Json::array();
  for (const auto& field : shape.fields) {
    if (field.need == Field::Need::later) continue;
    auto property = schema_of(*field.shape);
    property["description"] = std::string(field.about);
    properties[std::string(field.name)] = std::move(property);
    if (field.need == Field::Need::required) schema["required"].push_back(std::string(field.name));
    if (field.need == Field::Need::one_of) choice.push_back({{"required", Json::array({std::string(field.name)})}});
    if (field.need == Field::Need::any_of) any.push_back({{"required", Json::array({std::string(field.name)})}});
  }
  if (!any.empty()) choice.push_back({{"anyOf", std::move(any)}});
  if (!choice.empty()) schema["oneOf"] = std::move(choice);
  return schema;
}

Json list_schema(const Shape& shape) {
  return {{"type", "array"}, {"minItems", 1}, {"items", schema_of(*shape.item)}};
}

}  // namespace

std::vector<Problem> check_shape(const YamlNode& node, const Shape& shape, const std::string& path) {
  Checker checker;
  checker.check(node, shape, path);
  return std::move(checker.problems);
}

Json schema_of(const Shape& shape) {
  switch (shape.kind) {
    case Shape::Kind::text: {
      Json schema{{"type", "string"}};
      if (!shape.pattern.empty()) schema["pattern"] = std::string(shape.pattern);
      return schema;
    }
    case Shape::Kind::words: return {{"enum", std::vector<std::string>(shape.words.begin(), shape.words.end())}};
    case Shape::Kind::integer: return {{"type", "integer"}, {"minimum", shape.least}, {"maximum", shape.most}};
    case Shape::Kind::percent:
      return {{"anyOf", Json::array({{{"type", "integer"}, {"minimum", 1}, {"maximum", 100}},
                                     {{"type", "string"}, {"pattern", "^[0-9]{1,3}%$"}}})}};
    case Shape::Kind::boolean: return {{"type", "boolean"}};
    case Shape::Kind::list: return list_schema(shape);
    case Shape::Kind::one_or_list: return {{"anyOf", Json::array({schema_of(*shape.item), list_schema(shape)})}};
    case Shape::Kind::object: return object_schema(shape);
    case Shape::Kind::map:
      return {{"type", "object"},
              {"minProperties", 1},
              {"propertyNames", {{"pattern", "^[a-z][a-z0-9_-]{0,39}$"}}},
              {"additionalProperties", schema_of(*shape.item)}};
  }
  return Json::object();
}

std::string path_to(std::string_view parent, std::string_view child) {
  return parent.empty() ? std::string(child) : fmt::format("{}.{}", parent, child);
}

std::string in_quotes(std::string_view word) {
  auto text = printable(word.substr(0, 60));
  return word.size() > 60 ? fmt::format("'{}...'", text) : fmt::format("'{}'", text);
}

std::string found_expected(std::string_view word, std::string_view expected, const std::vector<std::string>& candidates) {
  const auto near = word.size() > 60 ? std::string() : nearest(word, candidates);
  const auto hint = near.empty() ? std::string() : fmt::format(", did you mean '{}'?", near);
  return fmt::format("found {}, expected {}{}", in_quotes(word), expected, hint);
}

}  // namespace midstream
