#include <fmt/format.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <filesystem>

#include "base/text.h"
#include "lab/provision.h"
#include "sys/child.h"
#include "sys/file.h"

namespace midstream::lab {

namespace fs = std::filesystem;

namespace {

constexpr int kIterations = 4096;

Result<std::string> random_bytes(std::size_t count) {
  std::string bytes(count, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(count)) != 1) {
    return retry("no random bytes to be had");
  }
  return bytes;
}

std::string base64(std::string_view bytes) {
  std::string text(4 * ((bytes.size() + 2) / 3) + 1, '\0');
  const int length = EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()),
                                     reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<int>(bytes.size()));
  text.resize(static_cast<std::size_t>(length));
  return text;
}

std::string hmac(std::string_view key, std::string_view text) {
  unsigned char out[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  HMAC(EVP_sha256(), key.data(), static_cast<int>(key.size()), reinterpret_cast<const unsigned char*>(text.data()),
       text.size(), out, &length);
  return std::string(reinterpret_cast<char*>(out), length);
}

std::string sha256(std::string_view text) {
  unsigned char out[EVP_MAX_MD_SIZE];
  unsigned length = 0;
  EVP_Digest(text.data(), text.size(), out, &length, EVP_sha256(), nullptr);
  return std::string(reinterpret_cast<char*>(out), length);
}

Result<KeyPair> make_key(const fs::path& scratch, const std::string& name) {
  const fs::path path = scratch / name;
  const auto exit = TRY(run_child({"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", path.string()}, "",
                                  Deadline::in(Millis(20'000))));
  if (exit.code != 0) return refused(fmt::format("ssh-keygen: {}", trim(exit.err)));
  KeyPair pair;
  pair.private_key = TRY(read_file(path));
  pair.public_key = std::string(trim(TRY(read_file(path.string() + ".pub"))));
  return pair;
}

}  // namespace

Result<std::string> scram_verifier(const std::string& password) {
  const auto salt = TRY(random_bytes(16));
  std::string salted(32, '\0');
  if (PKCS5_PBKDF2_HMAC(password.data(), static_cast<int>(password.size()),
                        reinterpret_cast<const unsigned char*>(salt.data()), static_cast<int>(salt.size()), kIterations,
                        EVP_sha256(), static_cast<int>(salted.size()),
                        reinterpret_cast<unsigned char*>(salted.data())) != 1) {
    return refused("PBKDF2 failed");
  }
  const auto stored_key = sha256(hmac(salted, "Client Key"));
  const auto server_key = hmac(salted, "Server Key");
  return fmt::format("SCRAM-SHA-256${}:{}${}:{}", kIterations, base64(salt), base64(stored_key), base64(server_key));
}

Result<Secrets> make_secrets(const Scenario& scenario, const fs::path& scratch) {
  std::error_code ignored;
  fs::remove_all(scratch, ignored);
  CHECK_OK(make_directories(scratch));
  Secrets secrets;
  secrets.operator_key = TRY(make_key(scratch, "operator"));
  for (const auto& host : scenario.hosts()) secrets.host_keys[host.name] = TRY(make_key(scratch, host.name));
  fs::remove_all(scratch, ignored);
  secrets.tsig_secret = base64(TRY(random_bytes(32)));
  secrets.app_password = to_hex(TRY(random_bytes(16)));
  secrets.probe_password = to_hex(TRY(random_bytes(16)));
  secrets.mail = TRY(make_mail_secrets(scenario));
  return secrets;
}

}  // namespace midstream::lab
