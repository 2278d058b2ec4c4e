// `run --adopt`: a move whose journal is lost, or in the hands of a controller that is gone, taken over openly.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "manifest/manifest.h"
#include "sys/clock.h"

namespace midstream {

// Every agent of the move is asked what it has done, adopts a new epoch under a new journal, so that nothing of any
// earlier controller has an effect from then on, and is asked once more; from the answers the journal in `directory` is
// rebuilt. Refused where a controller runs with it, or where it is whole and the agents serve it: then it needs no
// adopting. All hosts must be reachable. Harmless when repeated, and after a crash at any point.
Result<> adopt_move(const Manifest& manifest, const std::filesystem::path& directory,
                    const std::filesystem::path& agent_binary, const std::function<void(const std::string&)>& tell,
                    Deadline deadline);

// Refused, naming its host, where an agent of the move serves another controller already: a journal is not begun beside
// that one's. Hosts that cannot be reached, or have no agent yet, are passed over.
Result<> nobody_has_it(const Manifest& manifest, Deadline deadline);

}  // namespace midstream
