// For tests: the part of JSON Schema that manifest_schema() uses, and YAML read as its core schema says.
#pragma once

#include <string>
#include <string_view>

#include "base/json.h"

namespace midstream {

// The first place where `value` differs from `schema`; "" if it does not. An unknown keyword is a mistake too.
std::string schema_mistake(const Json& schema, const Json& value, const std::string& path = "$");

Json json_of_yaml(std::string_view yaml);

}  // namespace midstream
