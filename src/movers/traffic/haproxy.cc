#include "movers/traffic/haproxy.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/text.h"
#include "sys/net.h"
#include "sys/stream.h"

namespace midstream::haproxy {

namespace {

constexpr std::size_t kMaxAnswer = 64u << 20;

Result<std::int64_t> number(std::string_view text, std::string_view what) {
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    return corrupt(fmt::format("HAProxy answered '{}' where {} was expected", printable(text), what));
  }
  return value;
}

// Fields of one CSV line; a quoted field may hold commas and doubled quotes.
std::vector<std::string> csv_fields(std::string_view line) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (c == '"') {
      if (quoted && i + 1 < line.size() && line[i + 1] == '"') {
        fields.back() += '"';
        ++i;
      } else {
        quoted = !quoted;
      }
    } else if (c == ',' && !quoted) {
      fields.emplace_back();
    } else {
      fields.back() += c;
    }
  }
  return fields;
}

std::vector<std::string> words(std::string_view line) {
  std::vector<std::string> out;
  for (auto& word : split(line, ' ')) {
    if (!word.empty()) out.push_back(std::move(word));
  }
  return out;
}

}  // namespace

std::string Server::state() const {
  if ((admin_state & kAnyMaint) != 0) return "MAINT";
  if ((admin_state & kAnyDrain) != 0) return "DRAIN";
  switch (op_state) {
    case 0: return "DOWN";
    case 1: return "STARTING";
    case 2: return "UP";
    default: return "STOPPING";
  }
}

std::int64_t stat_number(const StatRow& row, std::string_view column) {
  const auto found = row.find(column);
  return found == row.end() ? 0 : number(found->second, column).value_or(0);
}

std::string stat_text(const StatRow& row, std::string_view column) {
  const auto found = row.find(column);
  return found == row.end() ? "" : found->second;
}

