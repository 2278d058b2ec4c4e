// Repoints vanity names: RFC 2136 updates with TSIG (RFC 8945), verified on every authoritative name server.
#pragma once

#include <memory>

#include "movers/mover.h"

namespace midstream {

// Kinds `ttl`, `repoint`, `expired` and `end` of docs/formats/desired.md.
//
// Each change is one atomic message whose prerequisites are the exact record that it replaces and the exact
// epoch record, TXT "move epoch step" at _midstream.<name>: a delayed duplicate of an update can therefore
// never undo a later one, and two moves never change one name. The epoch record comes with the first change
// and goes with the one that restores what was found, or with `end`.
std::unique_ptr<Mover> make_names_mover();

}  // namespace midstream
