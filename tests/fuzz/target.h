// A fuzz target: one decoder of bytes that come from a peer or a file. Whatever it is fed, it answers; what it takes must
// keep what it promises (a value that encodes to the same again, a file given back byte for byte).
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace midstream::fuzz {

struct Target {
  const char* name;
  void (*run)(std::string_view input);
  std::vector<std::string> (*seeds)();  // good inputs, from which mutations begin
};

std::vector<Target> mover_targets();
std::vector<Target> control_targets();
std::vector<Target> gate_targets();
std::vector<Target> lab_targets();

inline std::vector<Target> all_targets() {
  auto all = mover_targets();
  for (const auto& more : {control_targets(), gate_targets(), lab_targets()}) all.insert(all.end(), more.begin(), more.end());
  return all;
}

// Ends the process, which is what a fuzzer and a sanitizer's report look for.
void must(bool holds, const char* what);

}  // namespace midstream::fuzz
