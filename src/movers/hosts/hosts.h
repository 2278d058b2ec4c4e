// The mover `hosts`: what a host as such has that a move must take care of. Units that must never run twice are handed
// over so that at no instant both sides may run them; what no mover covers is listed; sizes are compared.
// docs/formats/desired.md has the desired states; docs/decisions/0006-address-titles.md the rule of titles.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string_view>

#include "movers/mover.h"

namespace midstream {

struct HostsOptions {
  // Where etc/ and run/ are looked for.
  std::filesystem::path root = "/";
  // How long a unit may run nowhere before the side that yielded it asks the other to stand down.
  Millis lease{15'000};
  // How long a started unit may take to run, and how long it must then stay up to count as started.
  Millis start_patience{15'000};
  Millis steady{300};
  // Called at the named points between durable effects; a test throws from it what stands for a crash.
  std::function<void(std::string_view)> checkpoint = [](std::string_view) {};
};

std::unique_ptr<Mover> make_hosts_mover(HostsOptions options = {});

}  // namespace midstream
