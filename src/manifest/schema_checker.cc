#include "manifest/schema_checker.h"

#include <yaml-cpp/yaml.h>

#include <map>
#include <regex>

namespace midstream {

namespace {

bool has_type(const std::string& type, const Json& value) {
  if (type == "object") return value.is_object();
  if (type == "array") return value.is_array();
  if (type == "string") return value.is_string();
  if (type == "integer") return value.is_number_integer();
  return type == "boolean" && value.is_boolean();
}

// Compiling is what takes the time.
const std::regex& compiled(const std::string& pattern) {
  static std::map<std::string, std::regex> known;
  const auto found = known.find(pattern);
  return found != known.end() ? found->second : known.emplace(pattern, std::regex(pattern)).first->second;
}

int count_matching(const Json& schemas, const Json& value, const std::string& path) {
  int matching = 0;
  for (const auto& schema : schemas) matching += schema_mistake(schema, value, path).empty() ? 1 : 0;
  return matching;
}

bool keyword_holds(const std::string& keyword, const Json& rule, const Json& value, const std::string& path) {
  if (keyword == "type") return has_type(rule.get<std::string>(), value);
  if (keyword == "enum") return std::find(rule.begin(), rule.end(), value) != rule.end();
  if (keyword == "pattern") {
    return !value.is_string() || std::regex_search(value.get<std::string>(), compiled(rule.get<std::string>()));
  }
  if (keyword == "minimum") return !value.is_number() || value >= rule;
  if (keyword == "maximum") return !value.is_number() || value <= rule;
  if (keyword == "minItems") return !value.is_array() || value.size() >= rule.get<std::size_t>();
  if (keyword == "minProperties") return !value.is_object() || value.size() >= rule.get<std::size_t>();
  if (keyword == "anyOf") return count_matching(rule, value, path) >= 1;
  if (keyword == "oneOf") return count_matching(rule, value, path) == 1;
  if (keyword == "required") {
    return !value.is_object() ||
           std::all_of(rule.begin(), rule.end(), [&](const Json& name) { return value.contains(name.get<std::string>()); });
  }
  return keyword == "$schema" || keyword == "title" || keyword == "description";
}

std::string in_children(const std::string& keyword, const Json& rule, const Json& schema, const Json& value,
                        const std::string& path) {
  if (keyword == "items") {
    for (std::size_t i = 0; value.is_array() && i < value.size(); ++i) {
      if (auto wrong = schema_mistake(rule, value[i], path + "[" + std::to_string(i) + "]"); !wrong.empty()) return wrong;
    }
    return "";
  }
  if (!value.is_object()) return "";
  for (const auto& [name, child] : value.items()) {
    const auto below = path + "." + name;
    const bool known = schema.contains("properties") && schema["properties"].contains(name);
    if (keyword == "properties" && known) {
      if (auto wrong = schema_mistake(rule[name], child, below); !wrong.empty()) return wrong;
    } else if (keyword == "additionalProperties" && !known) {
      if (rule.is_boolean()) return rule.get<bool>() ? "" : below + ": additionalProperties";
      if (auto wrong = schema_mistake(rule, child, below); !wrong.empty()) return wrong;
    } else if (keyword == "propertyNames") {
      if (auto wrong = schema_mistake(rule, name, below); !wrong.empty()) return wrong;
    }
  }
  return "";
}

Json json_of(const YAML::Node& node) {
  if (node.IsSequence()) {
    Json list = Json::array();
    for (const auto& item : node) list.push_back(json_of(item));
    return list;
  }
  if (node.IsMap()) {
    Json object = Json::object();
    for (const auto& pair : node) object[pair.first.Scalar()] = json_of(pair.second);
    return object;
  }
  if (!node.IsScalar()) return nullptr;
  const auto& text = node.Scalar();
  if (node.Tag() == "!") return text;
  if (text == "true" || text == "false") return text == "true";
  if (std::regex_search(text, compiled("^[-+]?[0-9]+$"))) return std::stoll(text);
  return text;
}

}  // namespace

std::string schema_mistake(const Json& schema, const Json& value, const std::string& path) {
  for (const auto& [keyword, rule] : schema.items()) {
    if (keyword == "items" || keyword == "properties" || keyword == "additionalProperties" || keyword == "propertyNames") {
      if (auto wrong = in_children(keyword, rule, schema, value, path); !wrong.empty()) return wrong;
    } else if (!keyword_holds(keyword, rule, value, path)) {
      return path + ": " + keyword;
    }
  }
  return "";
}

Json json_of_yaml(std::string_view yaml) { return json_of(YAML::Load(std::string(yaml))); }

}  // namespace midstream
