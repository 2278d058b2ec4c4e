// The mover `files`: one tree, copied once and then followed, to the same path on another host.
//
// Desired states: docs/formats/desired.md ("files"). The stream between two hosts: docs/formats/files.md.
#pragma once

#include <atomic>
#include <memory>

#include "movers/mover.h"

namespace midstream {

// What tests and benchmarks turn; operators never do.
struct FilesOptions {
  bool watch = true;            // false: behave as where fanotify is refused (rescan)
  bool unlimited_queue = true;  // false: the kernel's queue overflows at fs.fanotify.max_queued_events
  const std::atomic<bool>* hold_drain = nullptr;  // while true, events stay in the kernel's queue
  Millis still{5000};                             // what differs for so long, on both sides, differs: longer than what
                                                  // could not be put there takes to be sent again
  Millis checkpoint{1000};                        // what was applied is made durable at least this often
  Millis source_checkpoint{5000};                 // the same of what was sent, on the sending host
  std::string run;  // "": which run of the host it is, and since when, is asked of the kernel
  std::int64_t run_since_ns = 0;
  Millis backoff_max{5000};  // between attempts to reach the other host
};

std::unique_ptr<Mover> make_files_mover(const FilesOptions& options = {});

}  // namespace midstream
