// An IMAP client (RFC 9051) of one user: one folder selected at a time.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "lab/workload/mail_wire.h"

namespace midstream::lab {

struct ImapMessage {
  std::string id;  // of its Message-ID, without the angle brackets
  std::set<std::string> flags;
};
struct ImapFolder {
  std::int64_t uidvalidity = 0;
  std::map<std::int64_t, ImapMessage> messages;  // by UID
};

// Errors: retry where the connection is gone or the server says that it goes (BYE, [UNAVAILABLE]): the session is dead
// then, and the command may have been carried out; refused where the server says NO or BAD.
class ImapSession {
 public:
  // Logs in, over TLS.
  static Result<ImapSession> open(Resolver& resolver, const std::string& server, const MailUser& user, TlsContext& tls,
                                  Deadline deadline);
  // Selects `name` (anew) and reads all of it.
  Result<ImapFolder> read(const std::string& name, Deadline deadline);
  Result<> store(const std::string& folder, std::int64_t uid, const std::string& change,
                 Deadline deadline);  // "+FLAGS (\\Flagged)"
  Result<> move(const std::string& folder, std::int64_t uid, const std::string& to, Deadline deadline);
  Result<> expunge(const std::string& folder, std::int64_t uid, Deadline deadline);
  // Waits for news in INBOX for `span` (RFC 2177).
  Result<> idle(Millis span, Deadline deadline);
  void close(Deadline deadline);

 private:
  explicit ImapSession(MailWire wire) : wire_(std::move(wire)) {}
  // The untagged answers, each with its literals in it.
  Result<std::vector<std::string>> command(const std::string& text, Deadline deadline);
  Result<std::string> answer(Deadline deadline);
  Result<std::int64_t> select(const std::string& folder, Deadline deadline);
  Result<> ensure(const std::string& folder, Deadline deadline);

  MailWire wire_;
  std::string selected_;
  int tag_ = 0;
};

// One line of an untagged FETCH answer; nullopt for any other.
std::optional<std::pair<std::int64_t, ImapMessage>> parse_fetch(const std::string& line);

}  // namespace midstream::lab
