#include <fmt/format.h>

#include "lab/provision.h"

namespace midstream::lab {

namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kEpoch = 1'700'000'000;  // of the oldest file

// Text that differs from file to file and is not all alike.
std::string filler(int seed, std::size_t size) {
  std::string text;
  std::uint32_t state = static_cast<std::uint32_t>(seed) * 2'654'435'761u + 1;
  while (text.size() < size) {
    state = state * 1'664'525u + 1'013'904'223u;
    text += static_cast<char>(' ' + (state >> 24) % 95);
  }
  return text;
}

FileEntry tree_file(const std::string& path, int seed, std::size_t size, unsigned mode, uid_t owner) {
  FileEntry entry{FileEntry::Kind::file, path, filler(seed, size), mode, owner, owner, 0};
  entry.mtime_ns = (kEpoch + seed * 3'607LL) * kSecond + seed * 1'000'003LL % kSecond;
  return entry;
}

FileEntry tree_directory(const std::string& path, int seed, uid_t owner, unsigned mode = 0755) {
  FileEntry entry{FileEntry::Kind::directory, path, "", mode, owner, owner, 0};
  entry.mtime_ns = (kEpoch + seed * 7'201LL) * kSecond + 7;
  return entry;
}

FileEntry tree_link(const std::string& path, const std::string& target, int seed) {
  FileEntry entry{FileEntry::Kind::symlink, path, target, 0777, kShop, kShop, 0};
  entry.mtime_ns = (kEpoch + seed) * kSecond;
  return entry;
}

// A shop's pages, pictures and uploads: a few hundred files, from empty to 256 KiB.
void add_tree(FileSet& files, const std::string& top) {
  int seed = 1;
  files.add(tree_directory(top + "/static", seed, kStaff));
  for (int section = 0; section < 6; ++section) {
    const auto directory = fmt::format("{}/static/section-{}", top, section);
    files.add(tree_directory(directory, section, kStaff));
    for (int page = 0; page < 30; ++page, ++seed) {
      const std::size_t size = page == 0 ? 0 : static_cast<std::size_t>(400 + seed * 37 % 6'000);
      files.add(tree_file(fmt::format("{}/page-{:02}.html", directory, page), seed, size, 0644, kStaff));
    }
  }
  const auto deep = top + "/static/a/rather/deep/path/of/directories";
  std::string walk = top + "/static";
  for (const char* part : {"/a", "/rather", "/deep", "/path", "/of", "/directories"}) {
    files.add(tree_directory(walk += part, ++seed, kStaff, 0750));
  }
  files.add(tree_file(deep + "/leaf.txt", ++seed, 90, 0600, kRoot));
  files.add(tree_file(top + "/static/name with spaces, ünïcode and 'quotes'.txt", ++seed, 33, 0644, kStaff));
  for (int picture = 0; picture < 8; ++picture) {
    files.add(tree_file(fmt::format("{}/static/picture-{}.jpg", top, picture), ++seed, 32u << (10 + picture % 4), 0444,
                        kStaff));
  }
  files.add(tree_file(top + "/static/run-me.sh", ++seed, 120, 0755, kRoot));
  files.add(tree_link(top + "/static/latest", "section-5", ++seed));
  files.add(tree_link(top + "/static/host-name", "/etc/hostname", ++seed));
  files.add(tree_link(top + "/static/dangling", "not/there", ++seed));
  files.add(tree_directory(top + "/uploads", ++seed, kShop, 0775));
  for (int upload = 0; upload < 160; ++upload, ++seed) {
    const auto day = fmt::format("{}/uploads/2026-11-{:02}", top, 1 + upload / 16);
    if (upload % 16 == 0) files.add(tree_directory(day, seed, kShop));
    const std::size_t size = static_cast<std::size_t>(1'000 + seed * 211 % 20'000);
    files.add(tree_file(fmt::format("{}/upload-{:03}.bin", day, upload), seed, size, upload % 3 == 0 ? 0640 : 0644,
                        kShop));
  }
  for (const char* link : {"/static/by-name"}) {
    files.add(tree_directory(top + link, ++seed, kShop));
    files.add(tree_link(top + link + std::string("/first"), "../../uploads/2026-11-01/upload-000.bin", seed));
  }
}

}  // namespace

std::string worker_log(const Scenario& s) { return fmt::format("/var/log/{}-runs.jsonl", s.unit); }

void add_worker(FileSet& files, const Scenario& s, const HostPlan& host) {
  const auto command = fmt::format(
      "setpriv --reuid=shop --regid=shop --clear-groups /opt/midstream/bin/lab-worker --host {} --log {} "
      "--db \"host={} port=5432 dbname={} user={} passfile=/etc/shop/pgpass\"",
      host.name, worker_log(s), s.db_name.substr(0, s.db_name.size() - 1), s.database, s.app_role);
  files.service(s.unit, command,
                fmt::format("export HOME=/srv\ntouch {0} && chown shop: {0}\n"
                            "while [ ! -x /opt/midstream/bin/lab-worker ]; do sleep 1; done\n",
                            worker_log(s)));
  if (host.role == Role::new_side) files.file(fmt::format("/etc/service/{}/down", s.unit), "old runs it\n");
}

void add_shop(FileSet& files, const Scenario& s, const HostPlan& host, const Secrets& secrets) {
  const bool old_side = host.role == Role::old_side;
  files.directory(s.tree, 0755, kShop);
  if (old_side) add_tree(files, s.tree);
  files.directory("/etc/shop", 0755, kRoot);
  files.file("/etc/shop/pgpass", fmt::format("*:*:{}:{}:{}\n", s.database, s.app_role, secrets.app_password), 0600,
             kShop);
  int port = 8081;
  for (const auto& service : s.app_services) {
    const auto command = fmt::format(
        "setpriv --reuid=shop --regid=shop --clear-groups /opt/midstream/bin/lab-shop --listen {}:{} --host {} "
        "--files {} --db \"host={} port=5432 dbname={} user={} passfile=/etc/shop/pgpass\" --peer http://{}:{} --mood /etc/shop/mood.json",
        host.mgmt, port, host.name, s.tree, s.db_name.substr(0, s.db_name.size() - 1), s.database, s.app_role,
        old_side ? kNewMgmt : kOldMgmt, port);
    files.service(service, command,
                  "export HOME=/srv\n"
                  "if [ ! -x /opt/midstream/bin/lab-shop ]; then\n"
                  "  echo 'lab-shop is not built yet: waiting for /opt/midstream/bin/lab-shop'\n"
                  "  while [ ! -x /opt/midstream/bin/lab-shop ]; do sleep 1; done\n"
                  "fi\n");
    ++port;
  }
}

}  // namespace midstream::lab
