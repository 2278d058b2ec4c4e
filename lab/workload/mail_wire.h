// A mail client's connection: lines out, lines in, TLS from the start or on the way.
#pragma once

#include <memory>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "lab/workload/resolver.h"
#include "probe/channel.h"
#include "sys/clock.h"

namespace midstream::lab {

// Where mail is, as clients know it.
struct MailPlaces {
  std::string mx, imap;     // names
  std::string sink_domain;  // of the rest of the world, without its final dot
  std::string users_file;   // a line each: ADDRESS PASSWORD
};
// "mx=NAME imap=NAME sink=DOMAIN users=FILE".
Result<MailPlaces> parse_mail_places(const std::string& text);

struct MailUser {
  std::string address, password;
};
Result<std::vector<MailUser>> read_mail_users(const std::string& path);

// After any error it is dead. Every error is retry: nothing is said about what the peer has done.
class MailWire {
 public:
  // `tls` null: plain. The certificate must be for `name`.
  static Result<MailWire> connect(Resolver& resolver, const std::string& name, std::uint16_t port, TlsContext* tls,
                                  Deadline deadline);
  Result<> start_tls(TlsContext& tls, Deadline deadline);
  Result<> write(std::string_view bytes, Deadline deadline);
  Result<> say(const std::string& line, Deadline deadline) { return write(line + "\r\n", deadline); }
  // Without its CRLF.
  Result<std::string> line(Deadline deadline);
  Result<std::string> bytes(std::size_t count, Deadline deadline);

 private:
  MailWire(std::unique_ptr<Channel> channel, std::string name) : channel_(std::move(channel)), name_(std::move(name)) {}
  Result<> fill(Deadline deadline);

  std::unique_ptr<Channel> channel_;
  std::string name_;
  std::string buffer_;
};

}  // namespace midstream::lab
