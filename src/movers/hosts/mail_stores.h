// Where this host keeps mail, as its own Dovecot and Postfix say.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "sys/clock.h"

namespace midstream {

struct MailStores {
  std::vector<std::string> homes;  // of every user
  std::string queue;               // Postfix's; "" where there is no Postfix
  // The directory that holds all the homes, and nothing wider than it must be.
  std::string root() const;
};

Result<MailStores> mail_stores(Deadline deadline);

}  // namespace midstream
