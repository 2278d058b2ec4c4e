#include "movers/names/servers.h"

#include <fmt/format.h>
#include <netdb.h>

#include <algorithm>
#include <memory>
#include <set>
#include <thread>

#include "base/text.h"

namespace midstream::dns {

namespace {

constexpr Millis kPatience{2'000};  // for one question

Result<std::vector<std::string>> resolve(const std::string& host) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  const int failed = ::getaddrinfo(host.c_str(), nullptr, &hints, &found);
  if (failed != 0)
    return retry(fmt::format("cannot resolve name server {}: {}", host, ::gai_strerror(failed)));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owned(found, &::freeaddrinfo);
  std::vector<std::string> addresses;
  for (const auto* one = found; one != nullptr; one = one->ai_next) {
    char text[NI_MAXHOST];
    if (::getnameinfo(one->ai_addr, one->ai_addrlen, text, sizeof text, nullptr, 0, NI_NUMERICHOST) == 0)
      addresses.emplace_back(text);
  }
  return addresses;
}

Result<Endpoint> authoritative_one(const Context& context, const std::string& server, std::uint16_t port,
                                   const std::string& zone) {
  Error last{ErrorKind::retry, fmt::format("name server {} has no address", server), ""};
  for (const auto& address : TRY(resolve(server))) {
    const Endpoint at{address, port};
    const auto answer = ask(at, zone, Type::soa, context.deadline.sooner(kPatience), context.stop);
    if (!answer) {
      last = answer.error();
    } else if (!answer->authoritative || answer->values.empty()) {
      last = Error{ErrorKind::refused,
                   fmt::format("name server {} ({}) is not authoritative for zone {}: it answers {}", server,
                               address, zone, answer->rcode),
                   "name the zone's primary"};
    } else {
      return at;
    }
  }
  return std::unexpected(last);
}

// In-zone names are asked of the primary, so that nothing hangs on a resolver that may itself move.
std::vector<std::string> addresses_of(const Context& context, const Record& record, const Answer& set,
                                      const std::string& host) {
  std::set<std::string> found;
  for (const auto& glue : set.glue) {
    if (glue.name == host) found.insert(glue.address);
  }
  for (const auto type : {Type::a, Type::aaaa}) {
    const auto answer = ask(record.primary, host, type, context.deadline.sooner(kPatience), context.stop);
    if (answer && answer->authoritative) found.insert(answer->values.begin(), answer->values.end());
  }
  if (found.empty()) {
    const auto resolved = resolve(host);
    if (resolved) found.insert(resolved->begin(), resolved->end());
  }
  return {found.begin(), found.end()};
}

Seen ask_one(const Record& record, const NameServer& server, Deadline deadline, const std::stop_token& stop) {
  Seen seen{server, {}, 0, 0, ""};
  const auto answer = ask(server.at, record.name, record.type, deadline, stop);
  if (!answer) {
    seen.error = answer.error().what;
    return seen;
  }
  seen.values = answer->values;
  seen.ttl = answer->ttl;
  if (!answer->authoritative)
    seen.error = fmt::format("answers {} without authority", answer->rcode);
  else if (answer->values.empty())
    seen.error = fmt::format("answers {} without a {} record", answer->rcode, to_string(record.type));
  const auto soa = ask(server.at, record.zone, Type::soa, deadline, stop);
  if (soa && !soa->values.empty()) seen.serial = std::strtoll(soa->values[0].c_str(), nullptr, 10);
  return seen;
}

}  // namespace

std::string Record::text() const {
  return fmt::format("{} {}", to_string(type), name);
}

Result<Record> read_record(const Context& context, const Json& desired) {
  Record record;
  record.zone = TRY(canonical_name(TRY(get_string(desired, "zone"))));
  record.name = TRY(canonical_name(TRY(get_string(desired, "name"))));
  record.type = TRY(address_type(TRY(get_string(desired, "type"))));
  record.key_file = TRY(get_string(desired, "key_file"));
  const auto port = get_int_or(desired, "port", 53);
  if (port < 1 || port > 65535) return refused(fmt::format("{} is not a port", port));
  if (record.name != record.zone && !record.name.ends_with("." + record.zone)) {
    return refused(fmt::format("{} is not in zone {}", record.name, record.zone),
                   "correct the zone in the manifest");
  }
  record.primary = TRY(authoritative_one(context, TRY(get_string(desired, "server")),
                                         static_cast<std::uint16_t>(port), record.zone));
  return record;
}

Result<std::vector<NameServer>> name_servers(const Context& context, const Record& record) {
  const auto set =
      TRY(ask(record.primary, record.zone, Type::ns, context.deadline.sooner(kPatience), context.stop));
  if (set.values.empty())
    return refused(fmt::format("{} gives no NS records for zone {}", record.primary.address, record.zone));
  std::vector<NameServer> servers{{"primary", record.primary, true}};
  for (const auto& raw : set.values) {
    const auto host = TRY(canonical_name(raw));
    bool reachable = false;
    for (const auto& address : addresses_of(context, record, set, host)) {
      NameServer server{host, {address, record.primary.port}, true};
      server.reachable = has_route(server.at);
      reachable = reachable || server.reachable;
      const bool is_primary = address == record.primary.address;
      if (is_primary)
        servers[0].name = host;
      else
        servers.push_back(std::move(server));
    }
    if (!reachable) {
      return refused(
          fmt::format("name server {} of zone {} has no address that this host has a route to", host,
                      record.zone),
          "verify from a host that reaches every name server, or take the server out of the NS set");
    }
  }
  return servers;
}

std::vector<Seen> ask_all(const Context& context, const Record& record,
                          const std::vector<NameServer>& servers, Millis patience) {
  std::vector<Seen> seen;
  for (const auto& server : servers) {
    if (server.reachable) seen.push_back({server, {}, 0, 0, ""});
  }
  const auto deadline = context.deadline.sooner(patience);
  {
    std::vector<std::jthread> questions;
    for (auto& one : seen) {
      questions.emplace_back([&] { one = ask_one(record, one.server, deadline, context.stop); });
    }
  }
  return seen;
}

std::string disagreement(const std::vector<Seen>& seen, const std::string& value, std::int64_t ttl) {
  std::vector<std::string> reasons;
  for (const auto& one : seen) {
    const auto who = fmt::format("{} ({})", one.server.name, one.server.at.address);
    if (!one.error.empty())
      reasons.push_back(fmt::format("{}: {}", who, one.error));
    else if (one.values != std::vector{value})
      reasons.push_back(fmt::format("{} says {}", who, join(one.values, ", ")));
    else if (ttl >= 0 && one.ttl != ttl)
      reasons.push_back(fmt::format("{} gives a TTL of {} s", who, one.ttl));
  }
  return join(reasons, "; ");
}

Json to_json(const std::vector<Seen>& seen, const std::vector<NameServer>& servers) {
  Json list = Json::array();
  for (const auto& one : seen) {
    list.push_back({{"name", one.server.name},
                    {"address", one.server.at.address},
                    {"answer", join(one.values, ", ")},
                    {"ttl", one.ttl},
                    {"serial", one.serial},
                    {"error", one.error}});
  }
  for (const auto& server : servers) {
    if (server.reachable) continue;
    list.push_back(
        {{"name", server.name}, {"address", server.at.address}, {"skipped", "this host has no route there"}});
  }
  return list;
}

}  // namespace midstream::dns
