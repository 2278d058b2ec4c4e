#include "manifest/build.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/text.h"
#include "manifest/values.h"

namespace midstream {

std::vector<MapReader> MapReader::maps(std::string_view key) const {
  std::vector<MapReader> all;
  const auto* list = find(key);
  for (std::size_t i = 0; list != nullptr && i < list->items.size(); ++i) {
    all.emplace_back(*list->items[i], fmt::format("{}[{}]", path(key), i));
  }
  return all;
}

std::string MapReader::text(std::string_view key, std::string fallback) const {
  const auto* value = find(key);
  if (value != nullptr) return value->text;
  return fallback;
}

Span MapReader::span(std::string_view key, Span fallback) const {
  return has(key) ? parse_duration(text(key)).value_or(fallback) : fallback;
}

bool MapReader::flag(std::string_view key) const { return text(key) == "true"; }

std::int64_t MapReader::integer(std::string_view key, std::int64_t fallback) const {
  return has(key) ? parse_integer(text(key)).value_or(fallback) : fallback;
}

std::vector<const YamlNode*> MapReader::scalars(std::string_view key) const {
  const auto* value = find(key);
  if (value == nullptr) return {};
  return value->kind == YamlNode::Kind::list ? value->items : std::vector<const YamlNode*>{value};
}

std::vector<std::string> MapReader::texts(std::string_view key) const {
  std::vector<std::string> all;
  for (const auto* value : scalars(key)) all.push_back(value->text);
  return all;
}

Position MapReader::at(std::string_view key) const { return has(key) ? find(key)->at : node_->at; }

namespace {

class Builder {
 public:
  Builder(const YamlNode& root, std::vector<Problem>& problems) : root_(root, ""), problems_(problems) {}

  Manifest build();

 private:
  void add(Position at, const std::string& path, std::string text) {
    problems_.push_back({at, fmt::format("{}: {}", path, text)});
  }
  // A value of `key` that `seen` has already is a problem.
  void once(std::set<std::string>& seen, const YamlNode& value, const std::string& path) {
    if (!seen.insert(value.text).second) add(value.at, path, fmt::format("found {} a second time, expected it once", in_quotes(value.text)));
  }

  std::string host(const MapReader& from, std::string_view key);
  std::string default_host(std::string_view key, std::string_view name, std::string_view what);
  HostSpec host_spec(const MapReader& from, const std::string& name);
  Rules rules();
  GuardRules guard(const MapReader& from, GuardRules rules);
  Window window(const MapReader& from);
  ServiceSpec service(const MapReader& from, const std::string& name);
  ProbeSpec probe(const MapReader& from);
  std::vector<FilesSpec> files(const MapReader& from);
  PostgresSpec postgres(const MapReader& from);
  TrafficSpec traffic(const MapReader& from, bool with_postgres);
  MailSpec mail(const MapReader& from);
  void check_servers(const MapReader& from);
  std::vector<int> steps(const MapReader& from, bool with_postgres);
  NameSpec name(const MapReader& from, const std::optional<TrafficSpec>& traffic);
  void check_name(const MapReader& from, const NameSpec& name);
  void addresses();
  void units();
  void defaults();

