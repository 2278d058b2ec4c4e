#include <fmt/format.h>

#include "lab/provision.h"

namespace midstream::lab {

namespace {

std::string without_dot(const std::string& name) { return name.substr(0, name.size() - 1); }

std::string zone_file(const Scenario& s) {
  const NameTargets t;
  std::string text = fmt::format("$ORIGIN {0}\n$TTL {1}\n", s.zone, s.zone_ttl());
  text += fmt::format("@ IN SOA ns1.{0} hostmaster.{0} 1 60 10 604800 5\n", s.zone);
  text += "@ NS ns1\n@ NS ns2\n";
  for (const auto& [name, last] : {std::pair("ns1", "21"), std::pair("ns2", "22")}) {
    text += fmt::format("{0} A 203.0.113.{1}\n{0} AAAA 2001:db8:113::{1}\n", name, last);
  }
  text += fmt::format("{} A {}\n{} AAAA {}\n", s.web_name, t.web4_old, s.web_name, t.web6_old);
  text += fmt::format("{} A {}\n", s.db_name, t.db4_old);
  text += fmt::format("@ MX 10 {0}\n{0} A {2}\n{1} A {2}\n@ TXT \"v=spf1 ip4:{2} -all\"\n", s.mx_name, s.imap_name, kMailAddress);
  return text;
}

// The rest of the world's domain: it does not move, and only gets mail.
std::string sink_zone_file(const Scenario& s) {
  return fmt::format("$ORIGIN {0}\n$TTL 60\n@ IN SOA ns1.{1} hostmaster.{0} 1 60 10 604800 5\n@ NS ns1.{1}\n@ NS ns2.{1}\n"
                     "@ MX 10 mail.{0}\nmail.{0} A {2}\n",
                     s.sink_domain, s.zone, kSinkAddress);
}

std::string options() {
  return "options {\n"
         "    directory \"/var/cache/bind\";\n"
         "    listen-on { any; };\n    listen-on-v6 { any; };\n"
         "    recursion no;\n    dnssec-validation no;\n    allow-query { any; };\n"
         "    notify explicit;\n    notify-delay 0;\n    minimal-responses yes;\n"
         "    pid-file \"/run/named/named.pid\";\n    session-keyfile none;\n"
         "};\n"
         "controls { };\n";
}

}  // namespace

std::string tsig_key_file(const Scenario& scenario, const Secrets& secrets) {
  return fmt::format("key \"{}\" {{\n    algorithm hmac-sha256;\n    secret \"{}\";\n}};\n", scenario.tsig_key,
                     secrets.tsig_secret);
}

void add_name_server(FileSet& files, const Scenario& s, const HostPlan& host, const Secrets& secrets) {
  const auto zone = without_dot(s.zone);
  std::string text = options();
  if (host.role == Role::ns1) {
    files.file("/etc/bind/tsig.key", tsig_key_file(s, secrets), 0600, kBind);
    text += fmt::format(
        "include \"/etc/bind/tsig.key\";\n"
        "zone \"{}\" {{\n    type primary;\n    file \"/var/lib/bind/zone\";\n"
        "    update-policy {{ grant {} zonesub A AAAA TXT; }};\n"
        "    also-notify {{ {}; }};\n    allow-transfer {{ {}; }};\n}};\n",
        zone, s.tsig_key, kNs2Mgmt, kNs2Mgmt);
  } else {
    text += fmt::format(
        "zone \"{}\" {{\n    type secondary;\n    file \"/var/lib/bind/zone\";\n    primaries {{ {}; }};\n"
        "    allow-transfer {{ none; }};\n}};\n",
        zone, kNs1Mgmt);
  }
  // Both have it as a file: nothing changes it.
  text += fmt::format("zone \"{}\" {{ type primary; file \"/var/lib/bind/sink-zone\"; notify no; }};\n", without_dot(s.sink_domain));
  files.file("/etc/bind/named.conf", text);
  files.directory("/var/cache/bind", 0755, kBind);
  files.directory("/var/lib/bind", 0755, kBind);
  files.file("/var/lib/bind/sink-zone", sink_zone_file(s), 0644, kBind);
  if (host.role == Role::ns1) files.file("/var/lib/bind/zone", zone_file(s), 0644, kBind);
  files.service("named", "/usr/sbin/named -g -n 1 -u bind -c /etc/bind/named.conf",
                "install -d -o bind -g bind -m 0755 /run/named\n");
}

}  // namespace midstream::lab
