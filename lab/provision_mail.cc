// Dovecot and Postfix on both sides: the same configuration, certificate and accounts; mail only on old.
#include <fmt/format.h>
#include <sys/stat.h>

#include "lab/provision.h"
#include "sys/file.h"

namespace midstream::lab {

namespace {

constexpr std::int64_t kSecond = 1'000'000'000;
constexpr std::int64_t kFirstMail = 1'760'000'000;  // when the oldest message came
constexpr int kMailsBefore = 24;                    // a mailbox

std::string bare(const std::string& name) { return name.substr(0, name.size() - 1); }

std::vector<std::string> accounts(const Scenario& s) {
  auto users = s.mail_users;
  users.push_back(s.mail_probe);
  return users;
}

std::string home_of(const Scenario& s, const std::string& user) {
  return fmt::format("/var/vmail/{}/{}", s.mail_domain, user);
}

std::string dovecot_config(const Scenario& s) {
  return fmt::format(
      "protocols = imap pop3 lmtp sieve\n"
      "listen = *\n"
      "log_path = /dev/stderr\n"
      "auth_mechanisms = plain login\n"
      "disable_plaintext_auth = yes\n"
      "ssl = yes\n"
      "ssl_cert = </etc/ssl/mail/cert.pem\n"
      "ssl_key = </etc/ssl/mail/key.pem\n"
      "postmaster_address = postmaster@{0}\n"
      "hostname = {1}\n"
      "mail_location = maildir:~/Maildir\n"
      "mail_uid = vmail\nmail_gid = vmail\n"
      "mail_max_userip_connections = 100\n"
      "first_valid_uid = 5000\nlast_valid_uid = 5000\n"
      "passdb {{\n  driver = passwd-file\n  args = username_format=%u /etc/dovecot/users\n}}\n"
      "userdb {{\n  driver = passwd-file\n  args = username_format=%u /etc/dovecot/users\n}}\n"
      "namespace inbox {{\n  inbox = yes\n"
      "  mailbox Sent {{\n    special_use = \\Sent\n  }}\n  mailbox Trash {{\n    special_use = \\Trash\n  }}\n"
      "  mailbox Archive {{\n    special_use = \\Archive\n  }}\n}}\n"
      "protocol lmtp {{\n  mail_plugins = $mail_plugins sieve\n}}\n"
      "plugin {{\n  sieve = file:~/sieve;active=~/.dovecot.sieve\n}}\n"
      // Logins in kept processes: a login costs no exec.
      "service imap-login {{\n  service_count = 0\n  process_min_avail = 1\n}}\n"
      "service pop3-login {{\n  service_count = 0\n}}\n"
      "service managesieve-login {{\n  service_count = 0\n  inet_listener sieve {{\n    port = 4190\n  }}\n}}\n"
      "service auth {{\n  unix_listener /var/spool/postfix/private/auth {{\n    mode = 0600\n    user = postfix\n    "
      "group = postfix\n  }}\n}}\n"
      "service lmtp {{\n  unix_listener /var/spool/postfix/private/dovecot-lmtp {{\n    mode = 0600\n    user = "
      "postfix\n"
      "    group = postfix\n  }}\n}}\n"
      "!include_try conf.d/*.conf\n",
      s.mail_domain, bare(s.mx_name));
}

std::string host_config(const HostPlan& host) {
  return fmt::format(
      "# What differs from host to host: where the other side's mail comes in.\n"
      "service lmtp {{\n  inet_listener lmtp {{\n    address = {}\n    port = 24\n  }}\n}}\n",
      host.mgmt);
}

std::string postfix_config(const Scenario& s) {
  return fmt::format(
      "compatibility_level = 3.6\n"
      "myhostname = {0}\nmydomain = {1}\nmyorigin = $mydomain\nmydestination =\nmynetworks = 127.0.0.0/8\n"
      "inet_interfaces = all\ninet_protocols = ipv4\n"
      // Mail leaves from the mail address or waits: never from another one.
      "smtp_bind_address = {2}\nsmtp_bind_address_enforce = yes\n"
      "virtual_mailbox_domains = {1}\n"
      "virtual_mailbox_maps = texthash:/etc/postfix/vmailbox\n"
      "virtual_alias_maps = texthash:/etc/postfix/virtual\n"
      "virtual_transport = lmtp:unix:private/dovecot-lmtp\n"
      "alias_maps =\nalias_database =\nlocal_recipient_maps =\nlocal_transport = error:no local mail\n"
      "smtpd_tls_security_level = may\nsmtpd_tls_cert_file = /etc/ssl/mail/cert.pem\nsmtpd_tls_key_file = "
      "/etc/ssl/mail/key.pem\n"
      "smtp_tls_security_level = may\n"
      "smtpd_sasl_type = dovecot\nsmtpd_sasl_path = private/auth\n"
      "smtpd_relay_restrictions = permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination\n"
      "smtpd_peername_lookup = no\nsmtputf8_enable = no\nbiff = no\nappend_dot_mydomain = no\ndisable_vrfy_command = "
      "yes\n"
      "recipient_delimiter = +\nsmtpd_client_connection_count_limit = 0\n"
      // What is deferred is tried again soon: moves here take a minute, not a day.
      "queue_run_delay = 2s\nminimal_backoff_time = 2s\nmaximal_backoff_time = 10s\n",
      bare(s.mx_name), s.mail_domain, kMailAddress);
}

// Debian's, with nothing chrooted and without what this host does not do.
constexpr std::string_view kMaster =
    "smtp       inet  n - n - -   smtpd\n"
    "submission inet  n - n - -   smtpd\n"
    "  -o syslog_name=postfix/submission\n"
    "  -o smtpd_tls_security_level=encrypt\n"
    "  -o smtpd_sasl_auth_enable=yes\n"
    "  -o smtpd_relay_restrictions=permit_sasl_authenticated,reject\n"
    "pickup     unix  n - n 60 1  pickup\n"
    "cleanup    unix  n - n - 0   cleanup\n"
    "qmgr       unix  n - n 300 1 qmgr\n"
    "tlsmgr     unix  - - n 1000? 1 tlsmgr\n"
    "rewrite    unix  - - n - -   trivial-rewrite\n"
    "bounce     unix  - - n - 0   bounce\n"
    "defer      unix  - - n - 0   bounce\n"
    "trace      unix  - - n - 0   bounce\n"
    "verify     unix  - - n - 1   verify\n"
    "flush      unix  n - n 1000? 0 flush\n"
    "proxymap   unix  - - n - -   proxymap\n"
    "proxywrite unix  - - n - 1   proxymap\n"
    "smtp       unix  - - n - -   smtp\n"
    "relay      unix  - - n - -   smtp\n"
    "showq      unix  n - n - -   showq\n"
    "error      unix  - - n - -   error\n"
    "retry      unix  - - n - -   error\n"
    "discard    unix  - - n - -   discard\n"
    "lmtp       unix  - - n - -   lmtp\n"
    "anvil      unix  - - n - 1   anvil\n"
    "scache     unix  - - n - 1   scache\n"
    "postlog    unix-dgram n - n - 1 postlogd\n";

std::string aliases(const Scenario& s) {
  const auto address = [&](std::size_t i) { return fmt::format("{}@{}", s.mail_users[i], s.mail_domain); };
  return fmt::format("postmaster@{0} {1}\nabuse@{0} {1}\nsales@{0} {2}, {3}\n", s.mail_domain, address(0), address(1),
                     address(2));
}

std::string mailboxes(const Scenario& s) {
  std::string text;
  for (const auto& user : accounts(s)) text += fmt::format("{0}@{1} {0}\n", user, s.mail_domain);
  return text;
}

std::string dovecot_users(const Scenario& s, const Secrets& secrets) {
  std::string text;
  for (const auto& user : accounts(s)) {
    const auto address = fmt::format("{}@{}", user, s.mail_domain);
    text += fmt::format("{}:{}:{}:{}::{}::\n", address, secrets.mail.verifiers.at(address), kVmail, kVmail, home_of(s, user));
  }
  return text;
}

// A message that came before the clients did; its Message-ID tells it from theirs.
void add_message(FileSet& files, const Scenario& s, const std::string& user, const std::string& folder, int number) {
  const auto when = kFirstMail + number * 5'413;
  const auto text = fmt::format(
      "Return-Path: <news@{0}>\nDelivered-To: {1}@{2}\nFrom: News <news@{0}>\nTo: {1}@{2}\nSubject: Letter {3}\n"
      "Date: Thu, 09 Oct 2025 08:53:20 +0000\nMessage-ID: <before-{3}.{1}@{2}>\n\n{4}\n",
      bare(s.sink_domain), user, s.mail_domain, number,
      std::string(static_cast<std::size_t>(200 + number * 331 % 4'000), 'a' + number % 26));
  const auto name = fmt::format("{}.M{}P1.before:2,{}", when, number,
                                number % 3 == 0   ? ""
                                : number % 5 == 0 ? "FS"
                                                  : "S");
  FileEntry entry{FileEntry::Kind::file,
                  fmt::format("{}/Maildir{}/cur/{}", home_of(s, user), folder, name),
                  text,
                  0600,
                  kVmail,
                  kVmail,
                  0};
  entry.mtime_ns = when * kSecond;
  files.add(std::move(entry));
}

void add_mailbox(FileSet& files, const Scenario& s, const std::string& user) {
  const auto home = home_of(s, user);
  files.directory(home, 0700, kVmail);
  for (const char* folder : {"", "/.Sent", "/.Archive", "/.Trash"}) {
    files.directory(fmt::format("{}/Maildir{}", home, folder), 0700, kVmail);
    for (const char* part : {"cur", "new", "tmp"})
      files.directory(fmt::format("{}/Maildir{}/{}", home, folder, part), 0700, kVmail);
    if (*folder != '\0') files.file(fmt::format("{}/Maildir{}/maildirfolder", home, folder), "", 0600, kVmail);
  }
  files.file(home + "/Maildir/subscriptions", "V\t2\n\nSent\nArchive\nTrash\n", 0600, kVmail);
  for (int number = 1; number <= kMailsBefore; ++number)
    add_message(files, s, user, number % 4 == 0 ? "/.Archive" : "", number);
}

void add_sieve(FileSet& files, const Scenario& s, const std::string& user) {
  const auto home = home_of(s, user);
  files.directory(home + "/sieve", 0700, kVmail);
  files.file(home + "/sieve/lists.sieve",
             "require [\"fileinto\", \"mailbox\"];\nif header :contains \"X-Lab-List\" \"news\" {\n  fileinto :create "
             "\"Lists\";\n}\n",
             0600, kVmail);
  FileEntry active{FileEntry::Kind::symlink, home + "/.dovecot.sieve", "sieve/lists.sieve", 0777, kVmail, kVmail, 0};
  files.add(std::move(active));
}

void add_postfix(FileSet& files, const Scenario& s) {
  files.file("/etc/postfix/main.cf", postfix_config(s));
  files.file("/etc/postfix/master.cf", std::string(kMaster));
  files.file("/etc/postfix/virtual", aliases(s));
  files.file("/etc/postfix/vmailbox", mailboxes(s));
  // What Postfix's own commands look into.
  for (const char* path : {"/etc/postfix/postfix-files", "/etc/postfix/dynamicmaps.cf", "/etc/postfix/post-install",
                           "/etc/postfix/postfix-script"}) {
    if (auto content = read_file(path)) files.file(path, *content, 0755);
  }
  files.directory("/etc/postfix/postfix-files.d");
  files.directory("/etc/postfix/dynamicmaps.cf.d");
  files.directory("/var/lib/postfix", 0755, kPostfix);
  files.directory("/var/spool/postfix");
  for (const char* queue :
       {"active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "saved", "trace"}) {
    files.add({FileEntry::Kind::directory, fmt::format("/var/spool/postfix/{}", queue), "", 0700, kPostfix, kRoot, 0});
  }
  files.directory("/var/spool/postfix/pid");
  files.add({FileEntry::Kind::directory, "/var/spool/postfix/maildrop", "", 01730, kPostfix, postdrop_group(), 0});
  files.add({FileEntry::Kind::directory, "/var/spool/postfix/public", "", 02710, kPostfix, postdrop_group(), 0});
  // Postfix logs as it does on Debian.
  files.service("syslog",
                "perl -MSocket -e 'unlink \"/dev/log\"; socket(S, PF_UNIX, SOCK_DGRAM, 0) and bind(S, sockaddr_un(\"/dev/log\")) "
                "or die $!; chmod 0666, \"/dev/log\"; $| = 1; while (defined recv(S, $m, 65536, 0)) { $m =~ s/^<\\d+>//; print "
                "\"$m\\n\" }'");
  files.service("postfix", "/usr/sbin/postfix start-fg");
}

}  // namespace

gid_t postdrop_group() {
  struct stat found {};
  return ::stat("/usr/sbin/postdrop", &found) == 0 ? found.st_gid : kPostfix;
}

void add_mail(FileSet& files, const Scenario& s, const HostPlan& host, const Secrets& secrets) {
  files.directory("/etc/ssl/mail", 0755);
  files.file("/etc/ssl/mail/cert.pem", secrets.mail.certificate);
  files.file("/etc/ssl/mail/key.pem", secrets.mail.key, 0600);
  files.file(fmt::format("/etc/opendkim/keys/{}/lab.private", s.mail_domain), secrets.mail.dkim_key, 0600);
  files.file("/etc/dovecot/dovecot.conf", dovecot_config(s));
  files.file("/etc/dovecot/conf.d/20-host.conf", host_config(host));
  files.add({FileEntry::Kind::file, "/etc/dovecot/users", dovecot_users(s, secrets), 0640, kRoot, kDovecot, 0});
  files.directory("/var/lib/dovecot");
  files.service("dovecot", "/usr/sbin/dovecot -F");
  add_postfix(files, s);
  files.directory("/var/vmail", 0755, kVmail);
  files.directory("/var/vmail/" + s.mail_domain, 0755, kVmail);
  if (host.role != Role::old_side) return;
  for (const auto& user : accounts(s)) add_mailbox(files, s, user);
  add_sieve(files, s, s.mail_users[1]);
}

void add_mail_users(FileSet& files, const Scenario& s, const Secrets& secrets) {
  files.file("/etc/ssl/certs/" + secrets.mail.authority_file, secrets.mail.certificate);
  // Until it is built, nobody takes the rest of the world's mail.
  files.service("mail-sink", fmt::format("/opt/midstream/bin/lab-sink --address {} --book /lab/sink/book.jsonl", kSinkAddress),
                "while [ ! -x /opt/midstream/bin/lab-sink ]; do sleep 1; done\n");
  std::string users;
  for (const auto& user : s.mail_users) {
    const auto address = fmt::format("{}@{}", user, s.mail_domain);
    users += fmt::format("{} {}\n", address, secrets.mail.passwords.at(address));
  }
  files.file("/etc/midstream/mail.users", users, 0600);
  const auto probe = fmt::format("{}@{}", s.mail_probe, s.mail_domain);
  files.file("/etc/midstream/probe.mail", fmt::format("{} {}\n", probe, secrets.mail.passwords.at(probe)), 0600);
}

}  // namespace midstream::lab
