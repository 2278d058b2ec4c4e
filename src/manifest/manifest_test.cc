#include "manifest/manifest.h"

#include <gtest/gtest.h>

#include <random>

#include "manifest/schema_checker.h"

namespace midstream {
namespace {

// Every field that exists, once at least.
constexpr std::string_view kGood = R"(move: autumn
hosts:
  old:  { ssh: root@10.77.0.11 }
  new:  { ssh: root@new.mgmt.example, data: 10.77.0.12, at_least: { memory: 16G, cpus: 4, disk: 250G, inodes: 100000 }, grow: 1.5x }
  edge: { ssh: root@10.77.0.1, ssh_config: ssh.conf }
  out:  { ssh: probe@out.example }
rules:
  downtime: 5m
  window: { days: mon-fri, from: "11:00", to: "14:00", zone: America/Toronto }
  observe: 2h
services:
  shop:
    needs: [db]
    probe: { http: "http://shop.prod.example/health", every: 100ms }
    budget: 1m
    files: [ { path: /srv/shop, both_ways: true, except: ["cache/"] } ]
    traffic: { haproxy: edge, backend: shop, old: [web-old-1, web-old-2], new: web-new, steps: [1, 5, 25%, 50, 100], hold: 5s, drain: 30s }
    names:
      - { name: shop.prod.example., type: A, server: ns1.example, key_file: tsig.key, old: 192.0.2.10, new: 198.51.100.10 }
      - { name: shop.prod.example., type: AAAA, server: ns1.example, key_file: tsig.key, via: out, zone: example., old: "2001:db8:26::10", new: "2001:DB8:28:0::10", ttl: 30s }
  db:
    probe: { postgres: "host=db.prod.example dbname=app user=probe", write: true, password_file: /etc/probe.pass, timeout: 500ms }
    postgres: { old: {host: old, port: 5432}, new: {host: new, port: 5433}, databases: [app, audit], deadline: 2s, verify_age: 2h, commit_latency: 80ms, reverse: sync }
    traffic: { haproxy: edge, backend: db, old: db-old, new: db-new, socket: /run/h.sock, config: /etc/h.cfg }
addresses:
  - { subnet: 192.0.2.0/26, from: {host: old, dev: eth0}, to: {host: new, dev: eth1}, addresses: [192.0.2.10, 192.0.2.11], gateway: 192.0.2.1 }
  - { subnet: "2001:db8:26::/64", from: {host: old, dev: eth0}, to: {host: new, dev: eth0} }
  - { pool: 198.51.100.0/28, for: new }
after: { old: stopped }
units: [ { name: cron@invoices, sides: one, deadline: 1m }, { name: queue@1.service } ]
accept: [ "listen 127.0.0.1:6379" ]
)";

std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string out(text);
  const auto at = out.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  if (at != std::string::npos) out.replace(at, from.size(), to);
  return out;
}

