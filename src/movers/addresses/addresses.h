// The mover `addresses`: moves addresses of one layer-2 segment from old to new so that at no instant both
// answer for them. docs/formats/desired.md has the desired states; docs/decisions/0006-address-titles.md has
// what holds at each failure.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string_view>

#include "movers/mover.h"

namespace midstream {

struct AddressesOptions {
  // Where etc/network and run/ are looked for.
  std::filesystem::path root = "/";
  // How long addresses may be with nobody before the side that yielded them asks the other to stand down.
  Millis lease{15'000};
  // Called at the named points between durable effects; a test throws from it what stands for a crash.
  std::function<void(std::string_view)> checkpoint = [](std::string_view) {};
};

// Works in the network namespace of the calling thread; background work in that of the thread that called
// start().
std::unique_ptr<Mover> make_addresses_mover(AddressesOptions options = {});

}  // namespace midstream
