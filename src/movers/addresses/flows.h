// Connections that end here, of the calling thread's network namespace (sock_diag(7)). Needs CAP_NET_ADMIN.
#pragma once

#include <cstdint>
#include <span>

#include "base/result.h"
#include "movers/addresses/ip.h"

namespace midstream {

// Ends every TCP connection of these addresses with a reset to the other end, which can only be sent while the addresses
// are here. Whoever waits for an answer then knows at once that none comes, instead of waiting as long as their patience
// lasts. Returns how many; 0 where the kernel does not offer it.
Result<std::int64_t> reset_flows(std::span<const IpAddress> addresses);

}  // namespace midstream
