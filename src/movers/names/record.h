// What the names mover keeps in its state directory: how each record was found, and since when all servers
// agree.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "movers/mover.h"
#include "movers/names/servers.h"

namespace midstream::dns {

struct Found {
  std::string value;
  std::int64_t ttl = 0;  // seconds
};
// How this move found the record, noted before its first change of it.
Result<std::optional<Found>> load_found(const Context& context, const std::string& name, Type type);
Result<> save_found(const Context& context, const std::string& name, Type type, const Found& found);
Result<> forget_found(const Context& context, const std::string& name, Type type);

// Since when every name server gives `value`. Elapsed time is that of this boot's clock; over a reboot, the
// wall clock's, never less than nothing.
Result<> start_clock(const Context& context, const Record& record, const std::string& value);
// Milliseconds on the clock for `value`; nullopt where none runs.
Result<std::optional<std::int64_t>> clock_elapsed_ms(const Context& context, const Record& record,
                                                     const std::string& value);
Result<> stop_clock(const Context& context, const Record& record);

}  // namespace midstream::dns
