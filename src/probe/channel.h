// A connection that a probe speaks over: plain, or TLS as browsers have it (the host's authorities, the name checked).
#pragma once

#include <expected>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>

#include "base/result.h"
#include "sys/clock.h"
#include "sys/fd.h"

namespace midstream {

class TlsContext;  // OpenSSL's, behind channel.cc; thread-safe
Result<std::shared_ptr<TlsContext>> make_tls_context();

// Errors are classes in one word, for the log. One thread at a time.
class Channel {
 public:
  virtual ~Channel() = default;
  virtual std::expected<void, std::string> write(std::string_view bytes, Deadline deadline, const std::stop_token& stop) = 0;
  // Empty: the peer closed.
  virtual std::expected<std::string, std::string> read(Deadline deadline, const std::stop_token& stop) = 0;
  // The socket, for who goes on with it otherwise (STARTTLS); the channel is dead then.
  virtual Fd take() = 0;
};

// `tls` null: plain. `name` is what the certificate must be for.
std::expected<std::unique_ptr<Channel>, std::string> open_channel(Fd fd, TlsContext* tls, const std::string& name,
                                                                  Deadline deadline, const std::stop_token& stop);

}  // namespace midstream
