// Bad input and unfit hosts: each must end in one clear message and its exit code, with nothing changed anywhere.
#pragma once

#include <functional>
#include <string_view>

#include "base/result.h"
#include "lab/lab.h"

namespace midstream::lab {

// Tries every case in `lab`, in which no move has begun. Refused, naming the case, where one ends otherwise.
Result<> try_bad_input(Lab& lab, const std::function<void(std::string_view)>& tell);

}  // namespace midstream::lab
