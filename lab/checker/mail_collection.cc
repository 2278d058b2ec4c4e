#include "lab/checker/mail_collection.h"

#include <fmt/format.h>
#include <strings.h>

#include <algorithm>
#include <fstream>
#include <map>

#include "base/json.h"
#include "base/text.h"
#include "lab/checker/collection.h"
#include "sys/file.h"

namespace midstream::lab {

namespace fs = std::filesystem;

namespace {

std::string dump(const Json& value) { return value.dump(-1, ' ', true, Json::error_handler_t::replace); }

struct UidList {
  std::int64_t uidvalidity = 0;
  std::map<std::string, std::int64_t> uids;  // by file name without flags
};

std::string base_of(const std::string& name) { return name.substr(0, name.find(':')); }

// "3 V<uidvalidity> N<next> ..." and then "<uid> ... :<file name>" a line.
Result<UidList> read_uid_list(const fs::path& folder) {
  UidList list;
  const auto path = folder / "dovecot-uidlist";
  if (!fs::exists(path)) return list;
  bool first = true;
  for (const auto& line : split(TRY(read_file(path, 64u << 20)), '\n')) {
    if (line.empty()) continue;
    if (first) {
      const auto at = line.find(" V");
      if (!line.starts_with("3 ") || at == std::string::npos) return corrupt(path.string() + " is not of version 3");
      list.uidvalidity = std::atoll(line.c_str() + at + 2);
      first = false;
      continue;
    }
    const auto colon = line.find(" :");
    if (colon != std::string::npos) list.uids[base_of(line.substr(colon + 2))] = std::atoll(line.c_str());
  }
  return list;
}

std::string message_id(const fs::path& path) {
  std::ifstream file(path);
  for (std::string line; std::getline(file, line) && !line.empty() && line != "\r";) {
    if (::strncasecmp(line.c_str(), "message-id:", 11) != 0) continue;
    const auto open = line.find('<');
    const auto close = line.find('>', open == std::string::npos ? 0 : open);
    if (open != std::string::npos && close != std::string::npos) return line.substr(open + 1, close - open - 1);
  }
  return "";
}

class Collector {
 public:
  explicit Collector(std::ostream& out) : out_(out) {}

  Result<> folder(const std::string& user, const std::string& name, const fs::path& directory) {
    const auto list = TRY(read_uid_list(directory));
    put({{"t", "folder"}, {"user", user}, {"folder", name}, {"uidvalidity", list.uidvalidity}});
    std::vector<fs::path> files;
    for (const char* part : {"cur", "new"}) {
      std::error_code none;
      for (const auto& file : fs::directory_iterator(directory / part, none)) files.push_back(file.path());
    }
    std::ranges::sort(files);
    for (const auto& file : files) {
      const auto file_name = file.filename().string();
      const auto flags = file_name.find(":2,");
      const auto uid = list.uids.find(base_of(file_name));
      put({{"t", "message"},
           {"user", user},
           {"folder", name},
           {"uid", uid == list.uids.end() ? 0 : uid->second},
           {"id", message_id(file)},
           {"flags", flags == std::string::npos ? "" : file_name.substr(flags + 3)}});
    }
    return {};
  }
  void end() { out_ << end_line(lines_) << "\n"; }

 private:
  void put(const Json& line) {
    out_ << dump(line) << "\n";
    ++lines_;
  }
  std::ostream& out_;
  std::size_t lines_ = 0;
};

}  // namespace

Result<> collect_mail(const fs::path& directory, std::ostream& out) {
  std::error_code failed;
  std::vector<fs::path> homes;
  for (auto at = fs::directory_iterator(directory, failed); !failed && at != fs::directory_iterator();
       at.increment(failed))
    homes.push_back(at->path());
  if (failed) return errno_failure(fmt::format("{} cannot be read", directory.string()), failed.value());
  std::ranges::sort(homes);
  Collector collector(out);
  for (const auto& home : homes) {
    const auto top = home / "Maildir";
    if (!fs::is_directory(top)) continue;
    const auto user = fmt::format("{}@{}", home.filename().string(), directory.filename().string());
    CHECK_OK(collector.folder(user, "INBOX", top));
    for (const auto& part : fs::directory_iterator(top, failed)) {
      const auto name = part.path().filename().string();
      if (part.is_directory() && name.starts_with('.')) CHECK_OK(collector.folder(user, name.substr(1), part.path()));
    }
  }
  collector.end();
  return {};
}

Result<MailCollection> parse_mail(std::string_view text) {
  MailCollection out;
  CHECK_OK(each_line(text, [&](const std::string& type, const Json& line) -> Result<> {
    const auto user = TRY(get_string(line, "user"));
    const auto folder = TRY(get_string(line, "folder"));
    if (type == "folder") {
      out.folders.push_back({user, folder, TRY(get_int(line, "uidvalidity"))});
    } else if (type == "message") {
      out.messages.push_back(
          {user, folder, TRY(get_int(line, "uid")), TRY(get_string(line, "id")), TRY(get_string(line, "flags"))});
    } else {
      return corrupt(fmt::format("unknown type '{}'", type));
    }
    return {};
  }));
  return out;
}

Result<std::vector<SinkLine>> parse_sink(std::string_view text) {
  std::vector<SinkLine> out;
  for (auto end = text.find('\n'); end != std::string_view::npos; end = text.find('\n')) {
    const Json line = TRY(parse_json(text.substr(0, end)));
    text.remove_prefix(end + 1);
    out.push_back({TRY(get_string(line, "id")), TRY(get_string(line, "to")), TRY(get_string(line, "client"))});
  }
  return out;
}

}  // namespace midstream::lab
