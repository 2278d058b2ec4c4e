// One target as libFuzzer wants it; MIDSTREAM_FUZZ_TARGET names it (one program each).
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "tests/fuzz/target.h"

namespace midstream::fuzz {

void must(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", what);
  std::abort();
}

}  // namespace midstream::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* bytes, std::size_t size) {
  static const auto target = [] {
    for (const auto& one : midstream::fuzz::all_targets())
      if (std::string_view(one.name) == MIDSTREAM_FUZZ_TARGET) return one;
    std::abort();
  }();
  target.run({reinterpret_cast<const char*>(bytes), size});
  return 0;
}
