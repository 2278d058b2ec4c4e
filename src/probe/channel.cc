#include "probe/channel.h"

#include <arpa/inet.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>

#include <cerrno>

#include "probe/outcome.h"
#include "sys/stream.h"

namespace midstream {

class TlsContext {
 public:
  explicit TlsContext(SSL_CTX* context) : context_(context, &::SSL_CTX_free) {}
  SSL_CTX* get() const { return context_.get(); }

 private:
  std::unique_ptr<SSL_CTX, decltype(&::SSL_CTX_free)> context_;
};

namespace {

constexpr std::size_t kReadSize = 16u << 10;

class PlainChannel final : public Channel {
 public:
  explicit PlainChannel(Fd fd) : fd_(std::move(fd)) {}

  std::expected<void, std::string> write(std::string_view bytes, Deadline deadline, const std::stop_token& stop) override {
    while (!bytes.empty()) {
      const auto sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent >= 0) {
        bytes.remove_prefix(static_cast<std::size_t>(sent));
      } else if (errno != EAGAIN && errno != EINTR) {
        return std::unexpected(errno_class(errno));
      } else if (!wait_fd(fd_.get(), POLLOUT, deadline, stop)) {
        return std::unexpected("timeout");
      }
    }
    return {};
  }

  std::expected<std::string, std::string> read(Deadline deadline, const std::stop_token& stop) override {
    std::string bytes(kReadSize, '\0');
    while (true) {
      const auto got = ::recv(fd_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
      if (got >= 0) {
        bytes.resize(static_cast<std::size_t>(got));
        return bytes;
      }
      if (errno != EAGAIN && errno != EINTR) return std::unexpected(errno_class(errno));
      if (!wait_fd(fd_.get(), POLLIN, deadline, stop)) return std::unexpected("timeout");
    }
  }

  Fd take() override { return std::move(fd_); }

 private:
  Fd fd_;
};

class TlsChannel final : public Channel {
 public:
  TlsChannel(Fd fd, SSL* ssl) : fd_(std::move(fd)), ssl_(ssl, &::SSL_free) {}

  std::expected<void, std::string> handshake(Deadline deadline, const std::stop_token& stop) {
    const auto done = run([this] { return ::SSL_connect(ssl_.get()); }, deadline, stop);
    if (!done) return std::unexpected(done.error());
    return {};
  }
  std::expected<void, std::string> write(std::string_view bytes, Deadline deadline, const std::stop_token& stop) override {
    const auto size = static_cast<int>(bytes.size());
    const auto done = run([&] { return ::SSL_write(ssl_.get(), bytes.data(), size); }, deadline, stop);
    if (!done) return std::unexpected(done.error());
    return {};
  }
  std::expected<std::string, std::string> read(Deadline deadline, const std::stop_token& stop) override {
    std::string bytes(kReadSize, '\0');
    const auto got = run([&] { return ::SSL_read(ssl_.get(), bytes.data(), static_cast<int>(bytes.size())); }, deadline, stop);
    if (!got) return std::unexpected(got.error());
    bytes.resize(static_cast<std::size_t>(*got));
    return bytes;
  }

  Fd take() override { return std::move(fd_); }

 private:
  // Repeats `step` until it is done; 0 for an orderly close.
  template <class Step>
  std::expected<int, std::string> run(Step step, Deadline deadline, const std::stop_token& stop) {
    while (true) {
      ::ERR_clear_error();
      const int done = step();
      if (done > 0) return done;
      short events = 0;
      switch (::SSL_get_error(ssl_.get(), done)) {
        case SSL_ERROR_WANT_READ: events = POLLIN; break;
        case SSL_ERROR_WANT_WRITE: events = POLLOUT; break;
        case SSL_ERROR_ZERO_RETURN: return 0;
        case SSL_ERROR_SYSCALL: return std::unexpected(errno == 0 ? "closed" : errno_class(errno));
        default: return std::unexpected(::SSL_get_verify_result(ssl_.get()) == X509_V_OK ? "tls" : "certificate");
      }
      if (!wait_fd(fd_.get(), events, deadline, stop)) return std::unexpected("timeout");
    }
  }

  Fd fd_;
  std::unique_ptr<SSL, decltype(&::SSL_free)> ssl_;
};

// The certificate must be for `name`, which is an address or a host's name.
bool expect_name(SSL* ssl, const std::string& name) {
  unsigned char bytes[16];
  const bool numeric = ::inet_pton(AF_INET, name.c_str(), bytes) == 1 || ::inet_pton(AF_INET6, name.c_str(), bytes) == 1;
  if (numeric) return ::X509_VERIFY_PARAM_set1_ip_asc(::SSL_get0_param(ssl), name.c_str()) == 1;
  return ::SSL_set1_host(ssl, name.c_str()) == 1 && ::SSL_set_tlsext_host_name(ssl, name.c_str()) == 1;
}

}  // namespace

Result<std::shared_ptr<TlsContext>> make_tls_context() {
  auto* context = ::SSL_CTX_new(::TLS_client_method());
  if (context == nullptr || ::SSL_CTX_set_default_verify_paths(context) != 1) {
    ::SSL_CTX_free(context);
    return refused("cannot set up TLS for probes", "check /etc/ssl/certs on the vantage host");
  }
  ::SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
  ::SSL_CTX_set_mode(context, SSL_MODE_AUTO_RETRY);
  return std::make_shared<TlsContext>(context);
}

std::expected<std::unique_ptr<Channel>, std::string> open_channel(Fd fd, TlsContext* tls, const std::string& name,
                                                                  Deadline deadline, const std::stop_token& stop) {
  if (tls == nullptr) return std::make_unique<PlainChannel>(std::move(fd));
  auto* ssl = ::SSL_new(tls->get());
  if (ssl == nullptr) return std::unexpected("tls");
  ::SSL_set_fd(ssl, fd.get());
  auto channel = std::make_unique<TlsChannel>(std::move(fd), ssl);
  if (!expect_name(ssl, name)) return std::unexpected("tls");
  if (auto shaken = channel->handshake(deadline, stop); !shaken) return std::unexpected(shaken.error());
  return channel;
}

}  // namespace midstream
