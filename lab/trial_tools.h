// What every trial of lab/trials.cc has at hand.
#pragma once

#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "lab/trial.h"

namespace midstream::lab {

class TrialTools {
 public:
  TrialTools(TrialSpec spec, std::uint64_t seed) : spec_(std::move(spec)), random_(seed) {}

  const std::function<void(std::string_view)>& teller() const { return spec_.tell; }
  Result<> say(std::string_view text);
  Result<Trial> begin() { return Trial::begin(spec_); }
  Millis moment(int least_ms, int most_ms);
  // The checker's verdict on how the trial ended; refused with its details if it is not "pass".
  Result<> judged(Trial& trial, const std::string& final_side, int handovers);
  // `midstream ARGS` until it ends by itself, with 0.
  Result<> succeed(Trial& trial, const std::vector<std::string>& arguments);
  // The same, with another exit code and a line that holds `mark`.
  Result<> end_with(Trial& trial, const std::vector<std::string>& arguments, int code, const std::string& mark);

 protected:
  TrialSpec spec_;
  std::mt19937_64 random_;
};

// ---- going back (lab/trials_back.cc)
Result<> roll_back_from(TrialTools& tools, const std::string& phase);
// Ten switches to and fro in one move, and an eleventh to stay.
Result<> ten_switches(TrialTools& tools);

// New goes off after the switch: what old knows of it is told and nothing is changed; new comes back, and so does everything.
Result<> new_is_lost(TrialTools& tools);

// ---- controllers (lab/trials_controllers.cc)
// The journal is deleted once a line that holds `mark` was told.
Result<> adopt_trial(TrialTools& tools, const std::string& mark);
Result<> two_controllers_trial(TrialTools& tools);

}  // namespace midstream::lab
