// Sending one message, as a mail server (port 25) or a mail program (port 587) does it: RFC 5321, RFC 6409.
#pragma once

#include <optional>
#include <string>

#include "lab/workload/mail_wire.h"

namespace midstream::lab {

struct Letter {
  std::string id;  // of its Message-ID, without the angle brackets
  std::string from, to;
  std::string subject;
  std::string body;  // lines with LF
};

// What became of one try.
struct SmtpTry {
  enum class End {
    taken,    // 250 after the data: the server answers for it from here on
    later,    // 4xx, or no connection: come back
    refused,  // 5xx
    maybe,    // all of it was sent, and no answer came: it may be taken
  };
  End end = End::later;
  int code = 0;  // the reply that decided, 0 where there was none
  std::string why;
};

// With `login`: submission, over STARTTLS. Without: port 25, plain.
SmtpTry send_letter(Resolver& resolver, const std::string& server, const Letter& letter,
                    const std::optional<MailUser>& login, TlsContext& tls, Deadline deadline);

}  // namespace midstream::lab
