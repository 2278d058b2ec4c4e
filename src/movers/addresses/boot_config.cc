#include "movers/addresses/boot_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <system_error>

#include "base/text.h"
#include "sys/file.h"

namespace midstream {
namespace {

namespace fs = std::filesystem;

std::optional<std::string> value_of(std::string_view text, std::string_view key) {
  for (const std::string& line : split(text, '\n'))
    if (line.starts_with(key) && line.size() > key.size() && line[key.size()] == '=')
      return line.substr(key.size() + 1);
  return std::nullopt;
}

std::vector<fs::path> plain_files(const fs::path& directory) {
  std::vector<fs::path> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error))
    if (entry.is_regular_file(error)) files.push_back(entry.path());
  std::ranges::sort(files);
  return files;
}

BootConfig foreign(std::string name) {
  return {NetworkManager::foreign, std::move(name), {}, {}};
}

Result<BootConfig> networkd_config(const fs::path& root, const std::string& file) {
  if (file.empty()) return foreign("systemd-networkd without a .network file");
  if (!file.starts_with("/etc/systemd/network/"))
    return foreign(fmt::format("systemd-networkd with {} (netplan?)", file));
  BootConfig config{NetworkManager::networkd, "systemd-networkd", root / file.substr(1), {}};
  config.files = plain_files(config.main.string() + ".d");
  config.files.insert(config.files.begin(), config.main);
  return config;
}

std::optional<std::string> read_if_there(const fs::path& path) {
  auto text = read_file(path);
  return text ? std::optional(std::move(*text)) : std::nullopt;
}

bool is_there(const fs::path& path) {
  std::error_code error;
  return fs::exists(path, error);
}

}  // namespace

Result<BootConfig> find_boot_config(const fs::path& root, const std::string& dev, unsigned index) {
  if (const auto text = read_if_there(root / "run/NetworkManager/devices" / std::to_string(index)))
    if (value_of(*text, "managed").value_or("true") != "false") return foreign("NetworkManager");
  if (const auto text = read_if_there(root / "run/systemd/netif/links" / std::to_string(index)))
    if (value_of(*text, "ADMIN_STATE").value_or("unmanaged") != "unmanaged")
      return networkd_config(root, value_of(*text, "NETWORK_FILE").value_or(""));
  const fs::path main = root / "etc/network/interfaces";
  if (!is_there(main)) return foreign("nobody that is known (no /etc/network/interfaces)");
  BootConfig config{NetworkManager::ifupdown, "ifupdown", main, {main}};
  for (const fs::path& file : plain_files(root / "etc/network/interfaces.d")) config.files.push_back(file);
  for (const fs::path& file : config.files)
    for (const std::string& line : split(read_if_there(file).value_or(""), '\n')) {
      std::vector<std::string> words = split(trim(line), ' ');
      std::erase(words, "");
      if (words.size() >= 2 && words[0] == "iface" && words[1].substr(0, words[1].find(':')) == dev)
        return config;
    }
  return foreign(fmt::format("nobody that is known (no stanza for {} in /etc/network)", dev));
}

Json to_json(const FileChange& change) {
  return {{"path", change.path.string()},
          {"existed", change.existed},
          {"before", to_hex(change.before)},
          {"after", to_hex(change.after)},
          {"removed", change.removed}};
}

Result<FileChange> file_change_from_json(const Json& value) {
  const auto path = TRY(get_string(value, "path"));
  auto before = from_hex(TRY(get_string(value, "before")));
  auto after = from_hex(TRY(get_string(value, "after")));
  if (!before || !after) return corrupt(fmt::format("what was noted of {} is not in hexadecimal", path));
  return FileChange{path, TRY(get_bool(value, "existed")), std::move(*before), std::move(*after),
                    TRY(get_bool(value, "removed"))};
}

Result<Unpersisting> plan_unpersist(const BootConfig& config, const std::string& dev,
                                    const std::set<IpAddress>& addresses) {
  Unpersisting plan;
  for (const fs::path& file : config.files) {
    const std::string before = TRY(read_file(file));
    const ConfigEdit edit = config.manager == NetworkManager::networkd
                                ? edit_networkd(before, addresses)
                                : edit_interfaces(before, dev, addresses);
    plan.found.insert(edit.found.begin(), edit.found.end());
    for (const std::string& line : edit.unclear)
      plan.unclear.push_back(fmt::format("{}: {}", file.string(), line));
    if (edit.text == before) continue;
    const bool ours = file.filename().string().starts_with("midstream-") && is_blank_config(edit.text);
    plan.changes.push_back({file, true, before, ours ? "" : edit.text, ours});
  }
  return plan;
}

Result<> persist_addresses(const BootConfig& config, const std::string& dev,
                           const std::vector<Prefixed>& addresses, const std::string& id,
                           const std::string& comment) {
  if (config.manager == NetworkManager::foreign)
    return refused(
        fmt::format("{} is configured at boot by {}, which midstream does not edit", dev, config.name),
        "let ifupdown or systemd-networkd configure it");
  if (config.manager == NetworkManager::networkd) {
    const fs::path directory = config.main.string() + ".d";
    CHECK_OK(make_directories(directory, 0755));
    return write_file_durably(directory / ("midstream-" + id + ".conf"),
                              networkd_addresses(addresses, comment), 0644);
  }
  const std::string stanzas = interfaces_stanzas(dev, addresses, comment);
  const std::string main = TRY(read_file(config.main));
  if (sources_interfaces_d(main)) {
    const fs::path directory = config.main.parent_path() / "interfaces.d";
    CHECK_OK(make_directories(directory, 0755));
    return write_file_durably(directory / ("midstream-" + id), stanzas, 0644);
  }
  return write_file_durably(config.main, main + (main.ends_with('\n') ? "\n" : "\n\n") + stanzas, 0644);
}

Result<> apply_changes(const std::vector<FileChange>& changes) {
  for (const FileChange& change : changes) {
    const auto now = read_if_there(change.path);
    if (change.removed ? !now : now == change.after) continue;
    if (now != change.before)
      return refused(fmt::format("{} was changed by somebody else meanwhile", change.path.string()),
                     "try again");
    CHECK_OK(change.removed ? remove_file_durably(change.path)
                            : write_file_durably(change.path, change.after, 0644));
  }
  return {};
}

Result<bool> revert_changes(const std::vector<FileChange>& changes) {
  bool all = true;
  for (const FileChange& change : changes) {
    const auto now = read_if_there(change.path);
    if (now == change.before) continue;
    if (change.removed ? now.has_value() : now != change.after) {
      all = false;
      continue;
    }
    CHECK_OK(write_file_durably(change.path, change.before, 0644));
  }
  return all;
}

}  // namespace midstream
