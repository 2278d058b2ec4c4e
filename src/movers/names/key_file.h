// TSIG keys as BIND keeps them: key "name" { algorithm hmac-sha256; secret "base64"; };
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "base/result.h"

namespace midstream::dns {

struct TsigKey {
  std::string name;       // absolute, lower case: "mover."
  std::string algorithm;  // as TSIG spells it: "hmac-sha256."
  std::string secret;     // base64; never shown to anybody
};

// Pure. Exactly one key; comments as BIND allows them. No error quotes any part of the text.
Result<TsigKey> parse_key_file(std::string_view text);
// The same of a file; errors name the file.
Result<TsigKey> load_key_file(const std::filesystem::path& path);

}  // namespace midstream::dns
