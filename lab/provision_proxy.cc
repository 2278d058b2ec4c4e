#include <fmt/format.h>

#include "base/text.h"
#include "lab/provision.h"

namespace midstream::lab {

namespace {

constexpr const char* kConfig = "/etc/haproxy/haproxy.cfg";

std::string big_endian(std::uint32_t value) {
  std::string bytes(4, '\0');
  for (int i = 0; i < 4; ++i) bytes[static_cast<std::size_t>(i)] = static_cast<char>(value >> (24 - 8 * i));
  return bytes;
}

// PostgreSQL's StartupMessage, protocol 3.0, in hex.
std::string startup_packet(const std::string& user, const std::string& database) {
  std::string body = big_endian(196'608);
  for (const std::string& part : {std::string("user"), user, std::string("database"), database, std::string()}) {
    body += part + '\0';
  }
  return to_hex(big_endian(static_cast<std::uint32_t>(body.size() + 4)) + body);
}

std::string globals() {
  return "global\n"
         "    stats socket /run/haproxy/admin.sock mode 660 level admin expose-fd listeners\n"
         "    user haproxy\n"
         "    group haproxy\n"
         "    maxconn 4000\n"
         "    log stdout format raw local0 notice\n"
         "\n"
         "defaults\n"
         "    log global\n"
         "    timeout connect 2s\n"
         "    timeout client 1h\n"
         "    timeout server 1h\n"
         "    timeout check 2s\n"
         "\n";
}

void add_service(FileSet& files, const std::string& config) {
  files.file(kConfig, config);
  files.directory("/var/lib/haproxy");
  files.service("haproxy", fmt::format("/usr/sbin/haproxy -W -f {} -p /run/haproxy.pid", kConfig),
                "mkdir -p -m 0755 /run/haproxy\n");
}

}  // namespace

void add_edge_proxy(FileSet& files, const Scenario& s) {
  std::string text = globals();
  text += fmt::format(
      "frontend in-{0}\n    mode http\n    bind {1}:80\n    default_backend {0}\n\n"
      "frontend in-{2}\n    mode tcp\n    bind {1}:5432\n    default_backend {2}\n\n",
      s.web_backend, kEdgeMgmt, s.db_backend);
  text += fmt::format(
      "backend {}\n    mode http\n    balance roundrobin\n    option httpchk GET /health\n"
      "    default-server check inter 200ms fall 2 rise 1\n",
      s.web_backend);
  const auto servers = [&](const std::vector<std::string>& names, std::string_view address, int weight) {
    int port = 8081;
    for (const auto& name : names) text += fmt::format("    server {} {}:{} weight {}\n", name, address, port++, weight);
  };
  servers(s.web_old, kOldMgmt, 100);
  servers(s.web_new, kNewMgmt, 0);
  // Up only where the database lets somebody in: a login that ends in ReadyForQuery, then Terminate.
  text += fmt::format(
      "\nbackend {}\n    mode tcp\n    balance roundrobin\n    option tcp-check\n"
      "    tcp-check connect\n"
      "    tcp-check send-binary {}\n"
      "    tcp-check expect binary 5a0000000549\n"
      "    tcp-check send-binary 5800000004\n"
      "    option redispatch 1\n",
      s.db_backend, startup_packet("haproxy_check", s.database));
  // The gate is not asked for a login: whether it is there is what counts. As long as it is, it alone leads to the databases.
  if (!s.db_gate.empty()) text += fmt::format("    server {0} {1} track {2}_gate/{0}\n", s.db_gate, kGateListen, s.db_backend);
  for (const auto& [name, address] : {std::pair(s.db_old, kOldMgmt), std::pair(s.db_new, kNewMgmt)})
    text += fmt::format("    server {} {}:5432 check inter 100ms fall 1 rise 1 on-marked-down shutdown-sessions{}\n", name, address,
                        s.db_gate.empty() ? "" : " backup");
  if (!s.db_gate.empty())
    text += fmt::format("\nbackend {}_gate\n    mode tcp\n    server {} {} check inter 100ms fall 1 rise 1\n", s.db_backend, s.db_gate, kGateListen);
  add_service(files, text);
}

// On old and new alike, so that both targets of a vanity name lead to the same place. `transparent`: the addresses
// of the other side are bound before they are here.
void add_relay(FileSet& files, const HostPlan&) {
  const NameTargets targets;
  std::string text = globals();
  text += fmt::format(
      "listen relay-http\n    mode tcp\n    bind :::80 v4v6\n    server edge {0}:80\n\n"
      "listen relay-postgres\n    mode tcp\n    bind {1}:5432 transparent\n    bind {2}:5432 transparent\n"
      "    server edge {0}:5432\n",
      kEdgeMgmt, targets.db4_old, targets.db4_new);
  add_service(files, text);
}

}  // namespace midstream::lab
