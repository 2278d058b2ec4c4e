#include "probe/config.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <set>

#include "base/text.h"

namespace midstream {

namespace {

constexpr std::size_t kMostTargets = 1'024;

Result<> known_only(const Json& object, const std::set<std::string>& known, std::string_view where) {
  if (!object.is_object()) return refused(fmt::format("probe configuration: {} is not an object", where));
  for (const auto& [key, value] : object.items()) {
    if (!known.contains(key)) return refused(fmt::format("probe configuration: {} has the unknown field '{}'", where, printable(key)));
  }
  return {};
}

Result<std::chrono::milliseconds> span_of(const Json& object, std::string_view key, std::chrono::milliseconds fallback,
                                          std::int64_t least) {
  if (!object.contains(key)) return fallback;
  const auto ms = TRY(get_int(object, key));
  if (ms < least || ms > 3'600'000) return refused(fmt::format("probe configuration: {} is {}, not {} to 3600000", key, ms, least));
  return std::chrono::milliseconds(ms);
}

Result<> check_target(const ServiceProbe& service) {
  if (service.kind == "http") {
    if (auto good = parse_http_target(service.target); !good) return std::unexpected(good.error());
  } else if (service.kind == "tcp") {
    if (auto good = parse_tcp_target(service.target); !good) return std::unexpected(good.error());
  } else if (service.kind == "mail") {
    if (auto good = parse_mail_target(service.target); !good) return std::unexpected(good.error());
  } else if (service.kind != "postgres") {
    return refused(fmt::format("probe configuration: '{}' is no kind of probe", printable(service.kind)), "use http, tcp, postgres or mail");
  }
  return {};
}

bool is_table_name(std::string_view name) {
  return !name.empty() && name.size() <= 127 && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_' || c == '.';
  });
}

