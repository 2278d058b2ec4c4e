// The receiving end of a follow: applies frames, acknowledges what is visible and what is durable.
#pragma once

#include <stop_token>

#include "movers/files/files.h"
#include "movers/files/tree.h"
#include "sys/stream.h"

namespace midstream::files {

// Serves one sender until it goes away or `stop` is requested; the tree is open. A full disk is waited out, and
// said so to the sender; nothing is dropped. Corrupt where the sender breaks the protocol.
Result<> serve_incoming(Tree& tree, Stream& stream, const FilesOptions& options, const std::stop_token& stop);

}  // namespace midstream::files
