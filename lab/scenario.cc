#include "lab/scenario.h"

#include <fmt/format.h>

#include "base/text.h"

namespace midstream::lab {

std::string_view to_string(Role role) {
  switch (role) {
    case Role::edge: return "edge";
    case Role::old_side: return "old";
    case Role::new_side: return "new";
    case Role::ns1: return "ns1";
    case Role::ns2: return "ns2";
    case Role::out: return "out";
    case Role::ops: return "ops";
  }
  return "";
}

const std::string& Scenario::host(Role role) const {
  switch (role) {
    case Role::edge: return edge;
    case Role::old_side: return old_host;
    case Role::new_side: return new_host;
    case Role::ns1: return ns1;
    case Role::ns2: return ns2;
    case Role::out: return out;
    case Role::ops: return ops;
  }
  return ops;
}

std::vector<HostPlan> Scenario::hosts() const {
  const Port mgmt{"mgmt0", "mgmt"};
  const Port pub{"eth0", "pub"};
  const Port wan{"wan0", "wan"};
  return {
      {Role::edge, edge, std::string(kEdgeMgmt), {mgmt, pub, wan}, 128},
      {Role::old_side, old_host, std::string(kOldMgmt), {mgmt, pub}, 600},
      {Role::new_side, new_host, std::string(kNewMgmt), {mgmt, pub}, 600},
      {Role::ns1, ns1, std::string(kNs1Mgmt), {mgmt, wan}, 128},
      {Role::ns2, ns2, std::string(kNs2Mgmt), {mgmt, wan}, 128},
      {Role::out, out, std::string(kOutMgmt), {mgmt, wan}, 256},
      {Role::ops, ops, std::string(kOpsMgmt), {mgmt}, 256},
  };
}

namespace {

Scenario demo() {
  Scenario s;
  s.name = "demo";
  s.edge = "edge", s.old_host = "old", s.new_host = "new", s.ns1 = "ns1", s.ns2 = "ns2", s.out = "out", s.ops = "ops";
  s.web_service = "web", s.db_service = "db";
  s.database = "shop", s.app_role = "shop", s.probe_role = "probe";
  s.web_backend = "web", s.db_backend = "db";
  s.web_old = {"web-old-1", "web-old-2"}, s.web_new = {"web-new-1", "web-new-2"};
  s.db_old = "db-old", s.db_new = "db-new", s.db_gate = "db-gate";
  s.app_services = {"shop-1", "shop-2"};
  s.zone = "prod.example.", s.web_name = "shop.prod.example.", s.db_name = "db.prod.example.";
  s.tsig_key = "midstream";
  s.mail_service = "mail", s.mail_domain = "prod.example";
  s.mx_name = "mx.prod.example.", s.imap_name = "imap.prod.example.";
  s.mail_users = {"user01", "user02", "user03", "user04", "user05", "user06", "user07", "user08"};
  s.mail_probe = "probe", s.sink_domain = "world.example.";
  s.unit = "invoices";
  s.tree = "/srv/shop";
  return s;
}

// The same environment in which nothing is called what it is called above.
Scenario other() {
  Scenario s;
  s.name = "other";
  s.edge = "gate7", s.old_host = "pluto", s.new_host = "venus", s.ns1 = "dns-a", s.ns2 = "dns-b";
  s.out = "lookout", s.ops = "desk";
  s.web_service = "store", s.db_service = "ledger";
  s.database = "trade", s.app_role = "trader", s.probe_role = "watcher";
  s.web_backend = "pages", s.db_backend = "sql";
  s.web_old = {"pluto_a", "pluto_b"}, s.web_new = {"venus_a", "venus_b"};
  s.db_old = "pluto_sql", s.db_new = "venus_sql";
  s.app_services = {"store-a", "store-b"};
  s.zone = "live.test.", s.web_name = "store.live.test.", s.db_name = "ledger.live.test.";
  s.tsig_key = "mover-key";
  s.mail_service = "post", s.mail_domain = "live.test";
  s.mx_name = "in.live.test.", s.imap_name = "box.live.test.";
  s.mail_users = {"box-a", "box-b", "box-c", "box-d", "box-e", "box-f", "box-g", "box-h"};
  s.mail_probe = "watcher", s.sink_domain = "rest.test.";
  s.unit = "settle-day";
  s.tree = "/srv/depot";
  return s;
}

}  // namespace

Result<Scenario> find_scenario(std::string_view name, bool fast) {
  for (auto scenario : {demo(), other()}) {
    if (scenario.name != name) continue;
    scenario.fast = fast;
    return scenario;
  }
  return refused(fmt::format("there is no lab scenario '{}'", printable(name)), "use demo or other");
}

Json to_json(const Scenario& s) {
  Json hosts = Json::array();
  for (const auto& host : s.hosts()) {
    hosts.push_back({{"name", host.name}, {"role", to_string(host.role)}, {"mgmt", host.mgmt}});
  }
  return {{"name", s.name},
          {"fast", s.fast},
          {"mail", s.mail},
          {"seeded", s.seeded},
          {"hosts", hosts},
          {"web_service", s.web_service},
          {"db_service", s.db_service},
          {"database", s.database},
          {"app_role", s.app_role},
          {"probe_role", s.probe_role},
          {"web_backend", s.web_backend},
          {"db_backend", s.db_backend},
          {"web_old", s.web_old},
          {"web_new", s.web_new},
          {"db_old", s.db_old},
          {"db_new", s.db_new},
          {"db_gate", s.db_gate},
          {"app_services", s.app_services},
          {"zone", s.zone},
          {"web_name", s.web_name},
          {"db_name", s.db_name},
          {"mail_service", s.mail_service},
          {"mail_domain", s.mail_domain},
          {"mx_name", s.mx_name},
          {"imap_name", s.imap_name},
          {"mail_users", s.mail_users},
          {"mail_probe", s.mail_probe},
          {"sink_domain", s.sink_domain},
          {"unit", s.unit},
          {"tree", s.tree}};
}

std::vector<std::string> old_addresses() {
  std::vector<std::string> addresses;
  for (int last = 10; last <= 33; ++last) addresses.push_back(fmt::format("192.0.2.{}", last));
  addresses.push_back("2001:db8:26::10");
  return addresses;
}

std::vector<std::string> new_addresses() { return {"198.51.100.10", "198.51.100.11", "2001:db8:28::10"}; }

}  // namespace midstream::lab
