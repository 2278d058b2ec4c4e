// Paths inside a tree, as they are kept in the index and travel on the wire: relative, '/' between components,
// any bytes but NUL. "." is the root of the tree itself. Pure.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace midstream::files {

inline constexpr std::size_t kMaxPath = 4096;
inline constexpr std::size_t kMaxName = 255;
// A directory in the root of each followed tree, 0700, for temporary files and cookies. It never travels.
inline constexpr std::string_view kHidden = ".midstream";

// Whether `path` may be acted upon: 1 to kMaxPath bytes, relative, components of 1 to kMaxName bytes, none of
// them "." or "..", no NUL, not in kHidden. "." alone is not safe here: callers allow it where a root is meant.
bool is_safe_path(std::string_view path);

// "a/b" -> "a", "a" -> ".", "." -> ".".
std::string_view parent_of(std::string_view path);
std::string_view leaf_of(std::string_view path);
// join(".", "a") -> "a".
std::string join_path(std::string_view parent, std::string_view leaf);

// Whether `path` lies below the directory `above` (not: is it). Everything lies below ".".
bool is_below(std::string_view path, std::string_view above);

// What of a tree does not move. A pattern is a glob (fnmatch, '*' stays within a component); with a '/' before
// its last character it is anchored at the root, else it matches a name at any depth; a '/' at the end restricts
// it to directories. What lies below an excepted directory is excepted.
class Except {
 public:
  explicit Except(std::vector<std::string> patterns = {});
  bool matches(std::string_view path, bool is_directory) const;
  // Whether a directory's place matters to what matches below it.
  bool anchored() const;

 private:
  struct Pattern {
    std::string glob;
    bool anchored = false;
    bool directory_only = false;
  };
  bool matches_one(std::string_view path, bool is_directory) const;
  std::vector<Pattern> patterns_;
};

}  // namespace midstream::files
