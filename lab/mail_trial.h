// A trial of mail by itself: its users at work on old while its daemons die, and then the checker, which passes it and must
// not pass it any more with a fault planted in what it looks at.
#pragma once

#include <functional>
#include <string_view>

#include "base/result.h"
#include "lab/trial.h"

namespace midstream::lab {

// `trial` has begun with mail. Judges it; refused where the verdict is not the one expected.
Result<> try_mail_at_rest(Trial& trial, const std::function<void(std::string_view)>& tell);

}  // namespace midstream::lab
