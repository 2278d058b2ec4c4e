// Mail: Dovecot's users, one home each, and Postfix's queue. What is desired is in docs/formats/desired.md, how the
// promises are kept in docs/movers/mail.md.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "movers/mover.h"

namespace midstream {

struct MailOptions {
  std::filesystem::path dovecot_conf = "/etc/dovecot/dovecot.conf";
  std::filesystem::path postfix_conf = "/etc/postfix";
  // Joins its stdin and stdout to the unix socket that is given as one more word; empty: this program's own `pipe`.
  std::vector<std::string> pipe;
  Millis lease{10'000};  // how long deliveries and logins of a user may wait for a flip
  // Called at named points of an act, for tests.
  std::function<void(std::string_view)> checkpoint = [](std::string_view) {};
};

std::unique_ptr<Mover> make_mail_mover();
std::unique_ptr<Mover> make_mail_mover(MailOptions options);

}  // namespace midstream
