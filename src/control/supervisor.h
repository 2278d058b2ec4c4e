// Services under the host's own supervisor: systemd, or runit (a directory /etc/service that is scanned).
#pragma once

#include <string>
#include <vector>

#include "base/result.h"

namespace midstream {

// The file of this program. After an upgrade that of a running one reads "... (deleted)"; a service must name the new one.
Result<std::string> own_program();
// Makes `name` a service that runs argv, is restarted whenever it ends, and starts with the host; starts it now.
// An existing service of that name is replaced. Refused on a host with neither supervisor. Not shell: argv is
// quoted for the supervisor's own syntax; arguments must not hold newlines.
Result<> install_service(const std::string& name, const std::vector<std::string>& argv);
// Stops the service and removes it; none there is success.
Result<> remove_service(const std::string& name);
// Asks the host to shut down in order; returns before it has.
Result<> power_off();

}  // namespace midstream
