// The probe: measures services and addresses at fixed rates and keeps a durable log of every measurement.
#pragma once

#include <stop_token>

#include "base/result.h"
#include "probe/config.h"

namespace midstream {

// Probes until stopped. Each service has its own schedule on CLOCK_BOOTTIME: probe n is due at start + n * interval and
// is measured from then, however long others take; probes overlap, up to 64 of a service. What this host itself is too
// late for is left out of the log, and is thereby unknown. Blocks; the calling thread must not hold signals that it
// needs. The process must ignore SIGPIPE. Refused: the log is in use, no libpq for a postgres probe, no right to send
// ICMP. An error from a running probe (a full disk) ends it.
Result<> run_probe(const ProbeConfig& config, std::stop_token stop);

}  // namespace midstream