  MapReader root_;
  std::vector<Problem>& problems_;
  Manifest manifest_;
  std::vector<std::string> host_names_;
  std::map<std::string, std::string> trees_;      // path to service
  std::map<std::string, std::string> backends_;   // "host backend" to service
  std::map<std::string, std::string> mails_;      // old host to service
  std::map<std::string, std::string> databases_;  // "host port database" to service
  std::set<std::string> names_;                   // "name type"
  std::string service_;                           // the one that is being built
};

// `owner[key]` becomes the service at hand; the one that had it before, if any.
std::string claim(std::map<std::string, std::string>& owners, const std::string& key, const std::string& service) {
  const auto [found, fresh] = owners.emplace(key, service);
  return fresh ? "" : found->second;
}

// One spelling an address, so that equal ones compare equal; what is none stays.
std::string canonical(const std::string& text) {
  const auto address = parse_address(text);
  return address ? to_string(*address) : text;
}

std::string Builder::host(const MapReader& from, std::string_view key) {
  const auto name = from.text(key);
  if (!name.empty() && std::ranges::find(host_names_, name) == host_names_.end()) {
    add(from.at(key), from.path(key), found_expected(name, fmt::format("a host ({})", join(host_names_, ", ")), host_names_));
  }
  return name;
}

// The host that the manifest names in `key`, else the one that is named `name`; it must be there for `what`.
std::string Builder::default_host(std::string_view key, std::string_view name, std::string_view what) {
  if (root_.has(key)) return host(root_, key);
  if (std::ranges::find(host_names_, name) != host_names_.end()) return std::string(name);
  if (!what.empty()) add(root_.at("hosts"), "hosts", fmt::format("found no host '{}', expected one, or '{}: HOST', {}", name, key, what));
  return "";
}

HostSpec Builder::host_spec(const MapReader& from, const std::string& name) {
  HostSpec spec{.name = name, .ssh = from.text("ssh")};
  if (from.has("ssh_config")) spec.ssh_config = from.text("ssh_config");
  const auto target = spec.ssh.substr(spec.ssh.find('@') + 1);
  spec.data = from.text("data", parse_address(target) ? target : "");
  spec.data = canonical(spec.data);
  if (from.has("at_least")) {
    const auto least = from.map("at_least");
    spec.at_least_memory = parse_size(least.text("memory")).value_or(0);
    spec.at_least_disk = parse_size(least.text("disk")).value_or(0);
    spec.at_least_cpus = static_cast<int>(least.integer("cpus", 0));
    spec.at_least_inodes = static_cast<std::uint64_t>(least.integer("inodes", 0));
  }
  spec.grow = parse_factor(from.text("grow")).value_or(0);
  return spec;
}

Window Builder::window(const MapReader& from) {
  Window window{.from_minute = parse_time(from.text("from")).value_or(0),
                .to_minute = parse_time(from.text("to")).value_or(0),
                .zone = from.text("zone")};
  std::set<int> days;
  for (const auto& text : from.texts("days")) {
    const auto some = parse_days(text).value_or(std::vector<int>());
    days.insert(some.begin(), some.end());
  }
  window.days.assign(days.begin(), days.end());
  if (window.to_minute <= window.from_minute) {
    add(from.at("to"), from.path("to"), found_expected(from.text("to"), fmt::format("a time after {}", from.text("from")), {}));
  }
  return window;
}

GuardRules Builder::guard(const MapReader& from, GuardRules rules) {
  if (!from.has("guard")) return rules;
  const auto said = from.map("guard");
  rules.enabled = said.has("enabled") ? said.flag("enabled") : rules.enabled;
  rules.errors = parse_share(said.text("errors")).value_or(rules.errors);
  rules.p95 = parse_factor(said.text("p95")).value_or(rules.p95);
  rules.floor = said.span("floor", rules.floor);
  rules.min_samples = said.integer("min_samples", rules.min_samples);
  rules.rate = said.integer("rate", rules.rate);
  return rules;
}

Rules Builder::rules() {
  Rules rules;
  if (!root_.has("rules")) return rules;
  const auto from = root_.map("rules");
  rules.downtime = from.span("downtime", rules.downtime);
  rules.observe = from.span("observe", rules.observe);
  rules.silence = from.span("silence", rules.silence);
  if (from.has("window")) rules.window = window(from.map("window"));
  rules.guard = guard(from, rules.guard);
  rules.confirm = from.texts("confirm");
  std::set<std::string> seen;
  for (const auto* phase : from.scalars("confirm")) once(seen, *phase, from.path("confirm"));
  return rules;
}

ProbeSpec Builder::probe(const MapReader& from) {
  ProbeSpec probe;
  for (const auto* kind : {"http", "tcp", "postgres"}) {
    if (!from.has(kind)) continue;
    probe.kind = kind;
    probe.target = from.text(kind);
  }
  // Every door that is named is part of one probe: mail is up when all are.
  for (const auto* door : {"smtp", "submission", "imap"}) {
    if (!from.has(door)) continue;
    if (probe.kind != "mail") probe = {.kind = "mail", .every = Span(500), .timeout = Span(5'000)};
    probe.target += fmt::format("{}{}={}", probe.target.empty() ? "" : " ", door, from.text(door));
  }
  if (probe.kind != "postgres" && from.has("write")) {
    add(from.at("write"), from.path("write"), fmt::format("found 'write' beside {}, expected it beside postgres only", probe.kind));
  }
  if (probe.kind != "postgres" && probe.kind != "mail" && from.has("password_file")) {
    add(from.at("password_file"), from.path("password_file"),
        fmt::format("found 'password_file' beside {}, expected it beside postgres or mail only", probe.kind));
  }
  probe.write = from.flag("write");
  probe.password_file = from.text("password_file");
  probe.every = from.span("every", probe.every);
  probe.timeout = from.span("timeout", probe.timeout);
  return probe;
}

std::vector<FilesSpec> Builder::files(const MapReader& from) {
  std::vector<FilesSpec> all;
  for (const auto& tree : from.maps("files")) {
    FilesSpec spec{.path = tree.text("path"), .both_ways = tree.flag("both_ways"), .except = tree.texts("except")};
    if (spec.path.size() > 1 && spec.path.ends_with('/')) spec.path.pop_back();
    if (spec.path == "/") add(tree.at("path"), tree.path("path"), "found '/', expected a tree below it");
    for (const auto& [other, owner] : trees_) {
      if ((spec.path + "/").starts_with(other + "/") || (other + "/").starts_with(spec.path + "/")) {
        add(tree.at("path"), tree.path("path"),
            fmt::format("found {}, expected a tree apart from '{}' of service {}", in_quotes(spec.path), printable(other), owner));
        break;
      }
    }
    trees_.emplace(spec.path, service_);
    std::set<std::string> seen;
    for (const auto* pattern : tree.scalars("except")) once(seen, *pattern, tree.path("except"));
    all.push_back(std::move(spec));
  }
  return all;
}

PostgresSpec Builder::postgres(const MapReader& from) {
  const auto cluster = [&](std::string_view key) {
    const auto side = from.map(key);
    return ClusterSpec{host(side, "host"), static_cast<std::uint16_t>(side.integer("port", 5432))};
  };
  PostgresSpec spec{.old_side = cluster("old"), .new_side = cluster("new"), .databases = from.texts("databases")};
  spec.deadline = from.span("deadline", spec.deadline);
  spec.verify_age = from.span("verify_age", spec.verify_age);
  spec.road = from.text("road", spec.road);
  spec.sync_reverse = from.text("reverse", "") == "sync";
  if (from.text("commit_latency", "") == "off") spec.commit_latency = Span(0);
  else spec.commit_latency = from.span("commit_latency", spec.commit_latency);
  if (from.has("limit")) spec.limit = parse_size(from.text("limit")).value_or(0);
  if (spec.limit > 0 && spec.road == "logical") add(from.at("limit"), from.path("limit"), "found a limit of the logical road, expected one of the seeded or the physical road only");
  if (spec.old_side.host == spec.new_side.host) {
    add(from.at("new"), from.path("new"), found_expected(spec.new_side.host, "another host than that of 'old'", {}));
  }
  std::set<std::string> seen;
  for (const auto* database : from.scalars("databases")) {
    once(seen, *database, from.path("databases"));
    if (database->text == "template0" || database->text == "template1") {
      add(database->at, from.path("databases"), found_expected(database->text, "a database of users", {}));
    }
    const auto key = fmt::format("{} {} {}", spec.old_side.host, spec.old_side.port, database->text);
    const auto owner = claim(databases_, key, service_);
    if (!owner.empty() && owner != service_) {
      add(database->at, from.path("databases"), found_expected(database->text, fmt::format("a database that is not service {}'s", owner), {}));
    }
  }
  return spec;
}

std::vector<int> Builder::steps(const MapReader& from, bool with_postgres) {
  if (with_postgres) {
    if (from.has("steps")) {
      add(from.at("steps"), from.path("steps"),
          "found steps beside postgres, expected none: the backend follows the database's owner by health check");
    }
    return {};
  }
  std::vector<int> steps;
  if (!from.has("steps")) add(from.at(), from.path(), "found no 'steps', expected percentages that rise to 100 such as [1, 5, 25, 50, 100]");
  for (const auto* value : from.scalars("steps")) {
    const int percent = parse_percent(value->text).value_or(0);
    if (!steps.empty() && percent <= steps.back()) {
      add(value->at, from.path("steps"), found_expected(value->text, fmt::format("more than {}", steps.back()), {}));
      return steps;
    }
    steps.push_back(percent);
  }
  if (!steps.empty() && steps.back() != 100) {
    const auto* last = from.scalars("steps").back();
    add(last->at, from.path("steps"), found_expected(last->text, "100 as the last step", {}));
  }
  return steps;
}

void Builder::check_servers(const MapReader& from) {
  std::set<std::string> seen;
  for (const auto* key : {"old", "new"}) {
    for (const auto* server : from.scalars(key)) once(seen, *server, from.path(key));
  }
}

TrafficSpec Builder::traffic(const MapReader& from, bool with_postgres) {
  TrafficSpec spec;
  spec.haproxy = host(from, "haproxy");
  spec.socket = from.text("socket", spec.socket);
  spec.config = from.text("config", spec.config);
  spec.backend = from.text("backend");
  spec.old_servers = from.texts("old");
  spec.new_servers = from.texts("new");
  spec.steps = steps(from, with_postgres);
  spec.hold = from.span("hold", spec.hold);
  spec.drain = from.span("drain", spec.drain);
  check_servers(from);
  const auto owner = claim(backends_, spec.haproxy + " " + spec.backend, service_);
  if (!owner.empty()) {
    add(from.at("backend"), from.path("backend"), found_expected(spec.backend, fmt::format("a backend that is not service {}'s", owner), {}));
  }
  return spec;
}

MailSpec Builder::mail(const MapReader& from) {
  const auto dovecot = from.map("dovecot");
  const auto postfix = from.map("postfix");
  MailSpec spec{host(dovecot, "old"), host(dovecot, "new"), {}};
  if (spec.old_host == spec.new_host) add(dovecot.at("new"), dovecot.path("new"), found_expected(spec.new_host, "another host than 'old'", {}));
  for (const auto* side : {"old", "new"}) {
    if (host(postfix, side) == host(dovecot, side)) continue;
    add(postfix.at(side), postfix.path(side), found_expected(postfix.text(side), fmt::format("Dovecot's host, {}", dovecot.text(side)), {}));
  }
  spec.steps = from.has("steps") ? steps(from, false) : std::vector<int>{10, 100};
  const auto owner = claim(mails_, spec.old_host, service_);
  if (!owner.empty()) add(from.at("dovecot"), from.path("dovecot"), found_expected(spec.old_host, fmt::format("a host whose mail is not service {}'s", owner), {}));
  return spec;
}

NameSpec Builder::name(const MapReader& from, const std::optional<TrafficSpec>& traffic) {
  NameSpec spec{.name = from.text("name"), .type = from.text("type"), .server = from.text("server")};
  spec.zone = from.text("zone", spec.name.substr(spec.name.find('.') + 1));
  spec.key_file = from.text("key_file");
  spec.old_value = from.text("old");
  spec.new_value = from.text("new");
  spec.ttl = from.span("ttl", spec.ttl);
  if (from.has("via")) {
    spec.via = host(from, "via");
  } else if (traffic) {
    spec.via = traffic->haproxy;
  } else {
    add(from.at(), from.path(), "found no 'via', expected the host that sends the update (the service has no HAProxy host)");
  }
  check_name(from, spec);
  for (auto* value : {&spec.old_value, &spec.new_value}) *value = canonical(*value);
  return spec;
}

void Builder::check_name(const MapReader& from, const NameSpec& name) {
  if (!names_.insert(name.name + " " + name.type).second) {
    add(from.at("name"), from.path("name"), fmt::format("found {} {} a second time, expected it once", in_quotes(name.name), name.type));
  }
  if (!from.has("zone") && std::ranges::count(name.name, '.') < 3) {
    add(from.at("name"), from.path("name"), found_expected(name.name, "a 'zone' beside a name of so few labels", {}));
  } else if (name.name != name.zone && !name.name.ends_with("." + name.zone)) {
    add(from.at("zone"), from.path("zone"), found_expected(name.zone, fmt::format("a zone that holds {}", name.name), {}));
  }
  for (const auto* key : {"old", "new"}) {
    const auto value = from.text(key);
    if (parse_address(value).value_or(Address()).v6 != (name.type == "AAAA")) {
      add(from.at(key), from.path(key),
          found_expected(value, name.type == "AAAA" ? "an IPv6 address for AAAA" : "an IPv4 address for A", {}));
    }
  }
  if (parse_address(name.old_value) == parse_address(name.new_value)) {
    add(from.at("new"), from.path("new"), found_expected(name.new_value, "another address than 'old'", {}));
  }
}

ServiceSpec Builder::service(const MapReader& from, const std::string& name_of_it) {
  service_ = name_of_it;
  ServiceSpec spec{.name = name_of_it, .needs = from.texts("needs")};
  spec.budget = from.span("budget", spec.budget);
  if (from.has("probe")) spec.probe = probe(from.map("probe"));
  spec.files = files(from);
  if (from.has("postgres")) spec.postgres = postgres(from.map("postgres"));
  if (from.has("gate")) {
    const auto gate = from.map("gate");
    spec.gate = GateSpec{host(gate, "host"), gate.text("listen"), gate.span("close_idle", Span(0))};
    if (!spec.postgres) add(from.at("gate"), from.path("gate"), "found a gate of a service without postgres, expected none");
  }
  if (from.has("traffic")) spec.traffic = traffic(from.map("traffic"), spec.postgres.has_value());
  if (from.has("mail")) spec.mail = mail(from.map("mail"));
  for (const auto& one : from.maps("names")) spec.names.push_back(name(one, spec.traffic));
  spec.guard = guard(from, manifest_.rules.guard);
  if (from.has("guard") && (!spec.traffic || spec.traffic->steps.empty()))
    add(from.at("guard"), from.path("guard"), "found a guard of a service whose traffic does not shift by steps, expected none");
  return spec;
}

void Builder::addresses() {
  for (const auto& from : root_.maps("addresses")) {
    const bool moves = from.has("subnet");
    const auto kind = std::string(moves ? "subnet" : "pool");
    for (const auto* key : {"from", "to", "for"}) {
      const bool wanted = (std::string_view(key) == "for") != moves;
      if (wanted && !from.has(key)) add(from.at(), from.path(), fmt::format("found no '{}', expected it beside {}", key, kind));
    }
    for (const auto* key : {"from", "to", "for", "release", "addresses", "gateway"}) {
      const bool of_pools = std::string_view(key) == "for" || std::string_view(key) == "release";
      const bool wanted = of_pools != moves;
      if (!wanted && from.has(key)) add(from.at(key), from.path(key), fmt::format("found '{}' beside {}, expected none", key, kind));
    }
    if (!moves) {
      manifest_.pools.push_back({from.text("pool"), host(from, "for"), from.flag("release")});
      continue;
    }
    const auto end = [&](std::string_view key) {
      if (!from.has(key)) return EndSpec{};
      const auto side = from.map(key);
      return EndSpec{host(side, "host"), side.text("dev")};
    };
    SubnetSpec spec{.subnet = from.text("subnet"), .addresses = from.texts("addresses"), .from = end("from"), .to = end("to")};
    spec.gateway = canonical(from.text("gateway"));
    for (auto& address : spec.addresses) address = canonical(address);
    if (!spec.to.host.empty() && spec.from.host == spec.to.host) {
      add(from.at("to"), from.path("to"), found_expected(spec.to.host, "another host than that of 'from'", {}));
    }
    manifest_.subnets.push_back(std::move(spec));
  }
}

void Builder::units() {
  std::set<std::string> seen;
  for (const auto& from : root_.maps("units")) {
    UnitSpec unit{.name = from.text("name")};
    unit.deadline = from.span("deadline", unit.deadline);
    if (!seen.insert(unit.name).second) {
      add(from.at("name"), from.path("name"), fmt::format("found {} a second time, expected it once", in_quotes(unit.name)));
    }
    manifest_.units.push_back(std::move(unit));
  }
  std::set<std::string> accepted;
  for (const auto* line : root_.scalars("accept")) once(accepted, *line, "accept");
  manifest_.accept = root_.texts("accept");
}

void Builder::defaults() {
  const bool measured = !manifest_.subnets.empty() ||
                        std::ranges::any_of(manifest_.services, [](const ServiceSpec& s) { return s.probe.has_value(); });
  manifest_.vantage = default_host("vantage", "out", measured ? "where probes run" : "");
  if (root_.has("verifier")) manifest_.verifier = host(root_, "verifier");
  for (const auto& service : manifest_.services) {
    if (!manifest_.verifier.empty() || !service.traffic) continue;
    const auto& third = service.traffic->haproxy;
    if (third != manifest_.old_host && third != manifest_.new_host) manifest_.verifier = third;
  }
}

Manifest Builder::build() {
  manifest_.move = root_.text("move");
  for (const auto& entry : root_.find("hosts")->entries) host_names_.push_back(entry.key);
  for (const auto& entry : root_.find("hosts")->entries) {
    manifest_.hosts.push_back(host_spec({*entry.value, path_to("hosts", entry.key)}, entry.key));
  }
  const YamlNode empty{.kind = YamlNode::Kind::map};
  const MapReader sides = root_.has("sides") ? root_.map("sides") : MapReader(empty, "sides");
  const auto side = [&](std::string_view key) {
    if (sides.has(key)) return host(sides, key);
    if (std::ranges::find(host_names_, key) == host_names_.end()) {
      add(root_.at("hosts"), "hosts", fmt::format("found no host '{0}', expected one, or 'sides: {{{0}: HOST}}'", key));
    }
    return std::string(key);
  };
  manifest_.old_host = side("old");
  manifest_.new_host = side("new");
  if (manifest_.old_host == manifest_.new_host) {
    add(sides.at(), "sides", found_expected(manifest_.new_host, "two hosts", {}));
  }
  for (const auto& host : manifest_.hosts) {
    if (host.grow > 0 && host.name == manifest_.old_host) {
      add(root_.at("hosts"), path_to("hosts", host.name), "found 'grow' at the host that is moved from, expected it at the new one");
    }
  }
  manifest_.rules = rules();
  const auto& services = *root_.find("services");
  std::vector<ServiceSpec> all;
  for (const auto& entry : services.entries) all.push_back(service({*entry.value, path_to("services", entry.key)}, entry.key));
  manifest_.services = order_services(std::move(all), services, problems_);
  addresses();
  units();
  if (root_.has("after")) {
    manifest_.after_old = root_.map("after").text("old", manifest_.after_old);
    manifest_.after_accept = root_.map("after").texts("accept");
  }
  defaults();
  check_addresses(manifest_, root_.node(), problems_);
  return std::move(manifest_);
}

}  // namespace

Manifest build_manifest(const YamlNode& root, std::vector<Problem>& problems) { return Builder(root, problems).build(); }

}  // namespace midstream
