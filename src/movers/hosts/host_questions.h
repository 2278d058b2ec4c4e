// What the mover `hosts` finds out about hosts: the inventory of old, and sizes. Reads only.
#pragma once

#include "movers/hosts/hosts.h"

namespace midstream {

// The kind `inventory`, on old: one finding for each thing that is there.
Result<Json> check_inventory(const HostsOptions& options, const Context& context, const Json& desired);
// The kind `size`, on the host that is asked about.
Result<Json> check_size(const HostsOptions& options, const Context& context, const Json& desired);
// Asked by the other side: "survey", "size".
Result<Json> answer_question(const HostsOptions& options, const Context& context, std::string_view verb,
                             const Json& args);

}  // namespace midstream
