#include "lab/workload/shelf.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "base/text.h"
#include "lab/workload/http.h"
#include "sys/fd.h"
#include "sys/file.h"

namespace midstream::lab {
namespace {

std::unexpected<Error> unusable_name(std::string_view name) {
  return refused(fmt::format("'{}' is not a file name that the shop takes", printable(name)),
                 "use 1 to 100 of [A-Za-z0-9._-], no dot in front");
}

Result<> write_all(int fd, std::string_view bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno_failure(fmt::format("{} cannot be written", path.string()), errno);
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
  return {};
}

Result<std::optional<std::string>> get_file(const std::filesystem::path& path) {
  struct stat found {};
  if (::stat(path.c_str(), &found) != 0) {
    if (errno == ENOENT || errno == ENOTDIR) return std::optional<std::string>();
    return errno_failure(fmt::format("{} cannot be looked at", path.string()), errno);
  }
  if (!S_ISREG(found.st_mode)) return std::optional<std::string>();
  auto bytes = read_file(path, kMaxBody);
  if (!bytes && ::access(path.c_str(), F_OK) != 0) return std::optional<std::string>();  // removed meanwhile
  if (!bytes) return std::unexpected(bytes.error());
  return std::optional(*std::move(bytes));
}

}  // namespace

bool is_file_name(std::string_view name) {
  if (name.empty() || name.size() > 100 || name.front() == '.') return false;
  return std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' || c == '_' ||
           c == '-';
  });
}

Result<Shelf> Shelf::open(const std::filesystem::path& directory) {
  if (!std::filesystem::is_directory(directory)) {
    return refused(fmt::format("{} is not a directory", directory.string()), "make it, owned by the shop's user");
  }
  return Shelf(directory);
}

Result<> Shelf::put(std::string_view name, std::string_view bytes) const {
  if (!is_file_name(name)) return unusable_name(name);
  static std::atomic<unsigned> counter{0};
  const auto uploads = directory_ / "uploads";
  const auto temporary = uploads / fmt::format(".{}.{}.{}.tmp", name, ::getpid(), ++counter);
  const auto put_there = [&]() -> Result<> {
    // Not before the first upload: a directory that waits for a tree to be copied into it stays empty.
    if (!std::filesystem::is_directory(uploads)) CHECK_OK(make_directories(uploads, 0755));
    const Fd fd(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (!fd) return errno_failure(fmt::format("{} cannot be made", temporary.string()), errno);
    CHECK_OK(write_all(fd.get(), bytes, temporary));
    if (::fsync(fd.get()) != 0)
      return errno_failure(fmt::format("{} cannot be made durable", temporary.string()), errno);
    if (::rename(temporary.c_str(), (uploads / name).c_str()) != 0) {
      return errno_failure(fmt::format("{} cannot be renamed", temporary.string()), errno);
    }
    return {};
  };
  if (auto put = put_there(); !put) {
    ::unlink(temporary.c_str());
    return put;
  }
  const Fd parent(::open(uploads.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!parent || ::fsync(parent.get()) != 0) {
    return errno_failure(fmt::format("{} cannot be made durable", uploads.string()), errno);
  }
  return {};
}

Result<std::optional<std::string>> Shelf::get(std::string_view name) const {
  if (!is_file_name(name)) return unusable_name(name);
  return get_file(directory_ / "uploads" / name);
}

Result<std::optional<std::string>> Shelf::get_static(std::string_view path) const {
  const auto parts = split(path, '/');
  if (!std::all_of(parts.begin(), parts.end(), [](const auto& part) { return is_file_name(part); })) {
    return unusable_name(path);
  }
  return get_file(directory_ / "static" / path);
}

}  // namespace midstream::lab
