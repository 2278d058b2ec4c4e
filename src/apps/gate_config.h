// gate.yaml: what `midstream gate` is told. docs/formats/gate.md describes it.
#pragma once

#include <string>

#include "base/result.h"
#include "gate/config.h"

namespace midstream {

// Parses `text`; problems name `file`, line and column, all of them. The password file is read too.
Result<gate::Config> parse_gate_config(std::string_view text, const std::string& file);

}  // namespace midstream
