// The shop's files: uploads, which users replace and read, and static ones, which they only read.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace midstream::lab {

// Thread-safe: a reader sees a file whole, as it was before or after a replacement.
class Shelf {
 public:
  // Refused if `directory` is none. Makes nothing in it: uploads/ is made for the first upload.
  static Result<Shelf> open(const std::filesystem::path& directory);

  // Durable when it returns: temporary file, fsync, rename, fsync of the directory. Refused for a name that
  // is not 1 to 100 of [A-Za-z0-9._-] with no dot in front.
  Result<> put(std::string_view name, std::string_view bytes) const;
  // Nothing if there is no such file.
  Result<std::optional<std::string>> get(std::string_view name) const;
  // A file below `directory`/static by its relative path.
  Result<std::optional<std::string>> get_static(std::string_view path) const;

 private:
  explicit Shelf(std::filesystem::path directory) : directory_(std::move(directory)) {}
  std::filesystem::path directory_;
};

bool is_file_name(std::string_view name);

}  // namespace midstream::lab
