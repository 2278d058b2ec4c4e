// Prints the plan that the planner makes of the lab's manifest, for the crash sweep of sim_test.
#include <cstdio>

#include "control/planner.h"
#include "lab/provision.h"
#include "lab/scenario.h"
#include "manifest/manifest.h"

int main() {
  using namespace midstream;
  const auto plan = [&]() -> Result<Plan> {
    const auto scenario = TRY(lab::find_scenario("demo", true));
    auto manifest = TRY(parse_manifest(lab::move_manifest(scenario), "move.yaml"));
    // Which addresses are in use is found on the host.
    for (auto& subnet : manifest.subnets) {
      const bool v6 = subnet.subnet.find(':') != std::string::npos;
      for (const auto& address : lab::old_addresses()) {
        if ((address.find(':') != std::string::npos) == v6) subnet.addresses.push_back(address);
      }
    }
    return make_plan(manifest, {}, [](const std::string& mover, const Json&) { return mover; });
  }();
  if (!plan) {
    std::fprintf(stderr, "demo_plan: %s\n", plan.error().text().c_str());
    return 1;
  }
  std::printf("%s\n", to_json(*plan).dump(1).c_str());
  return 0;
}
