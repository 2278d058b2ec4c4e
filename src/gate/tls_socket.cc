#include "gate/tls_socket.h"

#include <fmt/format.h>
#include <openssl/err.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "gate/rules.h"
#include "sys/tls.h"

namespace midstream::gate {

namespace {

constexpr unsigned char kAlpn[] = "\x0apostgresql";

// The protocol's own name if the client offers it; a client that offers others only is turned down, as by PostgreSQL.
int choose_alpn(SSL*, const unsigned char** out, unsigned char* size, const unsigned char* in, unsigned in_size, void*) {
  unsigned char* chosen = nullptr;
  if (SSL_select_next_proto(&chosen, size, kAlpn, sizeof kAlpn - 1, in, in_size) != OPENSSL_NPN_NEGOTIATED)
    return SSL_TLSEXT_ERR_ALERT_FATAL;
  *out = chosen;
  return SSL_TLSEXT_ERR_OK;
}

// What SSL_get_error goes by must be empty beforehand; it nearly always is.
void no_error_before() {
  if (ERR_peek_error() != 0) ERR_clear_error();
}

// RFC 5929: by the hash of the certificate's signature, SHA-256 where that is MD5 or SHA-1.
std::string end_point(X509* certificate) {
  int kind = 0;
  if (certificate == nullptr || X509_get_signature_info(certificate, &kind, nullptr, nullptr, nullptr) != 1) return {};
  const EVP_MD* hash = kind == NID_md5 || kind == NID_sha1 ? EVP_sha256() : EVP_get_digestbynid(kind);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (hash == nullptr || X509_digest(certificate, hash, digest, &size) != 1) return {};
  return {reinterpret_cast<char*>(digest), size};
}

std::shared_ptr<SSL_CTX> new_context(const SSL_METHOD* method) {
  std::shared_ptr<SSL_CTX> context(SSL_CTX_new(method), &SSL_CTX_free);
  SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
  SSL_CTX_set_options(context.get(), SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(context.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  // A record in one read instead of two (its head, its body). Whoever reads goes on until there is no more, so that nothing
  // that came with it is left where no socket tells of it. The buffers, 32 KiB a connection, are kept: to make them anew for
  // every message costs more than to encrypt a short one.
  SSL_CTX_set_read_ahead(context.get(), 1);
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_num_tickets(context.get(), 0);
  return context;
}

}  // namespace

Result<TlsContext> TlsContext::for_clients(const std::filesystem::path& certificate, const std::filesystem::path& key) {
  TlsContext made;
  made.context_ = new_context(TLS_server_method());
  auto* context = made.context_.get();
  if (SSL_CTX_use_certificate_chain_file(context, certificate.c_str()) != 1)
    return refused(fmt::format("cannot use the certificate {}: {}", certificate.string(), openssl_error()));
  if (SSL_CTX_use_PrivateKey_file(context, key.c_str(), SSL_FILETYPE_PEM) != 1 || SSL_CTX_check_private_key(context) != 1)
    return refused(fmt::format("cannot use the key {}: {}", key.string(), openssl_error()));
  SSL_CTX_set_alpn_select_cb(context, choose_alpn, nullptr);
  made.certificate_hash_ = end_point(SSL_CTX_get0_certificate(context));
  return made;
}

Result<TlsContext> TlsContext::for_server(const ServerConfig& server) {
  TlsContext made;
  made.context_ = new_context(TLS_client_method());
  auto* context = made.context_.get();
  SSL_CTX_set_alpn_protos(context, kAlpn, sizeof kAlpn - 1);
  if (server.tls == TlsUse::require) return made;
  SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
  if (SSL_CTX_load_verify_file(context, server.ca_file.c_str()) != 1)
    return refused(fmt::format("cannot use the CA file {}: {}", server.ca_file.string(), openssl_error()));
  if (server.tls == TlsUse::verify_full) made.server_name_ = server.name.empty() ? server.host : server.name;
  return made;
}

void TlsSocket::close() {
  ssl_.reset();
  fd_.reset();
}

Result<> TlsSocket::start_tls(const TlsContext& context, bool accepting) {
  ssl_.reset(SSL_new(context.get()));
  if (!ssl_ || SSL_set_fd(ssl_.get(), fd_.get()) != 1) return refused("cannot start TLS: " + openssl_error());
  if (accepting) {
    SSL_set_accept_state(ssl_.get());
    return {};
  }
  SSL_set_connect_state(ssl_.get());
  const auto& name = context.server_name();
  if (name.empty()) return {};
  auto* checked = SSL_get0_param(ssl_.get());
  const bool numeric = parse_address(name).has_value();
  const int set = numeric ? X509_VERIFY_PARAM_set1_ip_asc(checked, name.c_str()) : X509_VERIFY_PARAM_set1_host(checked, name.c_str(), 0);
  if (set != 1) return refused("cannot check the server's name: " + openssl_error());
  if (!numeric) SSL_set_tlsext_host_name(ssl_.get(), name.c_str());
  return {};
}

Io TlsSocket::tls_result(int result) {
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ: case SSL_ERROR_WANT_WRITE: return Io::blocked;
    case SSL_ERROR_ZERO_RETURN: return Io::closed;
    case SSL_ERROR_SYSCALL: error_ = errno == 0 ? "the peer closed the connection" : std::strerror(errno); break;
    default: error_ = openssl_error(); break;
  }
  ERR_clear_error();
  return Io::failed;
}

Io TlsSocket::handshake() {
  no_error_before();
  const int result = SSL_do_handshake(ssl_.get());
  if (result == 1) return Io::done;
  const auto verified = SSL_get_verify_result(ssl_.get());
  const auto io = tls_result(result);
  if (io == Io::failed && verified != X509_V_OK) error_ = X509_verify_cert_error_string(verified);
  return io == Io::closed ? Io::failed : io;
}

bool TlsSocket::alpn_postgresql() const {
  const unsigned char* name = nullptr;
  unsigned size = 0;
  SSL_get0_alpn_selected(ssl_.get(), &name, &size);
  return size == sizeof kAlpn - 2 && std::memcmp(name, kAlpn + 1, size) == 0;
}

Io TlsSocket::read(std::span<char> into, std::size_t& n) {
  n = 0;
  if (ssl_) {
    no_error_before();
    const int result = SSL_read_ex(ssl_.get(), into.data(), into.size(), &n);
    return result == 1 ? Io::done : tls_result(result);
  }
  if (drained_) return Io::blocked;
  const auto got = ::recv(fd_.get(), into.data(), into.size(), 0);
  if (got == 0) return Io::closed;
  if (got < 0 && errno != EAGAIN) return errno == EINTR ? Io::blocked : Io::failed;
  // Less than there was room for: there is no more (epoll(7)).
  drained_ = on_events_ && (got < 0 || (static_cast<std::size_t>(got) < into.size() && !ended_));
  if (got < 0) return Io::blocked;
  n = static_cast<std::size_t>(got);
  return Io::done;
}

Io TlsSocket::peek(std::span<char> into, std::size_t& n) {
  n = 0;
  const auto got = ::recv(fd_.get(), into.data(), into.size(), MSG_PEEK);
  if (got == 0) return Io::closed;
  if (got < 0) return errno == EAGAIN || errno == EINTR ? Io::blocked : Io::failed;
  n = static_cast<std::size_t>(got);
  return Io::done;
}

Io TlsSocket::write(std::string_view bytes, std::size_t& n) {
  n = 0;
  if (ssl_) {
    no_error_before();
    const int result = SSL_write_ex(ssl_.get(), bytes.data(), bytes.size(), &n);
    return result == 1 ? Io::done : tls_result(result);
  }
  const auto put = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
  if (put < 0) return errno == EAGAIN || errno == EINTR ? Io::blocked : Io::failed;
  n = static_cast<std::size_t>(put);
  return Io::done;
}

void TlsSocket::end_writing() {
  if (!open()) return;
  if (ssl_) {
    ERR_clear_error();
    SSL_shutdown(ssl_.get());
    ERR_clear_error();
  }
  ::shutdown(fd_.get(), SHUT_WR);
}

}  // namespace midstream::gate
