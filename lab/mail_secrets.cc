#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

#include <memory>

#include "base/text.h"
#include "lab/provision.h"

namespace midstream::lab {

namespace {

template <auto Free>
struct Freed {
  template <class T>
  void operator()(T* thing) const {
    Free(thing);
  }
};
using Key = std::unique_ptr<EVP_PKEY, Freed<&::EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Freed<&::X509_free>>;
using Memory = std::unique_ptr<BIO, Freed<&::BIO_free>>;

Result<std::string> random_bytes(std::size_t count) {
  std::string bytes(count, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(count)) != 1) {
    return retry("no random bytes to be had");
  }
  return bytes;
}

std::string text_of(BIO* memory) {
  char* bytes = nullptr;
  const auto size = BIO_get_mem_data(memory, &bytes);
  return std::string(bytes, static_cast<std::size_t>(size));
}

std::string key_pem(EVP_PKEY* key) {
  const Memory memory(::BIO_new(::BIO_s_mem()));
  ::PEM_write_bio_PrivateKey(memory.get(), key, nullptr, nullptr, 0, nullptr, nullptr);
  return text_of(memory.get());
}

// Its own authority, for `names` (RFC 5280, 4.2.1.6), for a week.
Result<Certificate> make_certificate(EVP_PKEY* key, const std::vector<std::string>& names) {
  Certificate certificate(::X509_new());
  auto* x509 = certificate.get();
  ::X509_set_version(x509, X509_VERSION_3);
  ::ASN1_INTEGER_set(::X509_get_serialNumber(x509), 1);
  ::X509_gmtime_adj(::X509_getm_notBefore(x509), -3600);
  ::X509_gmtime_adj(::X509_getm_notAfter(x509), 7 * 86'400);
  ::X509_set_pubkey(x509, key);
  auto* subject = ::X509_get_subject_name(x509);
  ::X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_ASC, reinterpret_cast<const unsigned char*>(names[0].c_str()),
                               -1, -1, 0);
  ::X509_set_issuer_name(x509, subject);
  std::vector<std::string> alternatives;
  for (const auto& name : names) alternatives.push_back("DNS:" + name);
  auto* extension = ::X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, join(alternatives, ",").c_str());
  if (extension == nullptr) return refused("the mail certificate's names were not taken");
  ::X509_add_ext(x509, extension, -1);
  ::X509_EXTENSION_free(extension);
  if (::X509_sign(x509, key, ::EVP_sha256()) == 0) return refused("the mail certificate could not be signed");
  return certificate;
}

std::string bare(const std::string& name) { return name.substr(0, name.size() - 1); }

// With a fresh salt.
Result<std::string> verifier_of(const std::string& password) {
  const auto salt = TRY(random_bytes(8));
  const auto salted = password + salt;
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  ::EVP_Digest(salted.data(), salted.size(), digest, &size, ::EVP_sha512(), nullptr);
  const auto stored = std::string(reinterpret_cast<char*>(digest), size) + salt;
  std::string text(4 * ((stored.size() + 2) / 3) + 1, '\0');
  text.resize(static_cast<std::size_t>(::EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                                         reinterpret_cast<const unsigned char*>(stored.data()),
                                                         static_cast<int>(stored.size()))));
  return "{SSHA512}" + text;
}

}  // namespace

Result<MailSecrets> make_mail_secrets(const Scenario& s) {
  MailSecrets secrets;
  auto users = s.mail_users;
  users.push_back(s.mail_probe);
  for (const auto& user : users) {
    const auto address = user + "@" + s.mail_domain;
    secrets.passwords[address] = to_hex(TRY(random_bytes(12)));
    secrets.verifiers[address] = TRY(verifier_of(secrets.passwords[address]));
  }
  const Key key(::EVP_EC_gen("P-256"));
  const Key dkim(::EVP_RSA_gen(2048));
  if (!key || !dkim) return refused("no key for mail could be made");
  const auto certificate = TRY(make_certificate(key.get(), {bare(s.mx_name), bare(s.imap_name)}));
  const Memory memory(::BIO_new(::BIO_s_mem()));
  ::PEM_write_bio_X509(memory.get(), certificate.get());
  secrets.certificate = text_of(memory.get());
  secrets.key = key_pem(key.get());
  secrets.dkim_key = key_pem(dkim.get());
  secrets.authority_file = fmt::format("{:08x}.0", ::X509_subject_name_hash(certificate.get()));
  return secrets;
}

}  // namespace midstream::lab
