// The two kinds of the traffic mover, and their preconditions. Used by traffic.cc alone, which serialises
// effects.
#pragma once

#include "movers/mover.h"

namespace midstream::haproxy {

Result<Json> observe_weights(const Context& context, const Json& desired);
Result<Json> apply_weights(const Context& context, const Json& desired);
Result<Json> undo_weights(const Context& context, const Json& desired);

Result<Json> observe_drain(const Context& context, const Json& desired);
Result<Json> apply_drain(const Context& context, const Json& desired);
Result<Json> undo_drain(const Context& context, const Json& desired);

// `weights` tells whether weights are to be changed; a drain asks for less.
Result<Json> check_backend(const Context& context, const Json& desired, bool weights);

}  // namespace midstream::haproxy
