// SHA-256, and file content that can be made again from its name. SHA-256 because the movers compare with
// another hash: whoever checks them should not share their arithmetic.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace midstream::lab {

// Lower-case hex.
std::string sha256(std::string_view bytes);
// Of a file's content, read in pieces; opened without following a symlink.
Result<std::string> sha256_of_file(const std::filesystem::path& path);

// `size` bytes that look random and depend on `seed` only.
std::string made_up_bytes(std::string_view seed, std::size_t size);

}  // namespace midstream::lab
