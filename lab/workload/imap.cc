#include "lab/workload/imap.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <optional>

#include "base/text.h"

namespace midstream::lab {

namespace {

std::string quoted(const std::string& text) { return '"' + text + '"'; }  // the lab's words need no escapes

std::string lower(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return text;
}

// The size of the literal that `line` ends with ("... {42}"), or nothing.
std::optional<std::size_t> literal_in(const std::string& line) {
  const auto open = line.rfind('{');
  if (!line.ends_with('}') || open == std::string::npos) return {};
  return static_cast<std::size_t>(std::atoll(line.c_str() + open + 1));
}

// What stands between `before` and `after`, or "".
std::string between(const std::string& text, const std::string& before, const std::string& after) {
  const auto from = text.find(before);
  if (from == std::string::npos) return "";
  const auto begin = from + before.size();
  const auto end = text.find(after, begin);
  return end == std::string::npos ? "" : text.substr(begin, end - begin);
}

}  // namespace

std::optional<std::pair<std::int64_t, ImapMessage>> parse_fetch(const std::string& line) {
  if (!line.starts_with("* ") || line.find(" FETCH (") == std::string::npos) return {};
  const auto uid = std::atoll(between(line + " ", "UID ", " ").c_str());
  if (uid <= 0) return {};
  ImapMessage message;
  for (const auto& flag : split(between(line, "FLAGS (", ")"), ' ')) {
    if (!flag.empty() && flag != "\\Recent") message.flags.insert(flag);
  }
  const auto header = lower(line).find("message-id:");
  if (header != std::string::npos) message.id = between(line.substr(header), "<", ">");
  return std::pair(uid, std::move(message));
}

Result<ImapSession> ImapSession::open(Resolver& resolver, const std::string& server, const MailUser& user,
                                      TlsContext& tls, Deadline deadline) {
  ImapSession session(TRY(MailWire::connect(resolver, server, 993, &tls, deadline)));
  const auto greeting = TRY(session.wire_.line(deadline));
  if (!greeting.starts_with("* OK")) return retry("IMAP: " + greeting);
  TRY(session.command(fmt::format("LOGIN {} {}", quoted(user.address), quoted(user.password)), deadline));
  return session;
}

Result<std::string> ImapSession::answer(Deadline deadline) {
  auto line = TRY(wire_.line(deadline));
  while (const auto size = literal_in(line)) {
    line += TRY(wire_.bytes(*size, deadline));
    line += TRY(wire_.line(deadline));
  }
  if (line.starts_with("* BYE")) return retry("IMAP: " + line);
  return line;
}

Result<std::vector<std::string>> ImapSession::command(const std::string& text, Deadline deadline) {
  const auto tag = fmt::format("t{} ", ++tag_);
  CHECK_OK(wire_.say(tag + text, deadline));
  std::vector<std::string> untagged;
  while (true) {
    auto line = TRY(answer(deadline));
    if (!line.starts_with(tag)) {
      untagged.push_back(std::move(line));
      continue;
    }
    const auto word = line.substr(tag.size());
    if (word.starts_with("OK")) return untagged;
    if (word.starts_with("NO [UNAVAILABLE]") || word.starts_with("NO [INUSE]") || word.starts_with("NO [SERVERBUG]"))
      return retry("IMAP: " + word);
    return refused("IMAP: " + word);
  }
}

Result<std::int64_t> ImapSession::select(const std::string& folder, Deadline deadline) {
  selected_.clear();
  for (const auto& line : TRY(command("SELECT " + quoted(folder), deadline))) {
    const auto value = std::atoll(between(line, "[UIDVALIDITY ", "]").c_str());
    if (value > 0) {
      selected_ = folder;
      return value;
    }
  }
  return refused(fmt::format("IMAP: {} has no UIDVALIDITY", folder));
}

Result<> ImapSession::ensure(const std::string& folder, Deadline deadline) {
  if (selected_ != folder) TRY(select(folder, deadline));
  return {};
}

Result<ImapFolder> ImapSession::read(const std::string& name, Deadline deadline) {
  ImapFolder folder;
  folder.uidvalidity = TRY(select(name, deadline));
  for (const auto& line : TRY(command("UID FETCH 1:* (UID FLAGS BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)])", deadline))) {
    if (auto message = parse_fetch(line); message && !message->second.id.empty())
      folder.messages.insert(*std::move(message));
  }
  return folder;
}

Result<> ImapSession::store(const std::string& folder, std::int64_t uid, const std::string& change, Deadline deadline) {
  CHECK_OK(ensure(folder, deadline));
  TRY(command(fmt::format("UID STORE {} {}", uid, change), deadline));
  return {};
}

Result<> ImapSession::move(const std::string& folder, std::int64_t uid, const std::string& to, Deadline deadline) {
  CHECK_OK(ensure(folder, deadline));
  TRY(command(fmt::format("UID MOVE {} {}", uid, quoted(to)), deadline));
  return {};
}

Result<> ImapSession::expunge(const std::string& folder, std::int64_t uid, Deadline deadline) {
  CHECK_OK(store(folder, uid, "+FLAGS (\\Deleted)", deadline));
  TRY(command(fmt::format("UID EXPUNGE {}", uid), deadline));
  return {};
}

Result<> ImapSession::idle(Millis span, Deadline deadline) {
  CHECK_OK(ensure("INBOX", deadline));
  const auto tag = fmt::format("t{} ", ++tag_);
  CHECK_OK(wire_.say(tag + "IDLE", deadline));
  for (auto line = TRY(answer(deadline)); !line.starts_with("+"); line = TRY(answer(deadline))) {
  }
  pause_for(span, {});
  CHECK_OK(wire_.say("DONE", deadline));
  for (auto line = TRY(answer(deadline));; line = TRY(answer(deadline))) {
    if (line.starts_with(tag + "OK")) return {};
    if (line.starts_with(tag)) return refused("IMAP: " + line);
  }
}

void ImapSession::close(Deadline deadline) { (void)wire_.say("z LOGOUT", deadline); }

}  // namespace midstream::lab
