#include "manifest/manifest.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "manifest/build.h"
#include "manifest/shape.h"
#include "manifest/yaml_tree.h"

namespace midstream {

namespace {

constexpr std::size_t kMostShown = 10;

std::unexpected<Error> problems_failure(std::vector<Problem> problems, std::string_view file) {
  std::ranges::stable_sort(problems, {}, [](const Problem& p) { return std::pair(p.at.line, p.at.column); });
  std::vector<std::string> lines;
  for (const auto& problem : problems) {
    if (lines.size() == kMostShown) {
      lines.push_back(fmt::format("{}: and {} more", file, problems.size() - kMostShown));
      break;
    }
    lines.push_back(fmt::format("{}:{}:{}: {}", file, problem.at.line, problem.at.column, problem.text));
  }
  return refused(join(lines, "\n"));
}

}  // namespace

const HostSpec* Manifest::host(std::string_view name) const {
  const auto found = std::ranges::find(hosts, name, &HostSpec::name);
  return found == hosts.end() ? nullptr : &*found;
}

Result<Manifest> parse_manifest(std::string_view yaml, std::string_view file) {
  const auto tree = read_yaml(yaml);
  if (!tree) return problems_failure({{tree.error().at, tree.error().text}}, file);
  auto problems = check_shape(*tree->root, manifest_shape(), "");
  if (!problems.empty()) return problems_failure(std::move(problems), file);
  auto manifest = build_manifest(*tree->root, problems);
  if (!problems.empty()) return problems_failure(std::move(problems), file);
  return manifest;
}

Json manifest_schema() {
  auto schema = schema_of(manifest_shape());
  schema["$schema"] = "https://json-schema.org/draft/2020-12/schema";
  schema["title"] = "midstream manifest (move.yaml)";
  return schema;
}

}  // namespace midstream
