// TLS 1.3 between the agents of one move. Each agent makes its own key and self-signed certificate when it is
// installed; the controller tells every agent the others' fingerprints over ssh. Both ends present a certificate
// and both pin: a certificate that is not on the list ends the handshake. Names and authorities play no part.
#pragma once

#include <functional>
#include <memory>
#include <stop_token>
#include <string>
#include <string_view>

#include "base/result.h"
#include "sys/clock.h"
#include "sys/fd.h"
#include "sys/stream.h"

namespace midstream {

// What OpenSSL says of this thread's last failure; forgotten with that.
std::string openssl_error();

struct TlsIdentity {
  std::string key_pem;
  std::string certificate_pem;
  // SHA-256 of the certificate's DER form, lower-case hex.
  std::string fingerprint;
};

// A fresh P-256 key and a certificate for it, valid for 10 years (the move's end removes it).
Result<TlsIdentity> make_tls_identity(std::string_view common_name);
Result<TlsIdentity> load_tls_identity(std::string key_pem, std::string certificate_pem);

// Says whether a peer with this fingerprint may connect. Called within the handshake.
using FingerprintCheck = std::function<bool(std::string_view fingerprint)>;

struct TlsPeer {
  std::unique_ptr<Stream> stream;
  std::string fingerprint;  // the peer's
};

// Handshake on a connected socket, as the connecting or the accepting end. Takes the socket over. A peer that
// the check turns down is ErrorKind::refused.
Result<TlsPeer> tls_connect(Fd socket, const TlsIdentity& identity, const FingerprintCheck& allowed, Deadline deadline,
                            const std::stop_token& stop);
Result<TlsPeer> tls_accept(Fd socket, const TlsIdentity& identity, const FingerprintCheck& allowed, Deadline deadline,
                           const std::stop_token& stop);

}  // namespace midstream
