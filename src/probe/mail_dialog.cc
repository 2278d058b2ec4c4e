#include "probe/mail_dialog.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cctype>

namespace midstream {

namespace {

constexpr std::size_t kLongestLine = 8'192;
constexpr int kMostLines = 200;  // of one answer

// Ends a dialog: what the door's answer is.
using Heard = std::expected<std::string, DoorAnswer>;
using Done = std::expected<void, DoorAnswer>;

std::unexpected<DoorAnswer> later(std::string error) {
  return std::unexpected(DoorAnswer{DoorState::later, std::move(error)});
}
std::unexpected<DoorAnswer> shut(std::string error) {
  return std::unexpected(DoorAnswer{DoorState::shut, std::move(error)});
}

// A certificate that does not fit will not fit in a second; everything else that ends a connection may pass.
std::unexpected<DoorAnswer> broken(const std::string& error) {
  return error == "certificate" || error == "tls" ? shut(error) : later(error);
}

std::string base64(const std::string& bytes) {
  std::string text(4 * ((bytes.size() + 2) / 3) + 1, '\0');
  text.resize(static_cast<std::size_t>(::EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                                         reinterpret_cast<const unsigned char*>(bytes.data()),
                                                         static_cast<int>(bytes.size()))));
  return text;
}

std::string upper(std::string text) {
  std::ranges::transform(text, text.begin(), [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  return text;
}

// Lines over a channel that may turn into TLS on the way.
class Wire {
 public:
  Wire(TlsContext& tls, std::string name, Deadline deadline, const std::stop_token& stop)
      : tls_(tls), name_(std::move(name)), deadline_(deadline), stop_(stop) {}

  Done open(Fd fd, bool with_tls) {
    auto channel = open_channel(std::move(fd), with_tls ? &tls_ : nullptr, name_, deadline_, stop_);
    if (!channel) return broken(channel.error());
    channel_ = std::move(*channel);
    return {};
  }
  // What was read ahead is thrown away: it came before TLS did, and is nobody's word (CVE-2011-0411).
  Done start_tls() {
    buffer_.clear();
    return open(channel_->take(), true);
  }
  Done say(const std::string& line) {
    if (auto sent = channel_->write(line + "\r\n", deadline_, stop_); !sent) return broken(sent.error());
    return {};
  }
  Heard line() {
    while (true) {
      if (const auto end = buffer_.find('\n'); end != std::string::npos) {
        auto line = buffer_.substr(0, end);
        buffer_.erase(0, end + 1);
        if (line.ends_with('\r')) line.pop_back();
        return line;
      }
      if (buffer_.size() > kLongestLine) return shut("garbage");
      auto more = channel_->read(deadline_, stop_);
      if (!more) return broken(more.error());
      if (more->empty()) return later("closed");
      buffer_ += *more;
    }
  }

 private:
  TlsContext& tls_;
  const std::string name_;
  const Deadline deadline_;
  const std::stop_token& stop_;
  std::unique_ptr<Channel> channel_;
  std::string buffer_;
};

#define SAID(expression) \
  if (auto said_ = (expression); !said_) return std::unexpected(std::move(said_).error())

// The last line of a reply (RFC 5321, 4.2.1), which must be positive.
Done smtp_reply(Wire& wire) {
  for (int i = 0; i < kMostLines; ++i) {
    auto line = wire.line();
    if (!line) return std::unexpected(line.error());
    if (line->size() < 3 ||
        !std::ranges::all_of(line->substr(0, 3), [](unsigned char c) { return std::isdigit(c) != 0; })) {
      return shut("garbage");
    }
    if (line->size() > 3 && (*line)[3] == '-') continue;
    if (line->front() == '2' || line->front() == '3') return {};
    return line->front() == '4' ? later("smtp-" + line->substr(0, 3)) : shut("smtp-" + line->substr(0, 3));
  }
  return shut("garbage");
}

Done smtp_command(Wire& wire, const std::string& line) {
  SAID(wire.say(line));
  return smtp_reply(wire);
}

Done smtp_dialog(Wire& wire, const Login* login, Fd fd) {
  SAID(wire.open(std::move(fd), false));
  SAID(smtp_reply(wire));
  // Postfix lets a bare "postmaster" past every restriction: an address of one's own is the better question.
  const auto recipient = login == nullptr ? "postmaster" : login->user;
  for (const auto& line : {std::string("EHLO midstream-probe.invalid"), std::string("MAIL FROM:<>"),
                           fmt::format("RCPT TO:<{}>", recipient), std::string("RSET")}) {
    SAID(smtp_command(wire, line));
  }
  return {};
}

Done submission_dialog(Wire& wire, const MailDoor& door, const Login* login, Fd fd) {
  const bool at_once = door.at.port == 465;
  SAID(wire.open(std::move(fd), at_once));
  SAID(smtp_reply(wire));
  SAID(smtp_command(wire, "EHLO midstream-probe.invalid"));
  if (!at_once) {
    SAID(smtp_command(wire, "STARTTLS"));
    SAID(wire.start_tls());
    SAID(smtp_command(wire, "EHLO midstream-probe.invalid"));
  }
  if (login == nullptr) return {};
  const auto secret = '\0' + login->user + '\0' + login->password;
  SAID(smtp_command(wire, "AUTH PLAIN " + base64(secret)));
  for (const auto& line :
       {fmt::format("MAIL FROM:<{}>", login->user), fmt::format("RCPT TO:<{}>", login->user), std::string("RSET")}) {
    SAID(smtp_command(wire, line));
  }
  return {};
}

Done imap_greeting(Wire& wire) {
  auto line = wire.line();
  if (!line) return std::unexpected(line.error());
  const auto word = upper(*line);
  if (word.starts_with("* OK") || word.starts_with("* PREAUTH")) return {};
  return word.starts_with("* BYE") ? later("imap-bye") : shut("garbage");
}

// Sends a command and reads up to its tagged answer, which must be OK.
Done imap_command(Wire& wire, const std::string& tag, const std::string& command) {
  SAID(wire.say(tag + " " + command));
  for (int i = 0; i < kMostLines; ++i) {
    auto line = wire.line();
    if (!line) return std::unexpected(line.error());
    const auto word = upper(*line);
    if (word.starts_with("* BYE")) return later("imap-bye");
    if (!word.starts_with(upper(tag) + " ")) continue;
    const auto answer = std::string_view(word).substr(tag.size() + 1);
    if (answer.starts_with("OK")) return {};
    // RFC 5530: both are the server's word that it will pass.
    if (answer.starts_with("NO [UNAVAILABLE]") || answer.starts_with("NO [INUSE]")) return later("imap-unavailable");
    return shut(answer.starts_with("NO [AUTH") ? "imap-auth" : answer.starts_with("NO") ? "imap-no" : "imap-bad");
  }
  return shut("garbage");
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

Done imap_dialog(Wire& wire, const MailDoor& door, const Login* login, Fd fd) {
  const bool at_once = door.at.port == 993;
  SAID(wire.open(std::move(fd), at_once));
  SAID(imap_greeting(wire));
  if (!at_once) {
    SAID(imap_command(wire, "a", "STARTTLS"));
    SAID(wire.start_tls());
  }
  if (login == nullptr) return imap_command(wire, "b", "NOOP");
  SAID(imap_command(wire, "c", fmt::format("LOGIN {} {}", quoted(login->user), quoted(login->password))));
  SAID(imap_command(wire, "d", "EXAMINE INBOX"));
  return {};
}

#undef SAID

}  // namespace

DoorAnswer try_door(const MailDoor& door, const Login* login, Fd fd, TlsContext& tls, Deadline deadline,
                    const std::stop_token& stop) {
  Wire wire(tls, door.at.host, deadline, stop);
  const auto done = door.protocol == "imap"         ? imap_dialog(wire, door, login, std::move(fd))
                    : door.protocol == "submission" ? submission_dialog(wire, door, login, std::move(fd))
                                                    : smtp_dialog(wire, login, std::move(fd));
  if (!done) return done.error();
  // Good manners; the answer was found already.
  if (auto left = wire.say(door.protocol == "imap" ? "z LOGOUT" : "QUIT"); left) (void)wire.line();
  return {DoorState::open, ""};
}

}  // namespace midstream
