#include "lab/provision.h"

#include <fmt/format.h>

#include <filesystem>

#include "base/text.h"
#include "sys/file.h"

namespace midstream::lab {

namespace fs = std::filesystem;

namespace {

constexpr std::string_view kPasswd =
    "root:x:0:0:root:/root:/bin/bash\n"
    "daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    "postgres:x:110:110:PostgreSQL:/var/lib/postgresql:/bin/bash\n"
    "bind:x:111:111::/var/cache/bind:/usr/sbin/nologin\n"
    "haproxy:x:112:112::/var/lib/haproxy:/usr/sbin/nologin\n"
    "sshd:x:113:65534::/run/sshd:/usr/sbin/nologin\n"
    "dovecot:x:114:114:Dovecot:/usr/lib/dovecot:/usr/sbin/nologin\n"
    "dovenull:x:115:115:Dovecot's logins:/nonexistent:/usr/sbin/nologin\n"
    "postfix:x:116:116::/var/spool/postfix:/usr/sbin/nologin\n"
    "shop:x:2001:2001:the shop:/srv:/bin/sh\n"
    "staff1:x:2002:2002:an editor:/home/staff1:/bin/sh\n"
    "vmail:x:5000:5000:mailboxes:/var/vmail:/usr/sbin/nologin\n";
constexpr std::string_view kGroup =
    "root:x:0:\ndaemon:x:1:\nadm:x:4:\ntty:x:5:\nnogroup:x:65534:\npostgres:x:110:\nbind:x:111:\nhaproxy:x:112:\n"
    "dovecot:x:114:\ndovenull:x:115:\npostfix:x:116:\nshop:x:2001:\nstaff1:x:2002:\nvmail:x:5000:\n";

std::string shadow() {
  std::string text;
  for (const auto& line : split(kPasswd, '\n')) {
    if (!line.empty()) text += split(line, ':')[0] + ":*:19700:0:99999:7:::\n";
  }
  return text;
}

// Small files of the machine that daemons expect in /etc, and the links that /usr/bin has into it.
void add_machine_files(FileSet& files) {
  for (const char* path : {"/etc/services", "/etc/protocols", "/etc/ld.so.cache", "/etc/ssl/openssl.cnf",
                           "/etc/localtime", "/etc/bindresvport.blacklist"}) {
    if (auto content = read_file(path)) files.file(path, *content);
  }
  std::error_code failed;
  for (const auto& link : fs::directory_iterator("/etc/alternatives", failed)) {
    const auto target = fs::read_symlink(link.path(), failed);
    if (!failed) files.symlink(link.path(), target);
  }
}

}  // namespace

void add_base(FileSet& files, const HostPlan& host, const std::string& zone) {
  add_machine_files(files);
  files.file("/etc/passwd", std::string(kPasswd));
  files.file("/etc/group", fmt::format("{}postdrop:x:{}:\n", kGroup, postdrop_group()));
  files.file("/etc/shadow", shadow(), 0640);
  files.file("/etc/hostname", host.name + "\n");
  files.file("/etc/hosts", fmt::format("127.0.0.1 localhost\n::1 localhost\n{} {}\n", host.mgmt, host.name));
  files.file("/etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\n");
  files.file("/etc/profile", "export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:"
                             "/usr/lib/postgresql/15/bin\nPS1='\\h:\\w# '\n");
  files.file("/root/.bashrc", ". /etc/profile\n");
  files.file("/etc/debian_version", "12\n");
  files.file("/etc/machine-zone", zone + "\n");
  files.directory("/etc/service");
  files.directory("/home/staff1", 0755, kStaff);
}

FileSet provision(const Scenario& scenario, const HostPlan& host, const Secrets& secrets) {
  FileSet files;
  add_base(files, host, scenario.zone);
  add_network(files, scenario, host);
  add_ssh(files, scenario, host, secrets);
  switch (host.role) {
    case Role::edge:
      add_edge_proxy(files, scenario);
      files.file("/etc/midstream/tsig.key", tsig_key_file(scenario, secrets), 0600);
      break;
    case Role::old_side:
    case Role::new_side:
      add_database(files, scenario, host);
      add_relay(files, host);
      add_shop(files, scenario, host, secrets);
      add_worker(files, scenario, host);
      add_mail(files, scenario, host, secrets);
      if (host.role == Role::old_side) add_roles(files, scenario, secrets);
      break;
    case Role::ns1:
    case Role::ns2: add_name_server(files, scenario, host, secrets); break;
    case Role::out:
      add_mail_users(files, scenario, secrets);
      files.file("/etc/midstream/probe.pgpass",
                 fmt::format("*:*:*:{}:{}\n", scenario.probe_role, secrets.probe_password), 0600);
      files.file("/etc/midstream/clients.pgpass",
                 fmt::format("*:*:{}:{}:{}\n", scenario.database, scenario.app_role, secrets.app_password), 0600);
      break;
    case Role::ops: add_operator(files, scenario, secrets); break;
  }
  return files;
}

}  // namespace midstream::lab
