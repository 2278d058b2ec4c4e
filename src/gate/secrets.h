// The few pieces of cryptography that logging in takes, on strings of bytes. Pure: what is random is given.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace midstream::gate {

std::string sha256(std::string_view bytes);
std::string hmac_sha256(std::string_view key, std::string_view bytes);
std::string pbkdf2_sha256(std::string_view password, std::string_view salt, int iterations);
std::string md5_hex(std::string_view bytes);

std::string to_base64(std::string_view bytes);
// nullopt for anything but whole, canonical base64.
std::optional<std::string> from_base64(std::string_view text);

// In a time that does not tell where they differ; the lengths may show.
bool same_secret(std::string_view a, std::string_view b);

// Overwritten when it goes.
class Secret {
 public:
  Secret() = default;
  explicit Secret(std::string bytes) : bytes_(std::move(bytes)) {}
  Secret(const Secret&) = default;
  Secret(Secret&& other) noexcept;
  Secret& operator=(Secret other) noexcept;
  ~Secret();
  const std::string& bytes() const { return bytes_; }
  bool empty() const { return bytes_.empty(); }

 private:
  std::string bytes_;
};

}  // namespace midstream::gate
