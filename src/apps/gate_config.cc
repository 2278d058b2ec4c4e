#include "apps/gate_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/text.h"
#include "manifest/build.h"
#include "manifest/shape.h"
#include "manifest/values.h"
#include "sys/file.h"

namespace midstream {

namespace {

using enum Field::Need;
using Kind = Shape::Kind;

bool valid_listen(std::string_view t) {
  const auto parsed = parse_host_port(t);
  return parsed && gate::parse_address(parsed->host).has_value();
}
bool valid_loopback(std::string_view t) {
  static const std::array networks{*gate::parse_network("127.0.0.0/8"), *gate::parse_network("::1/128")};
  const auto parsed = parse_host_port(t);
  const auto address = parsed ? gate::parse_address(parsed->host) : std::nullopt;
  return address && std::ranges::any_of(networks, [&](const auto& one) { return one.contains(*address); });
}
bool valid_network(std::string_view t) { return gate::parse_network(t).has_value(); }
bool valid_name(std::string_view t) { return !t.empty() && t.size() <= 63; }
bool valid_path(std::string_view t) { return !t.empty() && t.find('\0') == std::string_view::npos; }

constexpr std::array<std::string_view, 4> kTlsWords{"off", "require", "verify-ca", "verify-full"};
constexpr std::array<std::string_view, 2> kOverWords{"tls", "plain"};
constexpr std::array<std::string_view, 3> kMethodWords{"scram-sha-256", "md5", "reject"};

constexpr Shape kListen{.kind = Kind::text, .expected = "a numeric address and a port such as 127.0.0.1:6432", .valid = valid_listen};
constexpr Shape kLoopback{.kind = Kind::text, .expected = "a loopback address and a port such as 127.0.0.1:9642", .valid = valid_loopback};
constexpr Shape kHost{.kind = Kind::text, .expected = "a host's name or address", .valid = is_server_name};
constexpr Shape kPath{.kind = Kind::text, .expected = "the path of a file", .valid = valid_path};
constexpr Shape kPort{.kind = Kind::integer, .expected = "a port from 1 to 65535", .least = 1, .most = 65'535};
constexpr Shape kCount{.kind = Kind::integer, .expected = "a number from 0 to 1073741824", .least = 0, .most = 1 << 30};
constexpr Shape kThreads{.kind = Kind::integer, .expected = "a number from 1 to 256", .least = 1, .most = 256};
constexpr Shape kTls{.kind = Kind::words, .expected = "off, require, verify-ca or verify-full", .words = kTlsWords};
constexpr Shape kOver{.kind = Kind::words, .expected = "tls or plain", .words = kOverWords};
constexpr Shape kMethod{.kind = Kind::words, .expected = "scram-sha-256, md5 or reject", .words = kMethodWords};
constexpr Shape kName{.kind = Kind::text, .expected = "a name of at most 63 bytes", .valid = valid_name};
constexpr Shape kNames{.kind = Kind::one_or_list, .expected = "a name or a list of names", .item = &kName};
constexpr Shape kNetwork{.kind = Kind::text, .expected = "an address or a network such as 10.0.0.0/8", .valid = valid_network};
constexpr Shape kNetworks{.kind = Kind::one_or_list, .expected = "a network or a list of networks", .item = &kNetwork};

constexpr std::array<Field, 5> kServerFields{{
    {"host", &kHost, required, "where the database is"},
    {"port", &kPort, optional, "its port (5432)"},
    {"tls", &kTls, optional, "how the gate speaks to it (off)"},
    {"ca_file", &kPath, optional, "whom to believe, for verify-ca and verify-full"},
    {"name", &kHost, optional, "the name in its certificate, if not `host`"},
}};
constexpr std::array<Field, 2> kTlsFields{{
    {"certificate_file", &kPath, required, "the certificate that clients see, with its chain"},
    {"key_file", &kPath, required, "its key"},
}};
constexpr std::array<Field, 3> kLookupFields{{
    {"user", &kName, required, "a role that may read pg_authid"},
    {"database", &kName, optional, "where it logs in (postgres)"},
    {"password_file", &kPath, required, "a file with its password"},
}};
constexpr std::array<Field, 5> kRuleFields{{
    {"over", &kOver, optional, "only clients that speak TLS, or that do not"},
    {"database", &kNames, optional, "only for these"},
    {"user", &kNames, optional, "only for these"},
    {"from", &kNetworks, optional, "only from there"},
    {"method", &kMethod, optional, "how they prove who they are (md5: SCRAM too)"},
}};
constexpr Shape kServer{.kind = Kind::object, .expected = "a map", .fields = kServerFields};
constexpr std::array<Field, 2> kServersFields{{
    {"old", &kServer, required, "where the databases are"},
    {"new", &kServer, required, "where they go"},
}};
constexpr Shape kServers{.kind = Kind::object, .expected = "a map of old and new", .fields = kServersFields};
constexpr Shape kClientTls{.kind = Kind::object, .expected = "a map", .fields = kTlsFields};
constexpr Shape kLookup{.kind = Kind::object, .expected = "a map", .fields = kLookupFields};
constexpr Shape kRule{.kind = Kind::object, .expected = "a map", .fields = kRuleFields};
constexpr Shape kRules{.kind = Kind::list, .expected = "a list of maps", .item = &kRule};

constexpr std::array<Field, 1> kMetricsFields{{
    {"listen", &kLoopback, required, "where Prometheus, on this host, may ask for them: http://.../metrics"},
}};
constexpr Shape kMetrics{.kind = Kind::object, .expected = "a map", .fields = kMetricsFields};
constexpr std::array<Field, 2> kTemporaryFields{{
    {"bytes", &kCount, optional, "of a session's tables and cursors together (1048576)"},
    {"tables", &kCount, optional, "of a session (20)"},
}};
constexpr Shape kTemporary{.kind = Kind::object, .expected = "a map", .fields = kTemporaryFields};

constexpr std::array<Field, 11> kGateFields{{
    {"listen", &kListen, required, "where clients come"},
    {"control", &kPath, required, "the socket for `midstream gate sessions`"},
    {"server", &kServer, optional, "the one primary behind the gate"},
    {"servers", &kServers, optional, "instead of it: two, of which the title says who is the primary of each database"},
    {"databases", &kNames, optional, "with `servers`: those databases; others are refused"},
    {"tls", &kClientTls, optional, "what it takes to speak TLS with clients"},
    {"lookup", &kLookup, required, "how the gate finds password verifiers"},
    {"clients", &kRules, optional, "who may come; the first rule that fits decides (all, with a password)"},
    {"metrics", &kMetrics, optional, "what the gate counts, over HTTP (off)"},
    {"temporary", &kTemporary, optional, "how much of a session's temporary tables and cursors WITH HOLD is copied at a switch"},
    {"threads", &kThreads, optional, "event loops (2)"},
}};
constexpr Shape kGate{.kind = Kind::object, .expected = "a map of the gate's settings", .fields = kGateFields};

gate::TlsUse tls_use(const std::string& word) {
  if (word == "require") return gate::TlsUse::require;
  if (word == "verify-ca") return gate::TlsUse::verify_ca;
  return word == "verify-full" ? gate::TlsUse::verify_full : gate::TlsUse::off;
}

gate::Rule build_rule(const MapReader& map) {
  gate::Rule rule;
  if (map.has("over")) rule.tls = map.text("over") == "tls";
  rule.databases = map.texts("database");
  rule.users = map.texts("user");
  for (const auto& network : map.texts("from")) rule.from.push_back(*gate::parse_network(network));
  const auto method = map.text("method", "md5");
  rule.method = method == "reject" ? gate::Method::reject : method == "md5" ? gate::Method::md5 : gate::Method::scram;
  return rule;
}

Result<gate::Secret> read_password(const std::string& path) {
  const auto text = TRY(read_file(path, 4'096));
  const auto password = text.substr(0, text.find('\n'));
  const bool ascii = std::ranges::all_of(password, [](char c) { return c > 0x1f && c < 0x7f; });
  if (password.empty() || !ascii)
    return refused(fmt::format("the password in {} is not printable ASCII", path),
                   "give the lookup role such a password: the gate does not normalize others (SASLprep)");
  return gate::Secret(password);
}

Result<gate::ServerConfig> build_server(const MapReader& server, const std::string& label) {
  gate::ServerConfig config{label, server.text("host"), static_cast<std::uint16_t>(server.integer("port", 5'432)), tls_use(server.text("tls")),
                            server.text("ca_file"), server.text("name")};
  if ((config.tls == gate::TlsUse::verify_ca || config.tls == gate::TlsUse::verify_full) && config.ca_file.empty())
    return refused(fmt::format("{}.tls is {}, and there is no {}.ca_file", label, server.text("tls"), label), "name the file with the CA's certificate");
  return config;
}

Result<gate::Config> build(const MapReader& root) {
  gate::Config config;
  const auto listen = parse_host_port(root.text("listen"));
  config.listen_address = listen->host;
  config.listen_port = listen->port;
  config.control = root.text("control");
  if (root.has("server") == root.has("servers"))
    return refused("gate.yaml names neither or both of `server` and `servers`", "`server` for one database server, `servers` for two and a switch");
  if (root.has("servers") != root.has("databases"))
    return refused("`servers` and `databases` belong together", "name the databases that the gate may switch");
  config.databases = root.texts("databases");
  if (root.has("server")) {
    config.servers.push_back(TRY(build_server(MapReader(*root.find("server"), "server"), "server")));
  } else {
    const MapReader servers(*root.find("servers"), "servers");
    for (const auto* label : {"old", "new"}) config.servers.push_back(TRY(build_server(MapReader(*servers.find(label), label), label)));
  }
  if (root.has("tls")) {
    const MapReader tls(*root.find("tls"), "tls");
    config.certificate_file = tls.text("certificate_file");
    config.key_file = tls.text("key_file");
  }
  const MapReader lookup(*root.find("lookup"), "lookup");
  config.lookup_user = lookup.text("user");
  config.lookup_database = lookup.text("database", "postgres");
  config.lookup_password = TRY(read_password(lookup.text("password_file")));
  for (const auto& rule : root.maps("clients")) config.rules.push_back(build_rule(rule));
  if (!root.has("clients")) config.rules.emplace_back();
  if (root.has("metrics")) {
    const auto metrics = parse_host_port(MapReader(*root.find("metrics"), "metrics").text("listen"));
    config.metrics_address = metrics->host;
    config.metrics_port = metrics->port;
  }
  if (root.has("temporary")) {
    const MapReader temporary(*root.find("temporary"), "temporary");
    config.temporary.bytes = static_cast<std::size_t>(temporary.integer("bytes", static_cast<std::int64_t>(config.temporary.bytes)));
    config.temporary.tables = static_cast<std::size_t>(temporary.integer("tables", static_cast<std::int64_t>(config.temporary.tables)));
  }
  config.threads = static_cast<int>(root.integer("threads", 2));
  return config;
}

}  // namespace

Result<gate::Config> parse_gate_config(std::string_view text, const std::string& file) {
  const auto tree = read_yaml(text);
  if (!tree) return refused(fmt::format("{}:{}:{}: {}", file, tree.error().at.line, tree.error().at.column, tree.error().text));
  const auto problems = check_shape(*tree->root, kGate, "");
  if (problems.empty()) return build(MapReader(*tree->root, ""));
  std::vector<std::string> lines;
  for (const auto& problem : problems) lines.push_back(fmt::format("{}:{}:{}: {}", file, problem.at.line, problem.at.column, problem.text));
  return refused(join(lines, "\n"));
}

}  // namespace midstream
