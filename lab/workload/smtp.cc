#include "lab/workload/smtp.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <cstdlib>

#include "base/text.h"

namespace midstream::lab {

namespace {

std::string base64(const std::string& bytes) {
  std::string text(4 * ((bytes.size() + 2) / 3) + 1, '\0');
  text.resize(static_cast<std::size_t>(::EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                                         reinterpret_cast<const unsigned char*>(bytes.data()),
                                                         static_cast<int>(bytes.size()))));
  return text;
}

std::string format(const Letter& letter) {
  std::string text = fmt::format("From: <{}>\r\nTo: <{}>\r\nSubject: {}\r\nMessage-ID: <{}>\r\n\r\n", letter.from,
                                 letter.to, letter.subject, letter.id);
  for (const auto& line : split(letter.body, '\n')) text += (line.starts_with('.') ? "." : "") + line + "\r\n";
  return text + ".\r\n";
}

// The dialog, up to the reply that decides.
class Dialog {
 public:
  Dialog(MailWire wire, Deadline deadline) : wire_(std::move(wire)), deadline_(deadline) {}

  // True where the reply is positive; else `ended` says what it means.
  bool reply() {
    std::string text;
    while (true) {
      auto line = wire_.line(deadline_);
      if (!line) return lost(line.error().what);
      text = *line;
      if (text.size() < 4 || text[3] != '-') break;
    }
    ended.code = std::atoi(text.c_str());
    ended.why = text;
    if (ended.code >= 200 && ended.code < 400) return true;
    ended.end = ended.code >= 500 ? SmtpTry::End::refused : SmtpTry::End::later;
    return false;
  }
  bool say(const std::string& line) {
    if (auto said = wire_.say(line, deadline_); !said) return lost(said.error().what);
    return reply();
  }
  bool start_tls(TlsContext& tls) {
    if (auto done = wire_.start_tls(tls, deadline_); !done) return lost(done.error().what);
    return true;
  }
  // From the first byte of the last line on nobody knows, until the answer is there.
  void send(const std::string& data) {
    if (auto sent = wire_.write(data, deadline_); !sent) {
      lost(sent.error().what);
      ended.end = SmtpTry::End::maybe;
      return;
    }
    all_sent_ = true;
    if (reply()) ended.end = SmtpTry::End::taken;
  }
  void quit() { (void)wire_.say("QUIT", deadline_.sooner(Millis(200))); }

  SmtpTry ended;

 private:
  bool lost(const std::string& why) {
    ended = {all_sent_ ? SmtpTry::End::maybe : SmtpTry::End::later, 0, why};
    return false;
  }

  MailWire wire_;
  Deadline deadline_;
  bool all_sent_ = false;
};

bool greet(Dialog& dialog, const std::optional<MailUser>& login, TlsContext& tls) {
  if (!dialog.reply() || !dialog.say("EHLO clients.invalid")) return false;
  if (!login) return true;
  const auto secret = '\0' + login->address + '\0' + login->password;
  return dialog.say("STARTTLS") && dialog.start_tls(tls) && dialog.say("EHLO clients.invalid") &&
         dialog.say("AUTH PLAIN " + base64(secret));
}

}  // namespace

SmtpTry send_letter(Resolver& resolver, const std::string& server, const Letter& letter,
                    const std::optional<MailUser>& login, TlsContext& tls, Deadline deadline) {
  auto wire = MailWire::connect(resolver, server, login ? 587 : 25, nullptr, deadline);
  if (!wire) return {SmtpTry::End::later, 0, wire.error().what};
  Dialog dialog(std::move(*wire), deadline);
  const bool open = greet(dialog, login, tls) && dialog.say(fmt::format("MAIL FROM:<{}>", letter.from)) &&
                    dialog.say(fmt::format("RCPT TO:<{}>", letter.to)) && dialog.say("DATA");
  if (open) dialog.send(format(letter));
  dialog.quit();
  return dialog.ended;
}

}  // namespace midstream::lab