Result<ServiceProbe> service_of(const Json& json) {
  CHECK_OK(known_only(json, {"name", "kind", "target", "write", "table", "password_file", "every_ms", "timeout_ms", "slow_ms"}, "a service"));
  ServiceProbe service{.name = TRY(get_string(json, "name")), .kind = TRY(get_string(json, "kind")), .target = TRY(get_string(json, "target"))};
  service.write = get_bool_or(json, "write", false);
  service.table = get_string_or(json, "table", service.table);
  service.password_file = get_string_or(json, "password_file", "");
  // Mail is slower to say hello, and what comes back within 5 s was a pause.
  using std::chrono::milliseconds;
  if (service.kind == "mail") {
    service.every = milliseconds(500);
    service.timeout = milliseconds(5'000);
    service.slow = milliseconds(1'000);
  }
  service.every = TRY(span_of(json, "every_ms", service.every, 5));
  service.timeout = TRY(span_of(json, "timeout_ms", service.timeout, 1));
  service.slow = TRY(span_of(json, "slow_ms", std::min(service.slow, service.timeout), 1));
  if (!is_plain_name(service.name)) return refused(fmt::format("probe configuration: '{}' is no name of a service", printable(service.name)));
  if (!is_table_name(service.table)) return refused(fmt::format("probe configuration: '{}' is no name of a table", printable(service.table)));
  CHECK_OK(check_target(service));
  return service;
}

Result<AddressProbe> address_of(const Json& json) {
  CHECK_OK(known_only(json, {"address", "every_ms", "timeout_ms"}, "an address"));
  AddressProbe probe{.address = TRY(get_string(json, "address"))};
  probe.every = TRY(span_of(json, "every_ms", probe.every, 5));
  probe.timeout = TRY(span_of(json, "timeout_ms", probe.timeout, 1));
  unsigned char bytes[16];
  const auto* text = probe.address.c_str();
  if (::inet_pton(AF_INET, text, bytes) != 1 && ::inet_pton(AF_INET6, text, bytes) != 1) {
    return refused(fmt::format("probe configuration: '{}' is no numeric address", printable(probe.address)));
  }
  return probe;
}

Result<Json> list_of(const Json& json, std::string_view key) {
  if (!json.contains(key)) return Json::array();
  if (!json[key].is_array()) return refused(fmt::format("probe configuration: '{}' is not a list", key));
  return json[key];
}

Result<std::uint16_t> port_of(std::string_view text) {
  std::uint16_t port = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (failed != std::errc() || end != text.data() + text.size() || port == 0) {
    return refused(fmt::format("probe configuration: '{}' is no port", printable(text)));
  }
  return port;
}

}  // namespace

Result<ProbeConfig> parse_probe_config(const Json& json) {
  CHECK_OK(known_only(json, {"log", "services", "addresses"}, "it"));
  ProbeConfig config{.log = TRY(get_string(json, "log"))};
  if (config.log.empty()) return refused("probe configuration: 'log' is empty");
  std::set<std::string> seen;
  const auto fresh = [&](const std::string& name) -> Result<> {
    if (seen.insert(name).second) return {};
    return refused(fmt::format("probe configuration: '{}' is there twice", printable(name)));
  };
  for (const auto& service : TRY(list_of(json, "services"))) {
    config.services.push_back(TRY(service_of(service)));
    CHECK_OK(fresh(config.services.back().name));
  }
  for (const auto& address : TRY(list_of(json, "addresses"))) {
    config.addresses.push_back(TRY(address_of(address)));
    CHECK_OK(fresh(config.addresses.back().address));
  }
  if (seen.empty()) return refused("probe configuration: neither a service nor an address to probe");
  if (seen.size() > kMostTargets) return refused(fmt::format("probe configuration: more than {} targets", kMostTargets));
  return config;
}

Json to_json(const ProbeConfig& config) {
  Json services = Json::array();
  for (const auto& s : config.services) {
    services.push_back({{"name", s.name}, {"kind", s.kind}, {"target", s.target}, {"write", s.write}, {"table", s.table},
                        {"password_file", s.password_file}, {"every_ms", s.every.count()},
                        {"timeout_ms", s.timeout.count()}, {"slow_ms", s.slow.count()}});
  }
  Json addresses = Json::array();
  for (const auto& a : config.addresses) {
    addresses.push_back({{"address", a.address}, {"every_ms", a.every.count()}, {"timeout_ms", a.timeout.count()}});
  }
  return {{"log", config.log.string()}, {"services", std::move(services)}, {"addresses", std::move(addresses)}};
}

Result<TcpTarget> parse_tcp_target(const std::string& text) {
  const auto colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return refused(fmt::format("probe configuration: '{}' is not host:port", printable(text)));
  const auto port = TRY(port_of(std::string_view(text).substr(colon + 1)));
  TcpTarget target{text.substr(0, colon), port};
  if (target.host.starts_with('[') && target.host.ends_with(']')) target.host = target.host.substr(1, target.host.size() - 2);
  return target;
}

Result<std::vector<MailDoor>> parse_mail_target(const std::string& text) {
  std::vector<MailDoor> doors;
  for (const auto& word : split(text, ' ')) {
    const auto equals = std::min(word.find('='), word.size());
    const auto protocol = word.substr(0, equals);
    const bool known = protocol == "smtp" || protocol == "submission" || protocol == "imap";
    if (!known || equals == word.size() || std::ranges::find(doors, protocol, &MailDoor::protocol) != doors.end()) {
      return refused(fmt::format("probe configuration: '{}' is no list of smtp=, submission= and imap=host:port, each once", printable(text)));
    }
    doors.push_back({protocol, TRY(parse_tcp_target(word.substr(equals + 1)))});
  }
  return doors;
}

Result<HttpTarget> parse_http_target(const std::string& url) {
  HttpTarget target;
  std::string_view rest = url;
  const bool plain = std::ranges::none_of(url, [](char c) { return static_cast<unsigned char>(c) <= ' ' || c == 0x7f; });
  target.tls = rest.starts_with("https://");
  if (!plain || (!target.tls && !rest.starts_with("http://"))) {
    return refused(fmt::format("probe configuration: '{}' is no http:// or https:// URL", printable(url)));
  }
  rest.remove_prefix(target.tls ? 8 : 7);
  const auto slash = std::min(rest.find('/'), rest.size());
  target.authority = rest.substr(0, slash);
  if (slash < rest.size()) target.path = rest.substr(slash);
  target.port = target.tls ? 443 : 80;
  target.host = target.authority;
  const auto& name = target.authority;
  if (name.empty() || name.contains('@')) return refused("probe configuration: a URL has no host, or a user in it");
  const bool bracketed = name.ends_with(']');
  if (!bracketed && name.contains(':')) {
    const auto where = TRY(parse_tcp_target(name));
    target.host = where.host;
    target.port = where.port;
  } else if (bracketed) {
    target.host = name.substr(1, name.size() - 2);
  }
  return target;
}

}  // namespace midstream
