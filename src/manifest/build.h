// From a tree that has the manifest's shape to the typed manifest, with every check that concerns more than one value.
#pragma once

#include <vector>

#include "manifest/manifest.h"
#include "manifest/shape.h"
#include "manifest/yaml_tree.h"

namespace midstream {

// `root` has passed check_shape(manifest_shape()). What is wrong is added to `problems`; the manifest is good only
// if nothing was.
Manifest build_manifest(const YamlNode& root, std::vector<Problem>& problems);

// One map of the tree, read by field name; its shape has been checked.
class MapReader {
 public:
  MapReader(const YamlNode& node, std::string path) : node_(&node), path_(std::move(path)) {}

  const YamlNode* find(std::string_view key) const { return node_->find(key); }
  bool has(std::string_view key) const { return find(key) != nullptr; }
  MapReader map(std::string_view key) const { return {*find(key), path_to(path_, key)}; }
  // The maps of the list `key`; none where it is missing.
  std::vector<MapReader> maps(std::string_view key) const;

  std::string text(std::string_view key, std::string fallback = "") const;
  Span span(std::string_view key, Span fallback) const;
  bool flag(std::string_view key) const;
  std::int64_t integer(std::string_view key, std::int64_t fallback) const;
  // The scalars of `key`, which is one or a list.
  std::vector<const YamlNode*> scalars(std::string_view key) const;
  std::vector<std::string> texts(std::string_view key) const;

  // Where `key`'s value stands; the map itself where it is missing.
  Position at(std::string_view key) const;
  Position at() const { return node_->at; }
  const YamlNode& node() const { return *node_; }
  const std::string& path() const { return path_; }
  std::string path(std::string_view key) const { return path_to(path_, key); }

 private:
  const YamlNode* node_;
  std::string path_;
};

// A service after all that it needs, else in the given order. Unknown names and cycles are problems.
std::vector<ServiceSpec> order_services(std::vector<ServiceSpec> services, const YamlNode& node,
                                        std::vector<Problem>& problems);

// Problems of subnets and pools among themselves, and of paths of ours that ride on what moves.
void check_addresses(const Manifest& manifest, const YamlNode& root, std::vector<Problem>& problems);

}  // namespace midstream
