// What a move leaves behind: everything that is set on the hosts of a lab, as lines of text, before and after.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "lab/lab.h"

namespace midstream::lab {

// By host. A line begins with its kind: file, line (of a file), address, route, rule, sysctl, role, database, catalog,
// slot, subscription, setting, hba, server (HAProxy's), record (DNS), service, process, mount, sealed.
// Left out is what belongs to users (rows, the application's files, mail), to the kernel, or to time (logs, pids).
using Remains = std::map<std::string, std::set<std::string>>;

Result<Remains> look_at_hosts(const Lab& lab);

// "old - address eth0 192.0.2.10/26" for each line that one has and the other has not.
std::vector<std::string> differences(const Remains& before, const Remains& after);

// What the manifest asks for, and allows, when the move has ended on `final_side`: regular expressions over whole
// differences, and whether each must be found.
struct Expected {
  std::string pattern;
  bool must = true;
};
std::vector<Expected> what_the_manifest_asks(const Scenario& scenario, const std::string& final_side);

// Refused, with the lines, where something differs that is not expected, or something expected does not.
Result<> judge_remains(const std::vector<std::string>& differences, const std::vector<Expected>& expected);

}  // namespace midstream::lab
