#include "lab/workload/sha256.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/evp.h>

#include <cerrno>
#include <memory>

#include "base/text.h"
#include "sys/fd.h"

namespace midstream::lab {
namespace {

class Hasher {
 public:
  Hasher() : context_(::EVP_MD_CTX_new(), &::EVP_MD_CTX_free) {
    ::EVP_DigestInit_ex(context_.get(), ::EVP_sha256(), nullptr);
  }
  void add(std::string_view bytes) { ::EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()); }
  std::string hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    ::EVP_DigestFinal_ex(context_.get(), digest, &size);
    return to_hex(std::string_view(reinterpret_cast<const char*>(digest), size));
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&::EVP_MD_CTX_free)> context_;
};

}  // namespace

std::string sha256(std::string_view bytes) {
  Hasher hasher;
  hasher.add(bytes);
  return hasher.hex();
}

Result<std::string> sha256_of_file(const std::filesystem::path& path) {
  const Fd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  if (!fd) return errno_failure(fmt::format("{} cannot be opened", printable(path.native())), errno);
  Hasher hasher;
  char bytes[65536];
  while (true) {
    const ssize_t n = ::read(fd.get(), bytes, sizeof bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_failure(fmt::format("{} cannot be read", printable(path.native())), errno);
    if (n == 0) return hasher.hex();
    hasher.add(std::string_view(bytes, static_cast<std::size_t>(n)));
  }
}

std::string made_up_bytes(std::string_view seed, std::size_t size) {
  // FNV-1a for the start, then splitmix64: fixed for ever, so that old ledgers can be checked.
  std::uint64_t state = 14695981039346656037u;
  for (const char c : seed) state = (state ^ static_cast<unsigned char>(c)) * 1099511628211u;
  std::string out;
  out.reserve(size + 8);
  while (out.size() < size) {
    state += 0x9e3779b97f4a7c15u;
    std::uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    for (int i = 0; i < 8; ++i) out.push_back(static_cast<char>(z >> (8 * i)));
  }
  out.resize(size);
  return out;
}

}  // namespace midstream::lab
