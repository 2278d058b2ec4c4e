// The end of the temporary home: the pool's addresses leave the host that had them, and its default routes go by the
// gateways of the subnet that has followed (docs/formats/desired.md, kind `release`).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "movers/addresses/address_set.h"
#include "movers/addresses/ip.h"

namespace midstream {

struct PoolRelease {
  std::string host;
  std::string dev;  // of the subnet that has followed
  std::vector<IpAddress> addresses;
  std::vector<IpAddress> gateways;  // of that subnet, at most one a family
};
Result<PoolRelease> parse_pool_release(const Json& desired);

// {"reached", "why", "left": the addresses that are still configured here or would come back at boot}.
Result<Json> observe_pool(const PoolRelease& pool, const std::filesystem::path& root);

// Idempotent and durable; begun again, it goes on. What no longer works without the pool's addresses is not begun:
// refused where a route leads over a gateway that only they reach and none of the subnet's takes its place, and where the
// boot configuration is somebody's whose files midstream does not edit.
Result<Json> release_pool(const PoolRelease& pool, const std::filesystem::path& root);

// Whether release_pool() would be refused, as findings.
Result<Json> check_pool(const PoolRelease& pool, const std::filesystem::path& root);

}  // namespace midstream
