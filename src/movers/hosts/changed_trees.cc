// Where old still writes: trees with files that changed lately and that nothing carries over.
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <set>

#include "movers/hosts/survey.h"

namespace midstream {

namespace {

namespace fs = std::filesystem;

// Programs, what lives in memory, and configuration, which is installed on new and not carried.
constexpr std::array<std::string_view, 14> kNotData{"/bin",   "/boot",  "/dev",    "/etc",       "/lib",
                                                    "/lib32", "/lib64", "/libx32", "/proc",      "/run",
                                                    "/sbin",  "/sys",   "/tmp",    "/lost+found"};
// What the system and its daemons keep for themselves; databases are listed as such.
constexpr std::array<std::string_view, 48> kTheirOwn{"/var/log",
                                                     "/var/cache",
                                                     "/var/tmp",
                                                     "/var/run",
                                                     "/var/lock",
                                                     "/var/backups",
                                                     "/var/crash",
                                                     "/var/lib/dpkg",
                                                     "/var/lib/apt",
                                                     "/var/lib/systemd",
                                                     "/var/lib/ucf",
                                                     "/var/lib/dbus",
                                                     "/var/lib/dhcp",
                                                     "/var/lib/NetworkManager",
                                                     "/var/lib/chrony",
                                                     "/var/lib/ntp",
                                                     "/var/lib/ntpsec",
                                                     "/var/lib/logrotate",
                                                     "/var/lib/man-db",
                                                     "/var/lib/pam",
                                                     "/var/lib/polkit-1",
                                                     "/var/lib/private",
                                                     "/var/lib/python",
                                                     "/var/lib/sudo",
                                                     "/var/lib/misc",
                                                     "/var/lib/vim",
                                                     "/var/lib/apparmor",
                                                     "/var/lib/haproxy",
                                                     "/var/lib/midstream",
                                                     "/var/lib/postgresql",
                                                     "/var/lib/mysql",
                                                     "/var/lib/redis",
                                                     "/var/lib/mongodb",
                                                     "/var/lib/ldap",
                                                     "/var/lib/influxdb",
                                                     "/var/lib/elasticsearch",
                                                     "/var/lib/dovecot",
                                                     "/var/lib/postfix",
                                                     "/var/lib/update-notifier",
                                                     "/var/lib/unattended-upgrades",
                                                     "/var/lib/PackageKit",
                                                     "/var/lib/cloud",
                                                     "/var/lib/smartmontools",
                                                     "/var/lib/lldpd",
                                                     "/var/spool/cron",
                                                     "/var/spool/anacron",
                                                     "/var/spool/rsyslog",
                                                     "/var/lib/shells.state"};
// Below these each entry is a tree of its own.
constexpr std::array<std::string_view, 10> kShelves{"/srv",       "/home",    "/opt", "/var",       "/var/lib",
                                                    "/var/spool", "/var/www", "/usr", "/usr/local", "/mnt"};

bool within(std::string_view path, std::string_view tree) {
  return path == tree || (path.size() > tree.size() && path.starts_with(tree) && path[tree.size()] == '/');
}

// Nothing changes where nobody may write.
bool holds_data(const fs::path& path) {
  struct statvfs flags {};
  if (::statvfs(path.c_str(), &flags) != 0 || (flags.f_flag & ST_RDONLY) != 0) return false;
  struct statfs system {};
  if (::statfs(path.c_str(), &system) != 0) return false;
  static const std::set<long> kVirtual{0x9fa0,     0x62656572, 0x01021994, 0x858458f6, 0x27e0eb,
                                       0x63677270, 0x1cd1,     0x64626720, 0x74726163};
  return !kVirtual.contains(static_cast<long>(system.f_type));
}

class Scan {
 public:
  Scan(fs::path root, const std::vector<std::string>& covered, int days, Deadline deadline)
      : root_(std::move(root)), covered_(covered), deadline_(deadline), since_(std::time(nullptr) - days * 86'400LL) {}

  std::vector<SeenTree> run() {
    shelf("/");
    return std::move(found_);
  }

 private:
  fs::path on_disk(const std::string& path) const { return root_ / path.substr(1); }

  bool left_out(const std::string& path) const {
    const auto holds = [&](const auto& list) {
      return std::ranges::any_of(list, [&](const auto& tree) { return within(path, tree); });
    };
    const bool of_packages = within(path, "/usr") && path != "/usr" && !within(path, "/usr/local");
    return of_packages || holds(kNotData) || holds(kTheirOwn) || holds(covered_);
  }

  void shelf(const std::string& path) {
    std::vector<std::string> names;
    std::error_code error;
    for (auto at = fs::directory_iterator(on_disk(path), error); !error && at != fs::directory_iterator();
         at.increment(error))
      names.push_back(at->path().filename());
    std::ranges::sort(names);
    for (const auto& name : names) {
      const auto child = (path == "/" ? "" : path) + "/" + name;
      if (left_out(child)) continue;
      // Shells and editors keep theirs there.
      if (path == "/root" && name.starts_with(".")) continue;
      const bool is_shelf = child == "/root" || std::ranges::find(kShelves, child) != kShelves.end();
      const auto status = fs::symlink_status(on_disk(child), error);
      if (fs::is_directory(status) && is_shelf) {
        shelf(child);
      } else if (fs::is_directory(status) && holds_data(on_disk(child))) {
        tree(child);
      } else if (fs::is_regular_file(status) && path != "/" && is_new(on_disk(child))) {
        found_.push_back({child, child, ""});
      }
    }
  }

  bool is_new(const fs::path& path) const {
    struct stat info {};
    return ::lstat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && info.st_mtime >= since_;
  }

  // The first change is enough.
  void tree(const std::string& path) {
    std::error_code error;
    auto at = fs::recursive_directory_iterator(on_disk(path), fs::directory_options::skip_permission_denied, error);
    for (int seen = 0; !error && at != fs::recursive_directory_iterator(); at.increment(error), ++seen) {
      if (seen % 256 == 0 && deadline_.expired()) {
        found_.push_back({path, "", "it could not be looked through in time"});
        return;
      }
      const auto inside = "/" + at->path().lexically_relative(root_).string();
      std::error_code gone;
      if (at->is_directory(gone) && !at->is_symlink(gone)) {
        if (left_out(inside) || !holds_data(at->path())) at.disable_recursion_pending();
      } else if (is_new(at->path())) {
        found_.push_back({path, inside, ""});
        return;
      }
    }
  }

  fs::path root_;
  const std::vector<std::string>& covered_;
  Deadline deadline_;
  std::int64_t since_;
  std::vector<SeenTree> found_;
};

}  // namespace

std::vector<SeenTree> changed_trees(const fs::path& root, const std::vector<std::string>& covered, int days,
                                    Deadline deadline) {
  return Scan(root, covered, days, deadline).run();
}

}  // namespace midstream
