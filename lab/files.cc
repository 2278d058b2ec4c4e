#include "lab/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "sys/fd.h"

namespace midstream::lab {

void FileSet::file(std::string path, std::string content, unsigned mode, uid_t owner) {
  entries_.push_back({FileEntry::Kind::file, std::move(path), std::move(content), mode, owner, owner, 0});
}

void FileSet::directory(std::string path, unsigned mode, uid_t owner) {
  entries_.push_back({FileEntry::Kind::directory, std::move(path), "", mode, owner, owner, 0});
}

void FileSet::symlink(std::string path, std::string target) {
  entries_.push_back({FileEntry::Kind::symlink, std::move(path), std::move(target), 0777, kRoot, kRoot, 0});
}

void FileSet::service(const std::string& name, const std::string& command, const std::string& setup) {
  file(fmt::format("/etc/service/{}/run", name), fmt::format("#!/bin/sh\n{}exec {}\n", setup, command), 0755);
}

namespace {

Result<> write_content(const std::string& path, const FileEntry& entry) {
  ::unlink(path.c_str());
  Fd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd) return errno_failure(fmt::format("cannot create {}", path), errno);
  std::size_t done = 0;
  while (done < entry.content.size()) {
    const ssize_t n = ::write(fd.get(), entry.content.data() + done, entry.content.size() - done);
    if (n < 0) return errno_failure(fmt::format("cannot write {}", path), errno);
    done += static_cast<std::size_t>(n);
  }
  return {};
}

Result<> write_entry(const std::string& root, const FileEntry& entry) {
  const std::string path = root + entry.path;
  std::error_code failed;
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), failed);
  if (failed) return errno_failure(fmt::format("cannot make the directory of {}", path), failed.value());
  switch (entry.kind) {
    case FileEntry::Kind::file: CHECK_OK(write_content(path, entry)); break;
    case FileEntry::Kind::directory:
      if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return errno_failure("cannot make " + path, errno);
      break;
    case FileEntry::Kind::symlink:
      ::unlink(path.c_str());
      if (::symlink(entry.content.c_str(), path.c_str()) != 0) return errno_failure("cannot link " + path, errno);
      break;
  }
  if (::lchown(path.c_str(), entry.owner, entry.group) != 0) return errno_failure("cannot chown " + path, errno);
  if (entry.kind != FileEntry::Kind::symlink && ::chmod(path.c_str(), entry.mode) != 0) {
    return errno_failure("cannot chmod " + path, errno);
  }
  return {};
}

Result<> set_times(const std::string& root, const FileEntry& entry) {
  if (entry.mtime_ns == 0) return {};
  const timespec when{entry.mtime_ns / 1'000'000'000, entry.mtime_ns % 1'000'000'000};
  const timespec times[2] = {when, when};
  const std::string path = root + entry.path;
  if (::utimensat(AT_FDCWD, path.c_str(), times, AT_SYMLINK_NOFOLLOW) != 0) {
    return errno_failure("cannot set the times of " + path, errno);
  }
  return {};
}

}  // namespace

Result<> write_files(const std::string& root, const FileSet& files) {
  for (const auto& entry : files.entries()) CHECK_OK(write_entry(root, entry));
  // Last and backwards, so that a directory's own time is set after its content is there.
  for (auto entry = files.entries().rbegin(); entry != files.entries().rend(); ++entry) {
    CHECK_OK(set_times(root, *entry));
  }
  Fd top(::open(root.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!top || ::syncfs(top.get()) != 0) return errno_failure(fmt::format("cannot sync {}", root), errno);
  return {};
}

}  // namespace midstream::lab
