#include "movers/files/check.h"

#include <fmt/format.h>
#include <sys/statvfs.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "base/text.h"
#include "movers/files/watch.h"

namespace midstream::files {

namespace {

// Mounts below `path`, from /proc/self/mountinfo (octal escapes as in proc(5)).
std::vector<std::string> mounts_below(const std::string& path) {
  std::vector<std::string> out;
  std::ifstream in("/proc/self/mountinfo");
  for (std::string line; std::getline(in, line);) {
    const auto fields = split(line, ' ');
    if (fields.size() < 5) continue;
    std::string target;
    for (std::size_t i = 0; i < fields[4].size(); ++i) {
      if (fields[4][i] == '\\' && i + 3 < fields[4].size()) {
        target += static_cast<char>(std::strtol(fields[4].substr(i + 1, 3).c_str(), nullptr, 8));
        i += 3;
      } else {
        target += fields[4][i];
      }
    }
    if (target.starts_with(path + "/")) out.push_back(target);
  }
  return out;
}

// Whether a directory that holds these names is a mail store: Maildir, or Dovecot's own formats.
bool is_mail_store(const std::set<std::string>& names) {
  if (names.contains("cur") && names.contains("new") && names.contains("tmp")) return true;
  return std::ranges::any_of(names, [](const std::string& name) {
    return name == "dovecot-uidlist" || name == "dbox-Mails" || name == "mdbox" || name == "sdbox" || name.starts_with("dovecot.index");
  });
}

struct Measure {
  std::uint64_t entries = 0, bytes = 0;
  std::string mail;
  bool complete = true;
};

Result<> measure(const Root& root, const Except& except, const std::string& path, Deadline deadline, const std::stop_token& stop, Measure& out) {
  if (stop.stop_requested()) return failure(ErrorKind::cancelled, "stopped while measuring a tree");
  bool gone = false;
  auto place = root.directory(path, &gone);
  if (!place) return gone ? Result<>() : Result<>(std::unexpected(place.error()));
  const auto names = TRY(list_names(place->fd()));
  if (out.mail.empty() && is_mail_store({names.begin(), names.end()})) out.mail = path;
  for (const auto& name : names) {
    if (deadline.expired()) {
      out.complete = false;
      return {};
    }
    if (path == "." && name == kHidden) continue;
    const auto child = join_path(path, name);
    const auto stat = TRY(look_at(place->fd(), name.c_str()));
    if (!stat || stat->dev != root.stat().dev || except.matches(child, stat->type == EntryType::directory)) continue;
    ++out.entries;
    out.bytes += (stat->size + 4095) / 4096 * 4096;
    if (stat->type == EntryType::directory) CHECK_OK(measure(root, except, child, deadline, stop, out));
  }
  return {};
}

}  // namespace

Result<Json> measure_tree(const std::string& path, const Except& except, Deadline deadline, const std::stop_token& stop) {
  const auto root = TRY(Root::open(path));
  Measure out;
  CHECK_OK(measure(root, except, ".", deadline, stop, out));
  Json mounts = Json::array();
  for (const auto& mount : mounts_below(path)) mounts.push_back(printable(mount));
  return Json{{"entries", out.entries}, {"bytes", out.bytes}, {"mail", out.mail}, {"mounts", mounts}, {"complete", out.complete}};
}

Result<Json> room_for(const std::string& path) {
  auto at = std::filesystem::path(path);
  struct ::statvfs raw{};
  while (::statvfs(at.c_str(), &raw) != 0) {
    if (errno != ENOENT || at == at.root_path()) return errno_failure(fmt::format("cannot look for room at {}", path), errno);
    at = at.parent_path();
  }
  const std::uint64_t inodes = raw.f_files == 0 ? std::uint64_t{1} << 40 : raw.f_favail;  // 0: made as needed
  return Json{{"bytes", static_cast<std::uint64_t>(raw.f_bavail) * raw.f_frsize}, {"inodes", inodes}};
}

Result<Json> check_source(const FollowSpec& spec, Deadline deadline, const std::stop_token& stop, Json& measured) {
  Json out = Json::array();
  auto root = Root::open(spec.path);
  out.push_back(finding(fmt::format("{} is a directory", spec.path), root.has_value(), root ? "" : root.error().what,
                        root ? "" : "name a directory that exists"));
  if (!root) return out;
  measured = TRY(measure_tree(spec.path, Except(spec.except), deadline.sooner(std::chrono::seconds(20)), stop));
  const auto mail = get_string_or(measured, "mail", "");
  out.push_back(finding(fmt::format("{} holds no mail store", spec.path), mail.empty(), printable(mail),
                        mail.empty() ? "" : "mailboxes belong under mail, not files; or except that directory"));
  const bool alone = measured["mounts"].empty();
  out.push_back(finding(fmt::format("no file system is mounted inside {}", spec.path), alone, alone ? "" : measured["mounts"].dump(),
                        alone ? "" : "give each mounted directory as a path of its own; it is left out here"));
  WatchSink sink;
  sink.changed = [](const std::string&, Hint) {};
  sink.cookie = [](std::string_view) {};
  sink.lost = [](const std::string&) {};
  const auto watcher = Watcher::start(*root, std::move(sink), true, nullptr);
  out.push_back(finding(fmt::format("changes of {} can be watched", spec.path), true,
                        watcher ? "fanotify" : fmt::format("by walking over it again and again ({})", watcher.error().what)));
  return out;
}

}  // namespace midstream::files
