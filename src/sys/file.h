// Small files: configuration, keys, durable state. Trees are the files mover's business.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace midstream {

// The whole of `path`; refused if it is larger than `limit` bytes.
Result<std::string> read_file(const std::filesystem::path& path, std::size_t limit = 64u << 20);

// Replaces `path` atomically and durably: temporary file beside it, fsync, rename, fsync of the directory.
// An existing file keeps its owner and mode; a new one gets `mode`. On error the old content stands.
Result<> write_file_durably(const std::filesystem::path& path, std::string_view bytes, unsigned mode = 0600);

// Makes `path` and its missing parents with `mode`, durably.
Result<> make_directories(const std::filesystem::path& path, unsigned mode = 0700);

// Removes one file and makes that durable; a missing file is success.
Result<> remove_file_durably(const std::filesystem::path& path);

}  // namespace midstream