TEST(Manifest, ReadsEveryField) {
  const auto parsed = parse_manifest(kGood, "move.yaml");
  ASSERT_TRUE(parsed) << parsed.error().text();
  const auto& m = *parsed;
  EXPECT_EQ(m.move, "autumn");
  ASSERT_EQ(m.hosts.size(), 4u);
  EXPECT_EQ(m.hosts[0].data, "10.77.0.11");  // ssh's own address where silent
  const auto* fresh = m.host("new");
  ASSERT_NE(fresh, nullptr);
  EXPECT_EQ(fresh->at_least_inodes, 100'000u);
  EXPECT_EQ(fresh->grow, 1.5);
  ASSERT_EQ(m.units.size(), 2u);
  EXPECT_EQ(m.units[0].deadline, Span(60'000));
  EXPECT_EQ(m.units[1].name, "queue@1.service");
  EXPECT_EQ(m.accept, std::vector<std::string>{"listen 127.0.0.1:6379"});
  EXPECT_EQ(fresh->data, "10.77.0.12");
  EXPECT_EQ(fresh->at_least_memory, 16ull << 30);
  EXPECT_EQ(fresh->at_least_disk, 250ull << 30);
  EXPECT_EQ(fresh->at_least_cpus, 4);
  EXPECT_EQ(m.host("edge")->ssh_config, "ssh.conf");
  EXPECT_EQ(m.host("out")->data, "");
  EXPECT_EQ(m.host("nobody"), nullptr);
  EXPECT_EQ(m.old_host, "old");
  EXPECT_EQ(m.new_host, "new");
  EXPECT_EQ(m.vantage, "out");
  EXPECT_EQ(m.verifier, "edge");
  EXPECT_EQ(m.rules.downtime, Span(300'000));
  EXPECT_EQ(m.rules.observe, Span(7'200'000));
  ASSERT_TRUE(m.rules.window);
  EXPECT_EQ(m.rules.window->days, (std::vector<int>{1, 2, 3, 4, 5}));
  EXPECT_EQ(m.rules.window->from_minute, 660);
  EXPECT_EQ(m.rules.window->to_minute, 840);
  EXPECT_EQ(m.rules.window->zone, "America/Toronto");
  EXPECT_EQ(m.after_old, "stopped");
  EXPECT_TRUE(m.after_accept.empty());
  EXPECT_EQ(m.rules.silence, Span(60'000));
  const auto patient = parse_manifest(replaced(kGood, "observe: 2h", "observe: 2h\n  silence: 90s"), "move.yaml");
  ASSERT_TRUE(patient) << patient.error().text();
  EXPECT_EQ(patient->rules.silence, Span(90'000));
  const auto accepting = [](std::string_view who) {
    return parse_manifest(replaced(kGood, "{ old: stopped }", fmt::format("{{ old: stopped, accept: [ {} ] }}", who)), "move.yaml");
  };
  ASSERT_TRUE(accepting("203.0.113.7, \"db@2001:db8::7\""));
  EXPECT_EQ(accepting("203.0.113.7, \"db@2001:db8::7\"")->after_accept, (std::vector<std::string>{"203.0.113.7", "db@2001:db8::7"}));
  EXPECT_FALSE(accepting("everybody"));
}

TEST(Manifest, ReadsServicesInTheOrderOfTheirNeeds) {
  const auto parsed = parse_manifest(kGood, "move.yaml");
  ASSERT_TRUE(parsed) << parsed.error().text();
  ASSERT_EQ(parsed->services.size(), 2u);
  const auto& db = parsed->services[0];
  const auto& shop = parsed->services[1];
  EXPECT_EQ(db.name, "db");
  ASSERT_TRUE(db.probe);
  EXPECT_EQ(db.probe->kind, "postgres");
  EXPECT_EQ(db.probe->target, "host=db.prod.example dbname=app user=probe");
  EXPECT_TRUE(db.probe->write);
  EXPECT_EQ(db.probe->password_file, "/etc/probe.pass");
  EXPECT_EQ(db.probe->every, Span(100));
  EXPECT_EQ(db.probe->timeout, Span(500));
  ASSERT_TRUE(db.postgres);
  EXPECT_EQ(db.postgres->old_side.host, "old");
  EXPECT_EQ(db.postgres->new_side.port, 5433);
  EXPECT_EQ(db.postgres->databases, (std::vector<std::string>{"app", "audit"}));
  EXPECT_EQ(db.postgres->deadline, Span(2'000));
  EXPECT_EQ(db.postgres->verify_age, Span(7'200'000));
  EXPECT_EQ(db.postgres->commit_latency, Span(80));
  EXPECT_TRUE(db.postgres->sync_reverse);
  EXPECT_TRUE(db.traffic->steps.empty());
  EXPECT_EQ(db.traffic->socket, "/run/h.sock");
  EXPECT_EQ(db.traffic->config, "/etc/h.cfg");

  EXPECT_EQ(shop.name, "shop");
  EXPECT_EQ(shop.needs, std::vector<std::string>{"db"});
  EXPECT_EQ(shop.budget, Span(60'000));
  ASSERT_EQ(shop.files.size(), 1u);
  EXPECT_EQ(shop.files[0].path, "/srv/shop");
  EXPECT_TRUE(shop.files[0].both_ways);
  EXPECT_EQ(shop.files[0].except, std::vector<std::string>{"cache/"});
  EXPECT_EQ(shop.traffic->old_servers, (std::vector<std::string>{"web-old-1", "web-old-2"}));
  EXPECT_EQ(shop.traffic->new_servers, std::vector<std::string>{"web-new"});
  EXPECT_EQ(shop.traffic->steps, (std::vector<int>{1, 5, 25, 50, 100}));
  EXPECT_EQ(shop.traffic->socket, "/run/haproxy/admin.sock");
  EXPECT_EQ(shop.traffic->hold, Span(5'000));
  EXPECT_EQ(shop.traffic->drain, Span(30'000));
  ASSERT_EQ(shop.names.size(), 2u);
  EXPECT_EQ(shop.names[0].zone, "prod.example.");
  EXPECT_EQ(shop.names[0].via, "edge");
  EXPECT_EQ(shop.names[0].ttl, Span(60'000));
  EXPECT_EQ(shop.names[1].zone, "example.");
  EXPECT_EQ(shop.names[1].via, "out");
  EXPECT_EQ(shop.names[1].new_value, "2001:db8:28::10");  // canonical
  EXPECT_EQ(shop.names[1].ttl, Span(30'000));
}

TEST(Manifest, ReadsAddresses) {
  const auto parsed = parse_manifest(kGood, "move.yaml");
  ASSERT_TRUE(parsed) << parsed.error().text();
  ASSERT_EQ(parsed->subnets.size(), 2u);
  EXPECT_EQ(parsed->subnets[0].subnet, "192.0.2.0/26");
  EXPECT_EQ(parsed->subnets[0].addresses, (std::vector<std::string>{"192.0.2.10", "192.0.2.11"}));
  EXPECT_EQ(parsed->subnets[0].from.host, "old");
  EXPECT_EQ(parsed->subnets[0].to.dev, "eth1");
  EXPECT_EQ(parsed->subnets[0].gateway, "192.0.2.1");
  EXPECT_TRUE(parsed->subnets[1].addresses.empty());
  ASSERT_EQ(parsed->pools.size(), 1u);
  EXPECT_EQ(parsed->pools[0].for_host, "new");
}

TEST(Manifest, TakesOtherNamesForEverything) {
  const auto parsed = parse_manifest(R"(
move: m2
sides: { old: alpha, new: beta }
vantage: watch
verifier: gamma
hosts: { alpha: {ssh: a}, beta: {ssh: b}, gamma: {ssh: c}, watch: {ssh: d} }
rules: { window: { days: [sat-mon, wed], from: 00:00, to: 23:59, zone: UTC } }
services: { site: { probe: { tcp: "[2001:db8::1]:80" } } }
)",
                                     "m");
  ASSERT_TRUE(parsed) << parsed.error().text();
  EXPECT_EQ(parsed->old_host, "alpha");
  EXPECT_EQ(parsed->new_host, "beta");
  EXPECT_EQ(parsed->vantage, "watch");
  EXPECT_EQ(parsed->verifier, "gamma");
  EXPECT_EQ(parsed->rules.window->days, (std::vector<int>{0, 1, 3, 6}));
  EXPECT_EQ(parsed->after_old, "fenced");
  EXPECT_EQ(parsed->services[0].probe->timeout, Span(1'000));
}

TEST(Manifest, AnAnchorStandsForItsValue) {
  const auto parsed = parse_manifest(R"(
move: m
hosts: { old: {ssh: a}, new: {ssh: b}, out: {ssh: c} }
services:
  one: { probe: &p { tcp: "h:80" } }
  two: { probe: *p }
)",
                                     "m");
  ASSERT_TRUE(parsed) << parsed.error().text();
  EXPECT_EQ(parsed->services[1].probe->target, "h:80");
}

// The design's own example: what later issues bring is named, all of it at once, and the rest is good.
TEST(Manifest, WhatIsNotThereYetIsSaid) {
  constexpr std::string_view kExample = R"(move: autumn
hosts:
  old:  { ssh: root@old.mgmt.example }        # managed over addresses that do not move
  new:  { ssh: root@new.mgmt.example, at_least: { memory: 16G, cpus: 4, disk: 250G } }
  edge: { ssh: root@edge.mgmt.example }       # runs HAProxy
  out:  { ssh: probe@out.example }            # outside vantage point
rules:
  downtime: 5m                                # per service, whole move
  window: { days: mon-fri, from: "11:00", to: "14:00", zone: America/Toronto }
  observe: 2h
  guard: { errors: 1%, p95: 1.5x, min_samples: 300 }
services:
  db:
    probe: { postgres: "host=db.prod.example dbname=app", write: true, every: 100ms }
    postgres: { old: {host: old, port: 5432}, new: {host: new, port: 5432}, databases: [app] }
    gate: { host: edge, listen: 127.0.0.1:6432 }    # HAProxy's server, between clients and both databases
    traffic: { haproxy: edge, backend: db, old: db-old, new: db-new }
    names: [ { name: db.prod.example., type: A, server: ns1.example, key_file: tsig.key, old: 192.0.2.10, new: 198.51.100.10 } ]
  shop:
    needs: [db]
    probe: { http: "https://shop.example/health", every: 100ms }
    files: [ { path: /srv/shop, both_ways: true, except: ["cache/"] } ]
    traffic: { haproxy: edge, backend: shop, old: web-old, new: web-new, steps: [1, 5, 25, 50, 100], hold: 5m }
  mail:
    probe: { smtp: "mx.example:25", imap: "imap.example:993" }
    mail: { dovecot: {old: old, new: new}, postfix: {old: old, new: new} }
units:
  - { name: cron@invoices, sides: one }       # what must never run twice: stopped on old, started on new, at the switch
addresses:
  - { subnet: 192.0.2.0/26, from: {host: old, dev: eth0}, to: {host: new, dev: eth0} }
  - { pool: 198.51.100.0/28, for: new }       # the temporary home; allocations are planned and shown
after: { old: stopped }
)";
  const auto refused = parse_manifest(replaced(kExample, "disk: 250G } }", "disk: 250G }, provision: x }"), "m");
  ASSERT_FALSE(refused);
  std::string lines;
  for (std::string_view rest = refused.error().what; !rest.empty();) {
    const auto end = rest.find(", which is not there yet");
    ASSERT_NE(end, std::string_view::npos) << rest;
    lines += std::string(rest.substr(0, end)) + "\n";
    rest.remove_prefix(std::min(rest.find('\n'), rest.size() - 1) + 1);
  }
  EXPECT_EQ(lines, "m:4:87: hosts.new: found 'provision'\n");

  const auto parsed = parse_manifest(kExample, "m");
  ASSERT_TRUE(parsed) << parsed.error().text();
  ASSERT_TRUE(parsed->services.back().mail);
  ASSERT_TRUE(parsed->services[0].gate || parsed->services[1].gate);
  EXPECT_EQ(parsed->services.back().mail->old_host, "old");
  EXPECT_EQ(parsed->services.back().mail->steps, (std::vector<int>{10, 100}));
  ASSERT_EQ(parsed->units.size(), 1u);
  EXPECT_EQ(parsed->units[0].name, "cron@invoices");
  EXPECT_EQ(parsed->units[0].deadline, Span(30'000));
  EXPECT_EQ(parsed->rules.guard.min_samples, 300);
}

TEST(Manifest, AServiceHasTheGuardOfTheRulesOrItsOwn) {
  const auto with = [](std::string_view rules, std::string_view shop) {
    auto yaml = replaced(kGood, "rules:\n", fmt::format("rules:\n  guard: {}\n", rules));
    if (!shop.empty()) yaml = replaced(yaml, "  shop:\n", fmt::format("  shop:\n    guard: {}\n", shop));
    return parse_manifest(yaml, "m");
  };
  const auto find = [](const Manifest& manifest) { return std::ranges::find(manifest.services, "shop", &ServiceSpec::name)->guard; };
  const auto rules = with("{ errors: 0.5%, p95: 2.25x, floor: 5ms, min_samples: 80, rate: 7 }", "");
  ASSERT_TRUE(rules) << rules.error().text();
  EXPECT_DOUBLE_EQ(find(*rules).errors, 0.005);
  EXPECT_DOUBLE_EQ(find(*rules).p95, 2.25);
  EXPECT_EQ(find(*rules).floor, Span(5));
  EXPECT_EQ(find(*rules).min_samples, 80);
  EXPECT_EQ(find(*rules).rate, 7);
  const auto own = with("{ errors: 0.5%, min_samples: 80 }", "{ errors: 3%, enabled: false }");
  ASSERT_TRUE(own) << own.error().text();
  EXPECT_DOUBLE_EQ(find(*own).errors, 0.03);
  EXPECT_EQ(find(*own).min_samples, 80);
  EXPECT_FALSE(find(*own).enabled);
  EXPECT_TRUE(own->rules.guard.enabled);
}

TEST(Manifest, MailIsOnTheSameTwoHostsForBothDaemons) {
  const auto with = [](std::string_view mail) {
    return parse_manifest(fmt::format("move: m\nhosts: {{ old: {{ssh: a}}, new: {{ssh: b}} }}\nservices:\n  post: {{ mail: {} }}\n", mail), "m");
  };
  const auto good = with("{ dovecot: {old: old, new: new}, postfix: {old: old, new: new}, steps: [25, 100] }");
  ASSERT_TRUE(good) << good.error().text();
  EXPECT_EQ(good->services[0].mail->steps, (std::vector<int>{25, 100}));
  const auto apart = with("{ dovecot: {old: old, new: new}, postfix: {old: new, new: new} }");
  ASSERT_FALSE(apart);
  EXPECT_NE(apart.error().what.find("expected Dovecot's host, old"), std::string::npos) << apart.error().what;
  EXPECT_FALSE(with("{ dovecot: {old: old, new: old}, postfix: {old: old, new: old} }"));
  EXPECT_FALSE(with("{ dovecot: {old: old, new: new} }"));
}

TEST(Manifest, TheDoorsOfMailAreOneProbe) {
  const auto parsed = parse_manifest(R"(move: m
hosts: { old: { ssh: root@192.0.2.1 }, new: { ssh: root@192.0.2.2 }, out: { ssh: root@192.0.2.3 } }
services:
  mail:
    probe: { imap: "imap.example:993", smtp: "mx.example:25", submission: "mx.example:587", password_file: /etc/probe.mail }
  bare:
    probe: { imap: "imap.example:143", every: 1s, timeout: 2s }
)",
                                     "m");
  ASSERT_TRUE(parsed) << parsed.error().text();
  const auto& probe = *parsed->services[0].probe;
  EXPECT_EQ(probe.kind, "mail");
  EXPECT_EQ(probe.target, "smtp=mx.example:25 submission=mx.example:587 imap=imap.example:993");
  EXPECT_EQ(probe.password_file, "/etc/probe.mail");
  EXPECT_EQ(probe.every, Span(500));
  EXPECT_EQ(probe.timeout, Span(5'000));
  EXPECT_EQ(parsed->services[1].probe->target, "imap=imap.example:143");
  EXPECT_EQ(parsed->services[1].probe->every, Span(1'000));
}

struct Bad {
  const char* from;
  const char* to;
  const char* text;
  bool structural = true;  // the schema refuses it too
};

const Bad kBad[] = {
#include "manifest/bad_manifests.inc"
};

TEST(Manifest, EachMistakeHasItsMessage) {
  for (const auto& bad : kBad) {
    const auto parsed = parse_manifest(replaced(kGood, bad.from, bad.to), "move.yaml");
    ASSERT_FALSE(parsed) << bad.to;
    EXPECT_EQ(parsed.error().kind, ErrorKind::refused);
    EXPECT_EQ(parsed.error().what, bad.text) << bad.to;
  }
}

TEST(Manifest, TenMistakesAreToldAtOnce) {
  std::string yaml(kGood);
  for (int i = 0; i < 12; ++i) yaml += "extra" + std::to_string(i) + ": 1\n";
  const auto parsed = parse_manifest(yaml, "move.yaml");
  ASSERT_FALSE(parsed);
  EXPECT_EQ(std::ranges::count(parsed.error().what, '\n'), 10);
  EXPECT_TRUE(parsed.error().what.ends_with("\nmove.yaml: and 2 more")) << parsed.error().what;
}

TEST(Manifest, ASecretIsNotRepeated) {
  for (const auto* conninfo : {"host=h password=hunter2", "postgresql://u:hunter2@h/db", "host='hunter2"}) {
    const auto parsed = parse_manifest(replaced(kGood, "host=db.prod.example dbname=app user=probe", conninfo), "m");
    ASSERT_FALSE(parsed);
    EXPECT_EQ(parsed.error().text().find("hunter2"), std::string::npos) << parsed.error().text();
  }
}

TEST(Schema, AgreesWithTheParser) {
  const auto schema = manifest_schema();
  EXPECT_EQ(schema_mistake(schema, json_of_yaml(kGood)), "");
  for (const auto& bad : kBad) {
    if (!bad.structural) continue;
    const auto yaml = replaced(kGood, bad.from, bad.to);
    EXPECT_NE(schema_mistake(schema, json_of_yaml(yaml)), "") << bad.to;
  }
}

TEST(Schema, NamesEveryFieldThatIsThere) {
  const auto schema = manifest_schema();
  EXPECT_EQ(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
  EXPECT_EQ(schema["required"], (Json{"move", "hosts", "services"}));
  EXPECT_TRUE(schema["properties"].contains("units"));
  const auto& service = schema["properties"]["services"]["additionalProperties"];
  EXPECT_TRUE(service["properties"].contains("traffic"));
  EXPECT_TRUE(service["properties"].contains("gate"));
  EXPECT_EQ(service["properties"]["postgres"]["properties"]["road"]["enum"], (Json{"logical", "seeded", "physical"}));
  EXPECT_EQ(service["properties"]["postgres"]["properties"]["reverse"]["enum"], (Json{"async", "sync"}));
}

TEST(Json, IsCanonical) {
  const auto first = parse_manifest(kGood, "a");
  ASSERT_TRUE(first);
  // Spelling does not count, meaning does.
  const auto respelled = parse_manifest(replaced(replaced(kGood, "hold: 5s", "hold: 5000ms"), "move: autumn", "# note\nmove: 'autumn'"), "b");
  ASSERT_TRUE(respelled) << respelled.error().text();
  EXPECT_EQ(to_json(*first).dump(), to_json(*respelled).dump());
  const auto changed = parse_manifest(replaced(kGood, "hold: 5s", "hold: 6s"), "c");
  ASSERT_TRUE(changed);
  EXPECT_NE(to_json(*first).dump(), to_json(*changed).dump());
}

TEST(Manifest, BombsAreBounded) {
  std::string bomb = "move: m\nhosts: { old: {ssh: a}, new: {ssh: b} }\nservices:\n  s: &s { files: &f [";
  for (int i = 0; i < 400; ++i) bomb += "{path: /a}, ";
  bomb += "] }\n";
  for (int i = 0; i < 400; ++i) bomb += "  t" + std::to_string(i) + ": *s\n";
  const auto parsed = parse_manifest(bomb, "m");
  ASSERT_FALSE(parsed);
  EXPECT_NE(parsed.error().what.find("found more than 50000 values"), std::string::npos) << parsed.error().what;

  EXPECT_FALSE(parse_manifest("move: " + std::string(10'000, '['), "m"));
  EXPECT_FALSE(parse_manifest("a: &a [*a]", "m"));
  EXPECT_FALSE(parse_manifest(std::string(300u << 10, ' '), "m"));
}

TEST(Manifest, MutationsNeverCrash) {
  std::mt19937 random(20261122);
  constexpr std::string_view kSmall = R"(move: m
hosts: { old: {ssh: a@b, data: 10.0.0.1}, new: {ssh: b}, out: {ssh: c} }
rules: { downtime: 5m, window: { days: mon-fri, from: "11:00", to: "14:00", zone: UTC } }
services:
  s:
    probe: { http: "http://h/" }
    traffic: { haproxy: out, backend: b, old: o, new: [n], steps: [1, 100%] }
addresses: [ { pool: 198.51.100.0/28, for: new } ]
)";
  ASSERT_TRUE(parse_manifest(kSmall, "m"));
  constexpr std::string_view kPieces = "{}[]:,&*'\"|>-?!%#\n\t a0~\\\x80\xff\x01";
  const auto pick = [&](std::size_t below) { return std::uniform_int_distribution<std::size_t>(0, below - 1)(random); };
  int good = 0;
  for (int i = 0; i < 2'000; ++i) {
    const auto base = i % 16 == 0 ? kGood : kSmall;
    std::string yaml(base);
    for (std::size_t edits = pick(4) + 1; edits > 0; --edits) {
      const auto at = pick(yaml.size());
      switch (pick(4)) {
        case 0: yaml[at] = kPieces[pick(kPieces.size())]; break;
        case 1: yaml.insert(at, 1, kPieces[pick(kPieces.size())]); break;
        case 2: yaml.erase(at, pick(20) + 1); break;
        default: yaml.insert(at, std::string(base.substr(pick(base.size()), pick(40)))); break;
      }
      if (yaml.empty()) yaml = " ";
    }
    const auto parsed = parse_manifest(yaml, "fuzz");
    if (parsed) {
      ++good;
    } else {
      EXPECT_TRUE(parsed.error().what.starts_with("fuzz:")) << parsed.error().what;
    }
  }
  EXPECT_LT(good, 1'500);
}

}  // namespace
}  // namespace midstream
