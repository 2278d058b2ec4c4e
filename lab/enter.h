// Entering a lab host's namespaces.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/result.h"

namespace midstream::lab {

// Runs argv on `host` ("fabric": in the bridges' network namespace) with our stdin, stdout and stderr; passes SIGINT,
// SIGTERM and SIGHUP on. Returns its exit code, 128 + signal if it was killed. For a process with one thread.
Result<int> enter_and_run(const std::filesystem::path& directory, const std::string& host,
                          const std::vector<std::string>& argv);

}  // namespace midstream::lab
