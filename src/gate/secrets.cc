#include "gate/secrets.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include <utility>

#include "base/text.h"

namespace midstream::gate {

namespace {

const unsigned char* raw(std::string_view bytes) { return reinterpret_cast<const unsigned char*>(bytes.data()); }

std::string digest(const EVP_MD* kind, std::string_view bytes) {
  unsigned char out[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), out, &size, kind, nullptr) != 1) size = 0;
  return {reinterpret_cast<char*>(out), size};
}

}  // namespace

std::string sha256(std::string_view bytes) { return digest(EVP_sha256(), bytes); }
std::string md5_hex(std::string_view bytes) { return to_hex(digest(EVP_md5(), bytes)); }

std::string hmac_sha256(std::string_view key, std::string_view bytes) {
  unsigned char out[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  if (HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), raw(bytes), bytes.size(), out, &size) == nullptr) size = 0;
  return {reinterpret_cast<char*>(out), size};
}

std::string pbkdf2_sha256(std::string_view password, std::string_view salt, int iterations) {
  std::string out(32, '\0');
  PKCS5_PBKDF2_HMAC(password.data(), static_cast<int>(password.size()), raw(salt), static_cast<int>(salt.size()), iterations,
                    EVP_sha256(), static_cast<int>(out.size()), reinterpret_cast<unsigned char*>(out.data()));
  return out;
}

std::string to_base64(std::string_view bytes) {
  std::string out((bytes.size() + 2) / 3 * 4 + 1, '\0');
  out.resize(static_cast<std::size_t>(
      EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()), raw(bytes), static_cast<int>(bytes.size()))));
  return out;
}

std::optional<std::string> from_base64(std::string_view text) {
  if (text.empty()) return std::string();
  if (text.size() % 4 != 0 || text.size() > 1u << 20) return std::nullopt;
  std::string out(text.size() / 4 * 3, '\0');
  if (EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()), raw(text), static_cast<int>(text.size())) < 0)
    return std::nullopt;
  if (text.ends_with("==")) out.pop_back();
  if (text.ends_with('=')) out.pop_back();
  // OpenSSL trims white space and takes '=' anywhere at the end: what it read must be what was written.
  if (to_base64(out) != text) return std::nullopt;
  return out;
}

bool same_secret(std::string_view a, std::string_view b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

Secret::Secret(Secret&& other) noexcept : bytes_(other.bytes_) { OPENSSL_cleanse(other.bytes_.data(), other.bytes_.size()); }
Secret& Secret::operator=(Secret other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}
Secret::~Secret() { OPENSSL_cleanse(bytes_.data(), bytes_.size()); }

}  // namespace midstream::gate
