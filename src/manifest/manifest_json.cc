// The manifest as JSON: every field, in a fixed spelling, so that equal manifests have equal hashes.
#include "manifest/manifest.h"

namespace midstream {

namespace {

Json json_of(const HostSpec& host) {
  Json json{{"name", host.name}, {"ssh", host.ssh}, {"data", host.data}};
  json["ssh_config"] = host.ssh_config ? Json(*host.ssh_config) : Json();
  json["at_least"] = {{"memory", host.at_least_memory}, {"disk", host.at_least_disk}, {"cpus", host.at_least_cpus},
                      {"inodes", host.at_least_inodes}};
  json["grow"] = host.grow;
  return json;
}

Json json_of(const GuardRules& guard) {
  return {{"enabled", guard.enabled}, {"errors", guard.errors},           {"p95", guard.p95},
          {"floor_ms", guard.floor.count()}, {"min_samples", guard.min_samples}, {"rate", guard.rate}};
}

Json json_of(const Rules& rules) {
  Json json{{"downtime_ms", rules.downtime.count()},
            {"observe_ms", rules.observe.count()},
            {"silence_ms", rules.silence.count()},
            {"window", nullptr},
            {"guard", json_of(rules.guard)},
            {"confirm", rules.confirm}};
  if (rules.window) {
    json["window"] = {{"days", rules.window->days},
                      {"from_minute", rules.window->from_minute},
                      {"to_minute", rules.window->to_minute},
                      {"zone", rules.window->zone}};
  }
  return json;
}

Json json_of(const ProbeSpec& probe) {
  return {{"kind", probe.kind},
          {"target", probe.target},
          {"write", probe.write},
          {"password_file", probe.password_file},
          {"every_ms", probe.every.count()},
          {"timeout_ms", probe.timeout.count()}};
}

Json json_of(const FilesSpec& files) {
  return {{"path", files.path}, {"both_ways", files.both_ways}, {"except", files.except}};
}

Json json_of(const ClusterSpec& cluster) { return {{"host", cluster.host}, {"port", cluster.port}}; }

Json json_of(const PostgresSpec& postgres) {
  return {{"old", json_of(postgres.old_side)},
          {"new", json_of(postgres.new_side)},
          {"databases", postgres.databases},
          {"road", postgres.road},
          {"limit", postgres.limit},
          {"reverse", postgres.sync_reverse ? "sync" : "async"},
          {"commit_latency_ms", postgres.commit_latency.count()},
          {"deadline_ms", postgres.deadline.count()},
          {"verify_age_ms", postgres.verify_age.count()}};
}

Json json_of(const GateSpec& gate) { return {{"host", gate.host}, {"listen", gate.listen}, {"close_idle_ms", gate.close_idle.count()}}; }

Json json_of(const MailSpec& mail) { return {{"old", mail.old_host}, {"new", mail.new_host}, {"steps", mail.steps}}; }

Json json_of(const TrafficSpec& traffic) {
  return {{"haproxy", traffic.haproxy},    {"socket", traffic.socket},       {"config", traffic.config},
          {"backend", traffic.backend},    {"old", traffic.old_servers},     {"new", traffic.new_servers},
          {"steps", traffic.steps},        {"hold_ms", traffic.hold.count()}, {"drain_ms", traffic.drain.count()}};
}

Json json_of(const NameSpec& name) {
  return {{"name", name.name}, {"type", name.type},     {"server", name.server},  {"zone", name.zone},
          {"via", name.via},   {"key_file", name.key_file}, {"old", name.old_value}, {"new", name.new_value},
          {"ttl_ms", name.ttl.count()}};
}

Json json_of(const SubnetSpec& subnet) {
  return {{"subnet", subnet.subnet},
          {"addresses", subnet.addresses},
          {"from", {{"host", subnet.from.host}, {"dev", subnet.from.dev}}},
          {"to", {{"host", subnet.to.host}, {"dev", subnet.to.dev}}},
          {"gateway", subnet.gateway}};
}

Json json_of(const PoolSpec& pool) { return {{"pool", pool.pool}, {"for", pool.for_host}, {"release", pool.release}}; }

Json json_of(const UnitSpec& unit) { return {{"name", unit.name}, {"deadline_ms", unit.deadline.count()}}; }

Json json_of(const ServiceSpec& service);

template <class Item>
Json list_of(const std::vector<Item>& items) {
  Json list = Json::array();
  for (const auto& item : items) list.push_back(json_of(item));
  return list;
}

Json json_of(const ServiceSpec& service) {
  return {{"name", service.name},
          {"needs", service.needs},
          {"probe", service.probe ? json_of(*service.probe) : Json()},
          {"budget_ms", service.budget.count()},
          {"files", list_of(service.files)},
          {"postgres", service.postgres ? json_of(*service.postgres) : Json()},
          {"gate", service.gate ? json_of(*service.gate) : Json()},
          {"traffic", service.traffic ? json_of(*service.traffic) : Json()},
          {"mail", service.mail ? json_of(*service.mail) : Json()},
          {"names", list_of(service.names)},
          {"guard", json_of(service.guard)}};
}

}  // namespace

Json to_json(const Manifest& manifest) {
  return {{"move", manifest.move},
          {"old_host", manifest.old_host},
          {"new_host", manifest.new_host},
          {"vantage", manifest.vantage},
          {"verifier", manifest.verifier},
          {"hosts", list_of(manifest.hosts)},
          {"rules", json_of(manifest.rules)},
          {"services", list_of(manifest.services)},
          {"subnets", list_of(manifest.subnets)},
          {"pools", list_of(manifest.pools)},
          {"units", list_of(manifest.units)},
          {"accept", manifest.accept},
          {"after_old", manifest.after_old},
          {"after_accept", manifest.after_accept}};
}

}  // namespace midstream
