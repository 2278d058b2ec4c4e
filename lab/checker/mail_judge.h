// The judge of mail: every accepted message there once, every acknowledged change too, and every UID means what it meant.
// Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "lab/checker/mail_collection.h"
#include "lab/workload/record.h"

namespace midstream::lab {

struct MailEvidence {
  std::optional<MailCollection> mailboxes;  // of the final side
  std::optional<std::vector<SinkLine>> sink;
  std::string source;  // the one address that mail may come from; "": not judged
};

struct MailJudgement {
  bool used = false;  // whether anybody used mail at all
  std::int64_t acknowledged_messages = 0;
  std::int64_t acknowledged_flags = 0;  // changes of flags, moves, deletions
  std::int64_t lost = 0;                // a message or a change that was acknowledged and is not there
  std::int64_t doubled = 0;             // a message there more often than it may be
  std::int64_t violations = 0;    // a UID or UIDVALIDITY with another meaning; what readers saw change or go by itself
  std::int64_t refused = 0;       // 5xx
  std::int64_t wrong_source = 0;  // mail to the rest of the world from another address
  std::vector<std::string> details, unknowns;

  bool broken() const { return lost + doubled + violations + refused + wrong_source > 0; }
};

MailJudgement judge_mail(const std::vector<std::vector<Record>>& ledgers, const MailEvidence& evidence);
Json to_json(const MailJudgement& judgement);

}  // namespace midstream::lab
