// What a mail client says, and what it makes of the answers: SMTP (RFC 5321), submission (RFC 6409) and IMAP
// (RFC 9051), each on a new connection, up to the point where a user would be served. Nothing is sent or changed.
#pragma once

#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "probe/channel.h"
#include "probe/config.h"
#include "probe/outcome.h"

namespace midstream {

struct Login {
  std::string user, password;
};

enum class DoorState {
  open,   // served
  later,  // come back: 4xx, BYE, [UNAVAILABLE], a connection that was closed in the middle
  shut,   // a permanent no, or nobody there
};

struct DoorAnswer {
  DoorState state = DoorState::shut;
  std::string error;  // class in one word; "" where open
};

// One dialog on `fd`, which is connected to `door`. With a login, submission and IMAP log in, and SMTP asks whether mail to
// that user would be taken; without one, to postmaster, whom RFC 5321 (4.5.1) has every server take (and Postfix takes
// where it defers everybody else). Ports 465 and 993 speak TLS at once, other
// ports of submission and IMAP after STARTTLS; a password never leaves without TLS.
DoorAnswer try_door(const MailDoor& door, const Login* login, Fd fd, TlsContext& tls, Deadline deadline,
                    const std::stop_token& stop);

}  // namespace midstream
