// HAProxy's configuration file, as far as server weights go. Pure: bytes in, bytes out.
//
// Only the number after `weight` on the named server lines of the named backend is ever changed; a line
// without one gets " weight N" behind its last word (and loses exactly that when the weight is taken away
// again). Every other byte stays. Words are read as HAProxy reads them: blanks separate, "..." '...' and \x
// quote, # comments.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace midstream::haproxy {

// What the `server` line of one server says about its weight: digits as written, nullopt where it says
// nothing.
using WrittenWeights = std::map<std::string, std::optional<std::string>>;

// For each of `servers`. Refused where the backend is not in the file or lacks one of them.
Result<WrittenWeights> written_weights(std::string_view file, std::string_view backend,
                                       const std::vector<std::string>& servers);

// The file with these weights written.
Result<std::string> rewrite_weights(std::string_view file, std::string_view backend, const WrittenWeights& weights);

// What decides whether weights can be changed at run time, with the `defaults` section in force looked
// through.
struct BalanceSettings {
  std::string balance = "roundrobin";  // HAProxy's own default
  bool consistent_hash = false;
  std::vector<std::string> sticky;  // directives that keep a client on its server
  std::string default_weight;       // of `default-server`, digits; empty where none is given
};
Result<BalanceSettings> balance_settings(std::string_view file, std::string_view backend);

// Whether a weight set at run time takes effect with these settings.
bool is_dynamic(const BalanceSettings& settings);

}  // namespace midstream::haproxy
