#include "sys/tls.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/bio.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <sys/socket.h>

#include <mutex>

#include "base/text.h"

namespace midstream {

std::string openssl_error() {
  char text[256] = "no reason given";
  const auto code = ERR_get_error();
  if (code != 0) ERR_error_string_n(code, text, sizeof text);
  ERR_clear_error();
  return text;
}

namespace {

template <class T, void (*F)(T*)>
struct Deleter {
  void operator()(T* p) const { F(p); }
};
using KeyPtr = std::unique_ptr<EVP_PKEY, Deleter<EVP_PKEY, EVP_PKEY_free>>;
using CertPtr = std::unique_ptr<X509, Deleter<X509, X509_free>>;
using CtxPtr = std::unique_ptr<SSL_CTX, Deleter<SSL_CTX, SSL_CTX_free>>;
using SslPtr = std::unique_ptr<SSL, Deleter<SSL, SSL_free>>;
using BioPtr = std::unique_ptr<BIO, Deleter<BIO, BIO_free_all>>;

std::string fingerprint_of(const X509* certificate) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (X509_digest(certificate, EVP_sha256(), digest, &size) != 1) return {};
  return to_hex({reinterpret_cast<char*>(digest), size});
}

std::string bio_text(BIO* bio) {
  char* data = nullptr;
  const auto size = BIO_get_mem_data(bio, &data);
  return {data, static_cast<std::size_t>(size)};
}

KeyPtr read_key(const std::string& pem) {
  BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  return KeyPtr(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
}
CertPtr read_certificate(const std::string& pem) {
  BioPtr bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  return CertPtr(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
}

// Chains and names are of no interest: verify_peer() compares the fingerprint after the handshake, before any
// application byte is read or written.
int accept_any_chain(X509_STORE_CTX*, void*) { return 1; }

Result<CtxPtr> make_context(const TlsIdentity& identity) {
  CtxPtr context(SSL_CTX_new(TLS_method()));
  const auto key = read_key(identity.key_pem);
  const auto certificate = read_certificate(identity.certificate_pem);
  if (!context || !key || !certificate) return refused("cannot load the agent's TLS key: " + openssl_error());
  SSL_CTX_set_min_proto_version(context.get(), TLS1_3_VERSION);
  // AES-128-GCM first: the cheapest strong cipher on processors with AES instructions.
  SSL_CTX_set_ciphersuites(context.get(), "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256");
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
  SSL_CTX_set_cert_verify_callback(context.get(), accept_any_chain, nullptr);
  SSL_CTX_set_num_tickets(context.get(), 0);
  // Several records at a time, not the head and the rest of each: whoever reads tries before waiting for the socket.
  SSL_CTX_set_read_ahead(context.get(), 1);
  SSL_CTX_set_default_read_buffer_len(context.get(), 64u << 10);
  if (SSL_CTX_use_certificate(context.get(), certificate.get()) != 1 ||
      SSL_CTX_use_PrivateKey(context.get(), key.get()) != 1) {
    return refused("cannot use the agent's TLS key: " + openssl_error());
  }
  return context;
}

class TlsStream final : public Stream {
 public:
  TlsStream(Fd socket, CtxPtr context, SslPtr ssl)
      : socket_(std::move(socket)), context_(std::move(context)), ssl_(std::move(ssl)) {}

  Result<std::size_t> read_some(std::span<char> into, Deadline deadline, const std::stop_token& stop) override {
    while (true) {
      std::unique_lock lock(mutex_);
      ERR_clear_error();
      std::size_t n = 0;
      const int done = SSL_read_ex(ssl_.get(), into.data(), into.size(), &n);
      if (done == 1) return n;
      const int why = SSL_get_error(ssl_.get(), done);
      lock.unlock();
      if (why == SSL_ERROR_ZERO_RETURN) return 0;
      CHECK_OK(wait(why, deadline, stop));
    }
  }

  Result<> write_all(std::string_view bytes, Deadline deadline, const std::stop_token& stop) override {
    while (!bytes.empty()) {
      std::unique_lock lock(mutex_);
      ERR_clear_error();
      std::size_t n = 0;
      const int done = SSL_write_ex(ssl_.get(), bytes.data(), bytes.size(), &n);
      if (done == 1) {
        bytes.remove_prefix(n);
        continue;
      }
      const int why = SSL_get_error(ssl_.get(), done);
      lock.unlock();
      CHECK_OK(wait(why, deadline, stop));
    }
    return {};
  }

  void shut() override { ::shutdown(socket_.get(), SHUT_RDWR); }

  Result<> handshake(bool connecting, Deadline deadline, const std::stop_token& stop) {
    while (true) {
      ERR_clear_error();
      const int done = connecting ? SSL_connect(ssl_.get()) : SSL_accept(ssl_.get());
      if (done == 1) return {};
      CHECK_OK(wait(SSL_get_error(ssl_.get(), done), deadline, stop));
    }
  }

  std::string peer_fingerprint() const {
    CertPtr peer(SSL_get1_peer_certificate(ssl_.get()));
    return peer ? fingerprint_of(peer.get()) : std::string();
  }

 private:
  // SSL objects are not thread-safe, so the lock covers each call; it is free while a thread waits for the socket.
  Result<> wait(int why, Deadline deadline, const std::stop_token& stop) {
    if (why == SSL_ERROR_WANT_READ) return wait_fd(socket_.get(), POLLIN, deadline, stop);
    if (why == SSL_ERROR_WANT_WRITE) return wait_fd(socket_.get(), POLLOUT, deadline, stop);
    return retry("the TLS connection to a peer broke: " + openssl_error());
  }

  Fd socket_;
  CtxPtr context_;
  SslPtr ssl_;
  std::mutex mutex_;
};

Result<TlsPeer> establish(bool connecting, Fd socket, const TlsIdentity& identity, const FingerprintCheck& allowed,
                          Deadline deadline, const std::stop_token& stop) {
  auto context = TRY(make_context(identity));
  ::fcntl(socket.get(), F_SETFL, ::fcntl(socket.get(), F_GETFL) | O_NONBLOCK);
  SslPtr ssl(SSL_new(context.get()));
  if (!ssl || SSL_set_fd(ssl.get(), socket.get()) != 1) return refused("cannot start TLS: " + openssl_error());
  SSL_set_mode(ssl.get(), SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  auto stream = std::make_unique<TlsStream>(std::move(socket), std::move(context), std::move(ssl));
  CHECK_OK(stream->handshake(connecting, deadline, stop));
  auto fingerprint = stream->peer_fingerprint();
  if (!allowed(fingerprint)) {
    return refused(fmt::format("a peer with an unknown certificate ({}) was turned away", fingerprint.substr(0, 16)),
                   "if a host was reinstalled, start the move again so that keys are exchanged anew");
  }
  return TlsPeer{std::move(stream), std::move(fingerprint)};
}

}  // namespace

Result<TlsIdentity> make_tls_identity(std::string_view common_name) {
  KeyPtr key(EVP_EC_gen("P-256"));
  CertPtr certificate(X509_new());
  if (!key || !certificate) return refused("cannot make a TLS key: " + openssl_error());
  unsigned char serial[8];
  if (RAND_bytes(serial, sizeof serial) != 1) return refused("no random bytes: " + openssl_error());
  std::uint64_t number = 0;
  for (const unsigned char byte : serial) number = number << 8 | byte;
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate.get()), number >> 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -86400);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), 3650L * 86400);
  X509_set_version(certificate.get(), 2);
  X509_set_pubkey(certificate.get(), key.get());
  X509_NAME* name = X509_get_subject_name(certificate.get());
  X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_UTF8, reinterpret_cast<const unsigned char*>(common_name.data()),
                             static_cast<int>(common_name.size()), -1, 0);
  X509_set_issuer_name(certificate.get(), name);
  if (X509_sign(certificate.get(), key.get(), EVP_sha256()) == 0) return refused("cannot sign: " + openssl_error());
  BioPtr key_bio(BIO_new(BIO_s_mem()));
  BioPtr certificate_bio(BIO_new(BIO_s_mem()));
  PEM_write_bio_PrivateKey(key_bio.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  PEM_write_bio_X509(certificate_bio.get(), certificate.get());
  return load_tls_identity(bio_text(key_bio.get()), bio_text(certificate_bio.get()));
}

Result<TlsIdentity> load_tls_identity(std::string key_pem, std::string certificate_pem) {
  const auto key = read_key(key_pem);
  const auto certificate = read_certificate(certificate_pem);
  if (!key || !certificate) return corrupt("the agent's TLS key or certificate cannot be read: " + openssl_error());
  return TlsIdentity{std::move(key_pem), std::move(certificate_pem), fingerprint_of(certificate.get())};
}

Result<TlsPeer> tls_connect(Fd socket, const TlsIdentity& identity, const FingerprintCheck& allowed, Deadline deadline,
                            const std::stop_token& stop) {
  return establish(true, std::move(socket), identity, allowed, deadline, stop);
}
Result<TlsPeer> tls_accept(Fd socket, const TlsIdentity& identity, const FingerprintCheck& allowed, Deadline deadline,
                           const std::stop_token& stop) {
  return establish(false, std::move(socket), identity, allowed, deadline, stop);
}

}  // namespace midstream
