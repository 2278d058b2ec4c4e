// The preconditions of the kinds `stage` and `own`, found without changing anything.
#pragma once

#include "movers/addresses/handover.h"

namespace midstream {

// `from` and `to` answer the verbs of LocalSide, `here` the verb `who` from the device of the host this runs
// on.
Json check_addresses(const AddressSet& set, const Ask& from, const Ask& to, const Ask& witness,
                     const Ask& here, bool staging);

// That every TCP port which answers on an address on old has a listener here; refused with the ports that
// lack one.
Result<Json> check_listeners(const AddressSet& set, const Ask& from, const Ask& to);

}  // namespace midstream
