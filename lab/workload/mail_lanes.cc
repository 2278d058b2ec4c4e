#include "lab/workload/mail_lanes.h"

#include <fmt/format.h>

namespace midstream::lab {

namespace {

constexpr Millis kSenderPatience{30'000};  // a mail server's is days; this one's run is minutes
constexpr Millis kReaderPatience{10'000};  // a person's
constexpr Millis kTry{5'000};              // for one connection or command
constexpr Millis kPause{150};              // before another try
constexpr Millis kNews{300};
constexpr std::size_t kKept = 12;  // messages that stay in an inbox whatever else

}  // namespace

Result<> SendLane::step() {
  Record record = new_record(submits_ ? OpKind::submit : OpKind::deliver);
  record.key = fmt::format("{}{}@clients.invalid", ledger_.prefix(), record.op);
  const auto& mailbox = world_.users[static_cast<std::size_t>(below(static_cast<int>(world_.users.size())))];
  const auto& sender = world_.users[static_cast<std::size_t>(below(static_cast<int>(world_.users.size())))];
  const bool abroad = submits_ && below(100) < 70;
  record.mail.user = abroad ? fmt::format("friend{}@{}", below(5), world_.places.sink_domain) : mailbox.address;
  Letter letter{record.key, submits_ ? sender.address : "news@" + world_.places.sink_domain, record.mail.user,
                fmt::format("letter {}", record.op), std::string(static_cast<std::size_t>(20 + below(3'000)), 'x')};
  for (std::size_t i = 70; i < letter.body.size(); i += 71) letter.body[i] = '\n';
  CHECK_OK(attempt(record, true));
  const auto login = submits_ ? std::optional(sender) : std::nullopt;
  const auto deadline = Deadline::in(kSenderPatience);
  while (true) {
    const auto done = send_letter(world_.mx, world_.places.mx, letter, login, *world_.tls, deadline.sooner(kTry));
    record.status = done.code;
    if (done.end == SmtpTry::End::taken) return outcome(record, RecordType::acknowledged);
    if (done.end == SmtpTry::End::refused)
      return outcome(record, record.mail.maybe > 0 ? RecordType::unknown : RecordType::failed, done.why);
    if (done.end == SmtpTry::End::maybe) ++record.mail.maybe;
    if (deadline.expired())
      return outcome(record, record.mail.maybe > 0 ? RecordType::unknown : RecordType::failed, done.why);
    pause_for(kPause, {});
    ++record.tries;
  }
}

Result<> MailboxLane::step() {
  if (known_.empty()) {
    for (const char* folder : {"INBOX", "Archive", "Sent"}) CHECK_OK(look(folder));
    return {};
  }
  const int dice = below(100);
  if (dice < 30) return look("INBOX");
  if (dice < 40) return look(below(2) == 0 ? "Archive" : "Sent");
  if (dice < 50) return wait_for_news();
  return change(dice < 80 ? OpKind::flag : dice < 92 ? OpKind::move : OpKind::expunge);
}

Result<> MailboxLane::patiently(Record record, const Work& work, Result<>* ended) {
  const auto deadline = Deadline::in(kReaderPatience);
  bool begun = false;  // the server may have done it
  while (true) {
    const auto limit = deadline.sooner(kTry);
    Result<> done;
    if (!session_) {
      auto opened = ImapSession::open(world_.imap, world_.places.imap, user_, *world_.tls, limit);
      if (opened) session_.emplace(std::move(*opened));
      if (!opened) done = std::unexpected(opened.error());
    }
    if (session_) {
      done = work(*session_, limit);
      if (!done && done.error().kind != ErrorKind::refused) session_.reset(), begun = true;
    }
    const bool refused = !done && done.error().kind == ErrorKind::refused;
    if (done || refused || deadline.expired()) {
      *ended = done;
      if (done) return outcome(std::move(record), RecordType::acknowledged);
      return outcome(std::move(record), begun ? RecordType::unknown : RecordType::failed, done.error().what);
    }
    pause_for(kPause, {});
    ++record.tries;
  }
}

Result<> MailboxLane::remark(RecordType type, const std::string& folder, std::int64_t uidvalidity, std::int64_t uid,
                             const std::string& id, const std::string& why) {
  Record record = new_record(OpKind::mail_read);
  record.type = type;
  record.key = id;
  record.mail = {user_.address, folder, "", uidvalidity, uid, 0};
  record.why = why;
  CHECK_OK(ledger_.append(std::move(record)));
  return {};
}

Result<> MailboxLane::look(const std::string& folder) {
  Record record = new_record(OpKind::mail_read);
  record.mail.user = user_.address;
  record.mail.folder = folder;
  CHECK_OK(attempt(record, false));
  ImapFolder fresh;
  Result<> ended;
  CHECK_OK(patiently(
      record,
      [&](ImapSession& session, Deadline deadline) -> Result<> {
        fresh = TRY(session.read(folder, deadline));
        return {};
      },
      &ended));
  return ended ? compare(folder, std::move(fresh)) : Result<>();
}

// What was there is there still, and means the same; what is new is remembered.
Result<> MailboxLane::compare(const std::string& folder, ImapFolder fresh) {
  auto& known = known_[folder];
  if (known.uidvalidity != 0 && known.uidvalidity != fresh.uidvalidity) {
    CHECK_OK(remark(RecordType::violation, folder, fresh.uidvalidity, 0, "",
                    fmt::format("UIDVALIDITY was {}", known.uidvalidity)));
    known.messages.clear();
  }
  for (const auto& [uid, message] : known.messages) {
    const auto at = fresh.messages.find(uid);
    if (at == fresh.messages.end()) {
      CHECK_OK(remark(RecordType::violation, folder, fresh.uidvalidity, uid, message.id, "the message is gone"));
    } else if (at->second.id != message.id) {
      CHECK_OK(remark(RecordType::violation, folder, fresh.uidvalidity, uid, message.id,
                      "the UID has become that of " + at->second.id));
    } else if (at->second.flags != message.flags) {
      CHECK_OK(remark(RecordType::violation, folder, fresh.uidvalidity, uid, message.id,
                      "the flags have changed by themselves"));
    }
  }
  for (const auto& [uid, message] : fresh.messages) {
    if (!known.messages.contains(uid)) CHECK_OK(remark(RecordType::seen, folder, fresh.uidvalidity, uid, message.id));
  }
  known = std::move(fresh);
  return {};
}

Result<> MailboxLane::change(OpKind kind) {
  auto& inbox = known_["INBOX"];
  if (inbox.messages.size() <= (kind == OpKind::flag ? 0 : kKept)) return look("INBOX");
  const auto chosen = std::next(inbox.messages.begin(), below(static_cast<int>(inbox.messages.size())));
  const auto uid = chosen->first;
  auto& message = chosen->second;
  Record record = new_record(kind);
  record.key = message.id;
  record.mail = {user_.address, "INBOX", "", inbox.uidvalidity, uid, 0};
  const std::string flag = below(2) == 0 ? "\\Flagged" : "\\Seen";
  const bool set = !message.flags.contains(flag);
  if (kind == OpKind::flag) record.mail.change = (set ? "+" : "-") + flag;
  if (kind == OpKind::move) record.mail.change = "Archive";
  CHECK_OK(attempt(record, true));
  Result<> ended;
  CHECK_OK(patiently(
      record,
      [&](ImapSession& session, Deadline deadline) -> Result<> {
        if (kind == OpKind::move) return session.move("INBOX", uid, "Archive", deadline);
        if (kind == OpKind::expunge) return session.expunge("INBOX", uid, deadline);
        return session.store("INBOX", uid, fmt::format("{}FLAGS ({})", set ? "+" : "-", flag), deadline);
      },
      &ended));
  // What may or may not have happened is looked at anew, and nothing is claimed about it.
  if (!ended || kind != OpKind::flag) {
    inbox.messages.erase(uid);
  } else if (set) {
    message.flags.insert(flag);
  } else {
    message.flags.erase(flag);
  }
  return {};
}

Result<> MailboxLane::wait_for_news() {
  Record record = new_record(OpKind::mail_read);
  record.mail.user = user_.address;
  record.mail.folder = "INBOX";
  CHECK_OK(attempt(record, false));
  // The waiting itself is nobody's pause.
  Result<> ended;
  return patiently(
      record, [](ImapSession& session, Deadline deadline) { return session.idle(kNews, deadline); }, &ended);
}

Result<> PopLane::look(const MailUser& user, Deadline deadline) {
  auto wire = TRY(MailWire::connect(world_.imap, world_.places.imap, 995, world_.tls.get(), deadline));
  const auto positive = [&]() -> Result<> {
    const auto line = TRY(wire.line(deadline));
    if (line.starts_with("+OK")) return {};
    return line.starts_with("-ERR [") ? retry("POP3: " + line) : refused("POP3: " + line);
  };
  CHECK_OK(positive());
  for (const auto& line : {"USER " + user.address, "PASS " + user.password, std::string("STAT"), std::string("QUIT")}) {
    CHECK_OK(wire.say(line, deadline));
    CHECK_OK(positive());
  }
  return {};
}

Result<> PopLane::step() {
  const auto& user = world_.users[static_cast<std::size_t>(below(static_cast<int>(world_.users.size())))];
  Record record = new_record(OpKind::pop_read);
  record.mail.user = user.address;
  CHECK_OK(attempt(record, false));
  const auto deadline = Deadline::in(kReaderPatience);
  while (true) {
    const auto done = look(user, deadline.sooner(kTry));
    if (done) return outcome(record, RecordType::acknowledged);
    if (done.error().kind == ErrorKind::refused || deadline.expired())
      return outcome(record, RecordType::failed, done.error().what);
    pause_for(kPause, {});
    ++record.tries;
  }
}

}  // namespace midstream::lab