// Columns are found by the names in the header: their number and order depend on the version.
Result<std::vector<Server>> parse_servers_state(std::string_view text) {
  std::vector<std::string> header;
  std::vector<Server> servers;
  for (const auto& raw : split(text, '\n')) {
    const auto line = trim(raw);
    if (line.empty() || line == "1") continue;
    auto fields = words(line);
    if (fields.front() == "#") {
      header.assign(fields.begin() + 1, fields.end());
      continue;
    }
    if (header.empty()) return refused(fmt::format("HAProxy answered '{}'", printable(line)));
    auto field = [&](std::string_view name) -> Result<std::string> {
      const auto at = std::find(header.begin(), header.end(), name);
      const auto index = static_cast<std::size_t>(at - header.begin());
      if (index >= fields.size()) return corrupt(fmt::format("HAProxy's server state has no column {}", name));
      return fields[index];
    };
    Server server;
    server.name = TRY(field("srv_name"));
    server.weight = static_cast<int>(TRY(number(TRY(field("srv_uweight")), "a weight")));
    server.initial_weight = static_cast<int>(TRY(number(TRY(field("srv_iweight")), "a weight")));
    server.op_state = static_cast<int>(TRY(number(TRY(field("srv_op_state")), "a state")));
    server.admin_state = static_cast<unsigned>(TRY(number(TRY(field("srv_admin_state")), "a state")));
    const auto port = TRY(number(field("srv_port").value_or("0"), "a port"));
    if (port < 0 || port > 65'535)
      return corrupt(fmt::format("HAProxy says that server {} has port {}", printable(server.name), port));
    server.port = static_cast<std::uint16_t>(port);
    const auto address = field("srv_addr").value_or("-");
    if (port != 0 && address.find_first_not_of("0123456789abcdefABCDEF.:") == std::string::npos)
      server.address = address;
    server.tls = field("srv_use_ssl").value_or("0") == "1";  // 2.4 and later
    servers.push_back(std::move(server));
  }
  if (header.empty()) return corrupt("HAProxy answered nothing where server states were expected");
  return servers;
}

Result<std::vector<StatRow>> parse_stat(std::string_view csv) {
  std::vector<std::string> header;
  std::vector<StatRow> rows;
  for (const auto& raw : split(csv, '\n')) {
    const auto line = trim(raw);
    if (line.empty()) continue;
    if (header.empty()) {
      if (!line.starts_with("# ")) return refused(fmt::format("HAProxy answered '{}'", printable(line)));
      header = csv_fields(line.substr(2));
      continue;
    }
    auto fields = csv_fields(line);
    if (fields.size() > header.size()) return corrupt("a row of HAProxy's statistics is longer than their header");
    StatRow row;
    for (std::size_t i = 0; i < fields.size(); ++i) row[header[i]] = std::move(fields[i]);
    rows.push_back(std::move(row));
  }
  if (header.empty()) return corrupt("HAProxy answered nothing where statistics were expected");
  return rows;
}

Result<Info> parse_info(std::string_view text) {
  Info info;
  for (const auto& line : split(text, '\n')) {
    const auto colon = line.find(": ");
    if (colon == std::string::npos) continue;
    const auto key = std::string_view(line).substr(0, colon);
    const auto value = trim(std::string_view(line).substr(colon + 2));
    if (key == "Version") info.version = value;
    if (key == "Pid") info.pid = TRY(number(value, "a process id"));
    if (key == "Start_time_sec") info.start_s = TRY(number(value, "a time"));
  }
  if (info.version.empty() || info.pid == 0) {
    return refused(fmt::format("'show info' was answered with '{}'", printable(trim(text).substr(0, 120))),
                   "is this HAProxy's runtime socket?");
  }
  return info;
}

Result<> parse_set_reply(std::string_view command, std::string_view reply) {
  const auto said = trim(reply);
  if (said.empty()) return {};
  if (said == "Permission denied") {
    return refused(fmt::format("HAProxy denied '{}'", command),
                   "give the stats socket 'level admin' in HAProxy's configuration");
  }
  return refused(fmt::format("HAProxy answered '{}' to '{}'", printable(said), command));
}

Result<std::string> Socket::ask(std::string_view command) const {
  auto connected = connect_unix(path_, deadline_);
  if (!connected) {
    Error error = connected.error();
    error.todo = "is HAProxy running, and is this its 'stats socket'?";
    return with_context(std::move(error), "HAProxy's runtime socket");
  }
  auto stream = make_fd_stream(*std::move(connected));
  CHECK_OK(stream->write_all(fmt::format("{}\n", command), deadline_, stop_));
  std::string answer;
  char buffer[16384];
  while (true) {
    auto got = stream->read_some(buffer, deadline_, stop_);
    if (!got) {
      const auto kind = command.starts_with("show ") ? ErrorKind::retry : ErrorKind::unknown;
      return failure(kind, fmt::format("HAProxy's runtime socket {} did not answer '{}': {}", path_.string(), command,
                                       got.error().what));
    }
    if (*got == 0) return answer;
    answer.append(buffer, *got);
    if (answer.size() > kMaxAnswer) return corrupt(fmt::format("HAProxy's answer to '{}' has no end", command));
  }
}

Result<Info> Socket::info() const { return parse_info(TRY(ask("show info"))); }

Result<std::vector<Server>> Socket::servers(const std::string& backend) const {
  const auto answer = TRY(ask(fmt::format("show servers state {}", backend)));
  if (trim(answer) == "Can't find backend.") return refused(fmt::format("HAProxy has no backend '{}'", backend));
  return parse_servers_state(answer);
}

Result<std::map<std::string, StatRow>> Socket::stat(const std::string& backend) const {
  std::map<std::string, StatRow> rows;
  for (auto& row : TRY(parse_stat(TRY(ask("show stat"))))) {
    const auto name = stat_text(row, "svname");
    if (stat_text(row, "pxname") == backend && name != "FRONTEND") rows[name] = std::move(row);
  }
  if (rows.empty()) return refused(fmt::format("HAProxy has no backend '{}'", backend));
  return rows;
}

Result<> Socket::set_weight(const std::string& backend, const std::string& server, int weight) const {
  const auto command = fmt::format("set server {}/{} weight {}", backend, server, weight);
  return parse_set_reply(command, TRY(ask(command)));
}

Result<> Socket::set_state(const std::string& backend, const std::string& server, std::string_view state) const {
  const auto command = fmt::format("set server {}/{} state {}", backend, server, state);
  return parse_set_reply(command, TRY(ask(command)));
}

Result<Server> find_server(const std::vector<Server>& servers, const std::string& backend, const std::string& name) {
  std::vector<std::string> names;
  for (const auto& server : servers) {
    if (server.name == name) return server;
    names.push_back(server.name);
  }
  return refused(fmt::format("HAProxy's backend {} has no server '{}'", backend, name),
                 fmt::format("it has {}", names.empty() ? "none" : join(names, ", ")));
}

bool is_proxy_name(std::string_view name) {
  return !name.empty() && name.size() < 128 && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.' || c == ':';
  });
}

}  // namespace midstream::haproxy
