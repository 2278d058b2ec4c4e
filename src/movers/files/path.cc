#include "movers/files/path.h"

#include <fnmatch.h>

namespace midstream::files {

bool is_safe_path(std::string_view path) {
  if (path.empty() || path.size() > kMaxPath || path.find('\0') != path.npos) return false;
  bool first = true;
  while (true) {
    const auto slash = path.find('/');
    const auto name = path.substr(0, slash);
    if (name.empty() || name.size() > kMaxName || name == "." || name == "..") return false;
    if (first && name == kHidden) return false;
    if (slash == path.npos) return true;
    path.remove_prefix(slash + 1);
    first = false;
  }
}

std::string_view parent_of(std::string_view path) {
  const auto slash = path.rfind('/');
  return slash == path.npos ? std::string_view(".") : path.substr(0, slash);
}

std::string_view leaf_of(std::string_view path) {
  const auto slash = path.rfind('/');
  return slash == path.npos ? path : path.substr(slash + 1);
}

std::string join_path(std::string_view parent, std::string_view leaf) {
  if (parent == ".") return std::string(leaf);
  std::string out;
  out.reserve(parent.size() + 1 + leaf.size());
  out.append(parent).append(1, '/').append(leaf);
  return out;
}

bool is_below(std::string_view path, std::string_view above) {
  if (above == ".") return path != ".";
  return path.size() > above.size() && path.starts_with(above) && path[above.size()] == '/';
}

Except::Except(std::vector<std::string> patterns) {
  for (auto& text : patterns) {
    Pattern pattern;
    if (text.ends_with('/')) {
      pattern.directory_only = true;
      text.pop_back();
    }
    pattern.anchored = text.find('/') != text.npos;
    if (text.starts_with('/')) text.erase(0, 1);
    pattern.glob = std::move(text);
    if (!pattern.glob.empty()) patterns_.push_back(std::move(pattern));
  }
}

bool Except::matches_one(std::string_view path, bool is_directory) const {
  for (const auto& pattern : patterns_) {
    if (pattern.directory_only && !is_directory) continue;
    const std::string subject(pattern.anchored ? path : leaf_of(path));
    if (::fnmatch(pattern.glob.c_str(), subject.c_str(), FNM_PATHNAME) == 0) return true;
  }
  return false;
}

bool Except::anchored() const {
  for (const auto& pattern : patterns_) {
    if (pattern.anchored) return true;
  }
  return false;
}

bool Except::matches(std::string_view path, bool is_directory) const {
  if (patterns_.empty() || path == ".") return false;
  for (auto slash = path.find('/'); slash != path.npos; slash = path.find('/', slash + 1)) {
    if (matches_one(path.substr(0, slash), true)) return true;
  }
  return matches_one(path, is_directory);
}

}  // namespace midstream::files
