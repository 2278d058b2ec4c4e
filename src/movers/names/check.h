// Preconditions of the names mover.
#pragma once

#include "movers/names/servers.h"

namespace midstream::dns {

// `expected`: the value that must be there now; `ttl` in seconds, or negative for any. Signs an update that
// changes nothing (it takes out values that are not there), which BIND answers with NOERROR only where key,
// clock and update-policy would allow the real one.
Result<Json> check_record(const Context& context, const Json& desired, const std::string& expected,
                          std::int64_t ttl);

}  // namespace midstream::dns
