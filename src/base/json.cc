#include "base/json.h"

#include <fmt/format.h>

template class nlohmann::basic_json<>;

namespace midstream {

Result<Json> parse_json(std::string_view text, int max_depth) {
  bool too_deep = false;
  auto value = Json::parse(
      text,
      [&](int depth, Json::parse_event_t, Json&) {
        too_deep = too_deep || depth > max_depth;
        return !too_deep;
      },
      /*allow_exceptions=*/false);
  if (too_deep) return corrupt(fmt::format("JSON is nested deeper than {} levels", max_depth));
  if (value.is_discarded()) return corrupt("text is not valid JSON");
  return value;
}

namespace {
template <class Is>
Result<const Json*> field(const Json& object, std::string_view key, std::string_view expected, Is is) {
  if (!object.is_object()) return corrupt(fmt::format("field '{}' was asked of a value that is not an object", key));
  auto found = object.find(std::string(key));
  if (found == object.end()) return corrupt(fmt::format("field '{}' is missing", key));
  if (!is(*found)) return corrupt(fmt::format("field '{}' is not {}", key, expected));
  return &*found;
}
}  // namespace

Result<std::string> get_string(const Json& object, std::string_view key) {
  return TRY(field(object, key, "a string", [](const Json& v) { return v.is_string(); }))->get<std::string>();
}
Result<std::int64_t> get_int(const Json& object, std::string_view key) {
  return TRY(field(object, key, "an integer", [](const Json& v) { return v.is_number_integer(); }))
      ->get<std::int64_t>();
}
Result<bool> get_bool(const Json& object, std::string_view key) {
  return TRY(field(object, key, "true or false", [](const Json& v) { return v.is_boolean(); }))->get<bool>();
}
Result<Json> get_object(const Json& object, std::string_view key) {
  return *TRY(field(object, key, "an object", [](const Json& v) { return v.is_object(); }));
}
Result<std::vector<std::string>> get_strings(const Json& object, std::string_view key) {
  const Json* list = TRY(field(object, key, "a list", [](const Json& v) { return v.is_array(); }));
  std::vector<std::string> out;
  for (const auto& item : *list) {
    if (!item.is_string()) return corrupt(fmt::format("field '{}' holds something that is not a string", key));
    out.push_back(item.get<std::string>());
  }
  return out;
}

std::string get_string_or(const Json& object, std::string_view key, std::string fallback) {
  return get_string(object, key).value_or(std::move(fallback));
}
std::int64_t get_int_or(const Json& object, std::string_view key, std::int64_t fallback) {
  return get_int(object, key).value_or(fallback);
}
bool get_bool_or(const Json& object, std::string_view key, bool fallback) {
  return get_bool(object, key).value_or(fallback);
}

Json to_json(const Error& error) {
  return {{"kind", to_string(error.kind)}, {"what", error.what}, {"todo", error.todo}};
}
Error error_from_json(const Json& value) {
  return {error_kind_from(get_string_or(value, "kind", "corrupt")), get_string_or(value, "what", "error without text"),
          get_string_or(value, "todo", "")};
}

}  // namespace midstream
