// What must hold before mail is moved.
#pragma once

#include "movers/mail/mail.h"
#include "movers/mail/plan.h"

namespace midstream::mail {

struct Limits;

// What of this host's configuration must be the same on both, as names to values or hashes, and what a check looks at.
Result<Json> facts_of(const MailOptions& options, const Limits& limits);
Result<Json> run_check(const MailOptions& options, const Context& context, const Plan& plan);

}  // namespace midstream::mail
