// The users of mail. Each mailbox has one user who changes it, so that what is asked of it has an order.
#pragma once

#include "lab/workload/imap.h"
#include "lab/workload/lanes.h"
#include "lab/workload/smtp.h"

namespace midstream::lab {

// What the lanes of mail share.
struct MailWorld {
  MailPlaces places;
  std::vector<MailUser> users;
  std::shared_ptr<TlsContext> tls;
  Resolver& mx;
  Resolver& imap;
};

// A mail server of the rest of the world: it delivers, and comes back with the same message where it is told to, or
// hung up on. Or a mail program (`submits`) that sends to the rest of the world, now and then to a colleague.
class SendLane final : public Lane {
 public:
  SendLane(Ledger& ledger, LaneOptions options, const MailWorld& world, bool submits)
      : Lane(ledger, std::move(options)), world_(world), submits_(submits) {}

 private:
  Result<> step() override;
  const MailWorld& world_;
  const bool submits_;
};

// A mail program on one mailbox: it reads, flags, moves, deletes, and waits for news. It remembers which message had
// which UID under which UIDVALIDITY, and writes down when that changes.
class MailboxLane final : public Lane {
 public:
  MailboxLane(Ledger& ledger, LaneOptions options, const MailWorld& world, MailUser user)
      : Lane(ledger, std::move(options)), world_(world), user_(std::move(user)) {}

 private:
  using Work = std::function<Result<>(ImapSession& session, Deadline deadline)>;

  Result<> step() override;
  Result<> look(const std::string& folder);
  Result<> compare(const std::string& folder, ImapFolder fresh);
  Result<> change(OpKind kind);
  Result<> wait_for_news();
  // Carries `work` out, on a new session where the old one is gone, until it is done, refused, or patience runs out.
  Result<> patiently(Record record, const Work& work, Result<>* ended);
  Result<> remark(RecordType type, const std::string& folder, std::int64_t uidvalidity, std::int64_t uid,
                  const std::string& id, const std::string& why = "");

  const MailWorld& world_;
  const MailUser user_;
  std::optional<ImapSession> session_;
  std::map<std::string, ImapFolder> known_;
};

// Looks into a mailbox over POP3 (RFC 1939), another one each time, and takes nothing.
class PopLane final : public Lane {
 public:
  PopLane(Ledger& ledger, LaneOptions options, const MailWorld& world)
      : Lane(ledger, std::move(options)), world_(world) {}

 private:
  Result<> step() override;
  Result<> look(const MailUser& user, Deadline deadline);
  const MailWorld& world_;
};

}  // namespace midstream::lab
