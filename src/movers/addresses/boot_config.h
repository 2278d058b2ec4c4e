// The files that configure a device's addresses at boot, under a root directory ("/" outside of tests).
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "movers/addresses/interfaces.h"

namespace midstream {

enum class NetworkManager { ifupdown, networkd, foreign };

struct BootConfig {
  NetworkManager manager = NetworkManager::foreign;
  std::string name;                          // for people: "ifupdown", "NetworkManager" ...
  std::filesystem::path main;                // interfaces, or the .network file
  std::vector<std::filesystem::path> files;  // all that may configure the device, `main` among them
};

// Who configures `dev`. `foreign` with a name where that is somebody whose files midstream does not edit, or
// nobody.
Result<BootConfig> find_boot_config(const std::filesystem::path& root, const std::string& dev,
                                    unsigned index);

// One file's replacement; kept on disk before the file is touched, so that it can be put back byte for byte.
struct FileChange {
  std::filesystem::path path;
  bool existed = true;
  std::string before;
  std::string after;  // "" with `removed`
  bool removed = false;
};
Json to_json(const FileChange& change);
Result<FileChange> file_change_from_json(const Json& value);

struct Unpersisting {
  std::vector<FileChange> changes;
  std::set<IpAddress> found;
  std::vector<std::string> unclear;
};
// What must change so that `addresses` do not come back at boot. Reads only.
Result<Unpersisting> plan_unpersist(const BootConfig& config, const std::string& dev,
                                    const std::set<IpAddress>& addresses);

// Writes `addresses` where the manager will find them at boot. `id` is a plain name.
Result<> persist_addresses(const BootConfig& config, const std::string& dev,
                           const std::vector<Prefixed>& addresses, const std::string& id,
                           const std::string& comment);

// Durable. Refused if a file is neither as it was before nor as it is after.
Result<> apply_changes(const std::vector<FileChange>& changes);
// The same backwards. Returns whether every file could be put back; one that somebody else has edited is left
// alone.
Result<bool> revert_changes(const std::vector<FileChange>& changes);

}  // namespace midstream
