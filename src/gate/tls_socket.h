// One non-blocking connection, in the clear or under TLS. Used by one thread at a time.
#pragma once

#include <openssl/ssl.h>

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "gate/config.h"
#include "sys/fd.h"

namespace midstream::gate {

// Certificates and what they are checked against; shared by all connections of one leg.
class TlsContext {
 public:
  // For clients: our certificate (a chain) and its key.
  static Result<TlsContext> for_clients(const std::filesystem::path& certificate, const std::filesystem::path& key);
  // For the server: whom to believe.
  static Result<TlsContext> for_server(const ServerConfig& server);
  SSL_CTX* get() const { return context_.get(); }
  // tls-server-end-point of our certificate (RFC 5929); "" where its signature names no hash.
  const std::string& certificate_hash() const { return certificate_hash_; }
  const std::string& server_name() const { return server_name_; }  // to be checked; "" for none

 private:
  std::shared_ptr<SSL_CTX> context_;
  std::string certificate_hash_;
  std::string server_name_;
};

enum class Io { done, blocked, closed, failed };

class TlsSocket {
 public:
  TlsSocket() = default;
  explicit TlsSocket(Fd fd) : fd_(std::move(fd)) {}

  int fd() const { return fd_.get(); }
  bool open() const { return static_cast<bool>(fd_); }
  bool encrypted() const { return ssl_ != nullptr; }
  void close();

  // Nothing that belongs to the handshake may have been read before: see peek().
  Result<> start_tls(const TlsContext& context, bool accepting);
  // done once through; blocked: call again when the socket is ready.
  Io handshake();
  bool alpn_postgresql() const;
  std::string tls_error() const { return error_; }

  // `n` bytes were read or written. closed: the peer has ended its side, in order.
  Io read(std::span<char> into, std::size_t& n);
  Io write(std::string_view bytes, std::size_t& n);
  // From here on, in the clear, the kernel is not asked again once it has given all it had, before event() tells that there is
  // more: read() says blocked. For a socket that is watched edge-triggered, each event of which is told of. `ended`: the event
  // says that the peer has ended its side, or that there is an error: then the kernel is asked until it says so.
  void read_on_events() { on_events_ = true; }
  void event(bool ended) {
    drained_ = false;
    ended_ = ended_ || ended;
  }
  // Reads without taking, in the clear only: what comes before TLS, or is TLS already, stays with the kernel until it is known.
  Io peek(std::span<char> into, std::size_t& n);
  // Nothing more will be written.
  void end_writing();

 private:
  Io tls_result(int result);
  struct Free {
    void operator()(SSL* ssl) const { SSL_free(ssl); }
  };
  Fd fd_;
  std::unique_ptr<SSL, Free> ssl_;
  std::string error_;
  bool on_events_ = false, drained_ = false, ended_ = false;
};

}  // namespace midstream::gate
