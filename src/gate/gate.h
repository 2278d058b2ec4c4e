// The gate as a process: listens, runs its workers, answers on its control socket.
#pragma once

#include <cstdint>
#include <functional>
#include <stop_token>

#include "base/json.h"
#include "base/result.h"
#include "gate/config.h"

namespace midstream::gate {

// Runs until stopped. `listening` is called once clients may come, with the port.
Result<> run_gate(Config config, const std::function<void(std::uint16_t port)>& listening, const std::stop_token& stop);

// Asks a running gate (docs/formats/gate.md).
Result<Json> ask_gate(const std::filesystem::path& control, const Json& request);

}  // namespace midstream::gate
