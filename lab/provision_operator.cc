#include <fmt/format.h>

#include "base/text.h"
#include "lab/provision.h"

namespace midstream::lab {

namespace {

std::string host_lines(const Scenario& s) {
  std::string text;
  for (const auto& host : s.hosts()) {
    if (host.role == Role::ops || host.role == Role::ns1 || host.role == Role::ns2) continue;
    text += fmt::format("  {0}: {{ ssh: \"root@{1}\", data: {1}{2} }}\n", host.name, host.mgmt, host.role == Role::new_side ? ", grow: 1x" : "");
  }
  return text;
}

std::string name_line(const Scenario& s, const std::string& name, const char* type, const std::string& before,
                      const std::string& after) {
  return fmt::format(
      "      - {{ name: {}, type: {}, server: {}, zone: {}, via: {}, key_file: /etc/midstream/tsig.key,\n"
      "          old: \"{}\", new: \"{}\", ttl: {}s }}\n",
      name, type, kNs1Mgmt, s.zone, s.edge, before, after, s.move_ttl());
}

// What users of mail have, and who carries it.
std::string mail_service(const Scenario& s) {
  const auto bare = [](const std::string& name) { return name.substr(0, name.size() - 1); };
  return fmt::format("  {0}:\n    probe: {{ smtp: \"{1}:25\", submission: \"{2}:587\", imap: \"{3}:993\", every: 500ms, timeout: 5s,\n"
                     "      password_file: /etc/midstream/probe.mail }}\n"
                     "    mail: {{ dovecot: {{ old: {4}, new: {5} }}, postfix: {{ old: {4}, new: {5} }}, steps: [{6}] }}\n",
                     s.mail_service, bare(s.mx_name), bare(s.mx_name), bare(s.imap_name), s.old_host, s.new_host, s.fast ? "100" : "25, 100");
}

std::string db_service(const Scenario& s, const char* every) {
  const NameTargets t;
  const auto db_host = s.db_name.substr(0, s.db_name.size() - 1);
  return fmt::format("  {}:\n", s.db_service) +
         fmt::format("    probe: {{ postgres: \"host={} port=5432 dbname={} user={}\", write: true, every: {},\n"
                     "      password_file: /etc/midstream/probe.pgpass }}\n",
                     db_host, s.database, s.probe_role, every) +
         fmt::format("    postgres: {{ old: {{ host: {}, port: 5432 }}, new: {{ host: {}, port: 5432 }}, databases: [{}]{} }}\n",
                     s.old_host, s.new_host, s.database, s.seeded ? ", road: seeded" : "") +
         (s.db_gate.empty() ? "" : fmt::format("    gate: {{ host: {}, listen: \"{}\", close_idle: 20ms }}\n", s.edge, kGateListen)) +
         fmt::format("    traffic: {{ haproxy: {}, backend: {}, old: {}, new: {} }}\n", s.edge, s.db_backend, s.db_old,
                     s.db_new) +
         "    names:\n" + name_line(s, s.db_name, "A", t.db4_old, t.db4_new);
}

std::string web_service(const Scenario& s, const char* every) {
  const NameTargets t;
  const auto web_host = s.web_name.substr(0, s.web_name.size() - 1);
  return fmt::format("  {}:\n    needs: [{}]\n", s.web_service, s.db_service) +
         fmt::format("    probe: {{ http: \"http://{}/health\", every: {} }}\n", web_host, every) +
         fmt::format("    files:\n      - {{ path: {}, both_ways: true }}\n", s.tree) +
         fmt::format("    traffic: {{ haproxy: {}, backend: {}, old: [{}], new: [{}],\n"
                     "      steps: [5, 25, 50, 100], hold: {} }}\n",
                     s.edge, s.web_backend, join(s.web_old, ", "), join(s.web_new, ", "), s.fast ? "1s" : "3s") +
         "    names:\n" + name_line(s, s.web_name, "A", t.web4_old, t.web4_new) +
         name_line(s, s.web_name, "AAAA", t.web6_old, t.web6_new);
}

}  // namespace

std::string move_manifest(const Scenario& s) {
  const char* every = s.fast ? "50ms" : "100ms";
  std::string text = fmt::format("move: {}\nhosts:\n{}", s.name, host_lines(s));
  text += fmt::format("sides: {{ old: {}, new: {} }}\nvantage: {}\nverifier: {}\n", s.old_host, s.new_host, s.out, s.edge);
  text += fmt::format("rules:\n  downtime: 5m\n  observe: {}\n  silence: {}\n", s.fast ? "3s" : "8s", s.fast ? "1s" : "4s");
  text += "  guard: { errors: 1%, p95: 1.5x, floor: 40ms, min_samples: 300, rate: 200 }\n";
  text += "services:\n" + db_service(s, every) + web_service(s, every);
  if (s.mail) text += mail_service(s);
  text += fmt::format(
      "addresses:\n"
      "  - {{ subnet: 192.0.2.0/26, from: {{ host: {0}, dev: eth0 }}, to: {{ host: {1}, dev: eth0 }}, gateway: 192.0.2.1 }}\n"
      "  - {{ subnet: \"2001:db8:26::/64\", from: {{ host: {0}, dev: eth0 }}, to: {{ host: {1}, dev: eth0 }}, gateway: "
      "\"2001:db8:26::1\" }}\n"
      "  - {{ pool: 198.51.100.0/28, for: {1} }}\n"
      "after: {{ old: fenced }}\n",
      s.old_host, s.new_host);
  text += fmt::format("units:\n  - {{ name: {}, sides: one }}\n", s.unit);
  if (!s.mail) text += "accept:\n  - tree /var/vmail\n  - tree /var/spool/postfix\n";
  return text;
}

void add_operator(FileSet& files, const Scenario& s, const Secrets& secrets) {
  files.file("/root/.ssh/id_ed25519", secrets.operator_key.private_key, 0600);
  files.file("/root/.ssh/id_ed25519.pub", secrets.operator_key.public_key + "\n");
  std::string known;
  std::string config;
  for (const auto& host : s.hosts()) {
    const auto fields = split(secrets.host_keys.at(host.name).public_key, ' ');
    known += fmt::format("{},{} {} {}\n", host.mgmt, host.name, fields[0], fields[1]);
    config += fmt::format("Host {0}\n  HostName {1}\n  HostKeyAlias {0}\n", host.name, host.mgmt);
  }
  config += "Host *\n  User root\n  IdentityFile /root/.ssh/id_ed25519\n  IdentitiesOnly yes\n"
            "  UserKnownHostsFile /root/.ssh/known_hosts\n  StrictHostKeyChecking yes\n  BatchMode yes\n"
            "  ConnectTimeout 10\n  LogLevel ERROR\n";
  files.file("/root/.ssh/known_hosts", known, 0600);
  files.file("/root/.ssh/config", config, 0600);
  files.file("/root/move.yaml", move_manifest(s));
}

}  // namespace midstream::lab
