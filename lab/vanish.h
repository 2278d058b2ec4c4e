// If midstream vanishes for good, traffic keeps flowing (design, promise P8): at moments at which something is held,
// fenced, drained or between two hosts, every process of midstream on every host is killed, the controller stays away, and
// users must be served again within the lease. Then a later `run` must end well.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "base/result.h"
#include "lab/trial.h"

namespace midstream::lab {

enum class Blow {
  kill,     // every midstream process on every host, at once; supervisors live
  cut_old,  // the same, and old loses its power; it boots again
  cut_new,  // the same of new
};

// One whole move on `trial`, struck at each moment; where mail has users, at those of mail instead. Refused, naming the moment, where users are not served again in time
// or the moment never came. Leaves the move done, for the checker.
Result<> strike_at_each_moment(Trial& trial, Blow blow, const std::function<void(std::string_view)>& tell);

// The controller is killed with half the traffic on each side, and again while the move soaks, and stays away for `away`
// each time: nothing may change meanwhile. Refused where the traffic's split does, or a user's request fails.
Result<> leave_alone(Trial& trial, Millis away, const std::function<void(std::string_view)>& tell);

}  // namespace midstream::lab
