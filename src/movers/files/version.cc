#include "movers/files/version.h"

#include <xxhash.h>

#include <tuple>

namespace midstream::files {

namespace {
template <class T>
void append_raw(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof value);
}
}  // namespace

std::uint64_t hash_bytes(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

std::uint64_t hash_xattrs(const Xattrs& xattrs) {
  if (xattrs.empty()) return 0;
  std::string flat;
  for (const auto& [name, value] : xattrs) {
    flat.append(name).append(1, '\0');
    append_raw(flat, static_cast<std::uint64_t>(value.size()));
    flat.append(value);
  }
  return hash_bytes(flat) | 1;
}

std::uint64_t digest(const Version& v) {
  if (!v.present()) return 0;
  std::string flat;
  append_raw(flat, v.type);
  append_raw(flat, v.mode);
  append_raw(flat, v.uid);
  append_raw(flat, v.gid);
  append_raw(flat, v.mtime_ns);
  append_raw(flat, v.size);
  append_raw(flat, v.rdev);
  append_raw(flat, v.hash);
  append_raw(flat, v.xattrs);
  return hash_bytes(flat) | 1;
}

bool wins_over(const Version& a, const Version& b) {
  const auto key = [](const Version& v) {
    return std::tuple(v.mtime_ns, v.size, v.hash, v.xattrs, v.type, v.mode, v.uid, v.gid, v.rdev);
  };
  return key(a) > key(b);
}

}  // namespace midstream::files
