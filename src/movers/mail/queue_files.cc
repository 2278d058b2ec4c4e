#include "movers/mail/queue_files.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <cctype>
#include <set>

namespace midstream::mail {

namespace fs = std::filesystem;

bool is_queue_id(std::string_view id) {
  return id.size() >= 6 && id.size() <= 60 &&
         std::ranges::all_of(id, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; });
}

bool is_long_queue_id(std::string_view id) { return id.find('z') != std::string_view::npos; }

std::string short_queue_id(std::uint32_t usec, ino_t inode) { return fmt::format("{:05X}{:X}", usec, inode); }

std::string hashed(std::string_view id, int depth) {
  std::string key(id);
  if (is_long_queue_id(id)) {
    // The four characters ahead of 'z' are the microseconds in base 52 (digits, then consonants of both cases); hashed is
    // their hexadecimal form.
    constexpr std::string_view kDigits = "0123456789BCDFGHJKLMNPQRSTVWXYZbcdfghjklmnpqrstvwxyz";
    const auto at = id.find('z');
    std::uint32_t usec = 0;
    for (std::size_t i = at < 4 ? 0 : at - 4; i < at; ++i)
      usec = usec * 52 + static_cast<std::uint32_t>(std::max<std::size_t>(kDigits.find(id[i]), 0));
    key = fmt::format("{:05X}", usec);
  }
  std::string path;
  for (int i = 0; i < depth && i < static_cast<int>(key.size()); ++i)
    path += fmt::format("{}/", key[static_cast<std::size_t>(i)]);
  return path;
}

namespace {

Result<std::vector<QueueFile>> list_one(const fs::path& queue_directory, const std::string& queue) {
  std::vector<QueueFile> files;
  std::error_code failed;
  for (fs::recursive_directory_iterator at(queue_directory / queue, failed), end; !failed && at != end;
       at.increment(failed)) {
    struct stat status {};
    const auto id = at->path().filename().string();
    if (::lstat(at->path().c_str(), &status) != 0 || !S_ISREG(status.st_mode) || !is_queue_id(id)) continue;
    if (!is_log(queue) && (status.st_mode & S_IXUSR) == 0) continue;
    files.push_back({queue, id, at->path()});
  }
  if (failed && failed != std::errc::no_such_file_or_directory)
    return errno_failure(fmt::format("cannot list {}/{}", queue_directory.string(), queue), failed.value());
  return files;
}

}  // namespace

bool is_log(std::string_view queue) { return queue == "defer" || queue == "bounce" || queue == "trace"; }

Result<std::vector<QueueFile>> list_queues(const fs::path& queue_directory, const std::vector<std::string>& queues) {
  std::vector<QueueFile> messages;
  for (const auto& queue : queues) {
    auto some = TRY(list_one(queue_directory, queue));
    messages.insert(messages.end(), std::make_move_iterator(some.begin()), std::make_move_iterator(some.end()));
  }
  std::set<std::string> ids;
  for (const auto& message : messages) ids.insert(message.id);
  std::vector<QueueFile> all;
  for (const auto* queue : {"defer", "bounce", "trace"}) {
    for (auto& file : TRY(list_one(queue_directory, queue)))
      if (ids.contains(file.id)) all.push_back(std::move(file));
  }
  all.insert(all.end(), std::make_move_iterator(messages.begin()), std::make_move_iterator(messages.end()));
  return all;
}

}  // namespace midstream::mail
