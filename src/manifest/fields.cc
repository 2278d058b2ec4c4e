// The manifest's fields: the one place where they are listed.
#include <array>

#include "base/text.h"
#include "manifest/shape.h"
#include "manifest/values.h"

namespace midstream {

namespace {

using enum Field::Need;
using Kind = Shape::Kind;

constexpr Shape text(std::string_view expected, bool (*valid)(std::string_view), std::string_view pattern = {}) {
  return {.kind = Kind::text, .expected = expected, .valid = valid, .pattern = pattern};
}
constexpr Shape words(std::string_view expected, std::span<const std::string_view> which) {
  return {.kind = Kind::words, .expected = expected, .words = which};
}
constexpr Shape integer(std::string_view expected, std::int64_t least, std::int64_t most) {
  return {.kind = Kind::integer, .expected = expected, .least = least, .most = most};
}
constexpr Shape of(Kind kind, std::string_view expected, const Shape& item) {
  return {.kind = kind, .expected = expected, .item = &item};
}
constexpr Shape object(std::string_view expected, std::span<const Field> fields) {
  return {.kind = Kind::object, .expected = expected, .fields = fields};
}

bool valid_duration(std::string_view t) { return parse_duration(t).has_value(); }
bool valid_positive(std::string_view t) { return parse_duration(t).value_or(Span(0)) > Span(0); }
bool valid_pace(std::string_view t) { return parse_duration(t).value_or(Span(0)) >= Span(10); }
bool valid_ttl(std::string_view t) {
  const auto span = parse_duration(t).value_or(Span(0));
  return span >= Span(1'000) && span.count() % 1'000 == 0;
}
bool valid_share(std::string_view t) { return parse_share(t).has_value(); }
bool valid_ratio(std::string_view t) { return parse_factor(t).has_value(); }
bool valid_size(std::string_view t) { return parse_size(t).has_value(); }
bool valid_factor(std::string_view t) { return parse_factor(t).has_value(); }
bool valid_days(std::string_view t) { return parse_days(t).has_value(); }
bool valid_time(std::string_view t) { return parse_time(t).has_value(); }
bool valid_address(std::string_view t) { return parse_address(t).has_value(); }
bool valid_prefix(std::string_view t) { return parse_prefix(t).has_value(); }
bool valid_host_port(std::string_view t) { return parse_host_port(t).has_value(); }

constexpr std::string_view kDurationPattern = "^[0-9]+(ms|s|m|h)$";

constexpr Shape kName = text("a name of at most 40 of a-z, 0-9, _ and -, a letter first", is_plain_name, "^[a-z][a-z0-9_-]{0,39}$");
constexpr Shape kHostName = text("the name of a host", is_plain_name, "^[a-z][a-z0-9_-]{0,39}$");
constexpr Shape kDuration = text("a duration such as 100ms, 5s, 5m or 2h", valid_duration, kDurationPattern);
constexpr Shape kPositive = text("a duration of more than 0 such as 100ms, 5s, 5m or 2h", valid_positive,
                                  "^[0-9]*[1-9][0-9]*(ms|s|m|h)$");
constexpr Shape kPace = text("a duration of at least 10ms such as 100ms or 1s", valid_pace, kDurationPattern);
constexpr Shape kTtl = text("a duration of whole seconds such as 60s or 5m", valid_ttl, kDurationPattern);
constexpr Shape kSize = text("a size such as 512M, 16G or 2T", valid_size, "^[0-9]+[KMGT]$");
constexpr Shape kTime = text("a time of day such as \"11:00\"", valid_time, "^[0-9]{2}:[0-9]{2}$");
constexpr Shape kDay = text("a day or a range of days such as mon or mon-fri", valid_days,
                            "^(sun|mon|tue|wed|thu|fri|sat)(-(sun|mon|tue|wed|thu|fri|sat))?$");
constexpr Shape kDays = of(Kind::one_or_list, "days such as mon-fri or [mon, wed]", kDay);
constexpr Shape kTimeZone = text("a time zone such as America/Toronto", is_zone_name, "^[A-Za-z0-9_+/-]+$");
constexpr Shape kSsh = text("user@host as ssh takes it", is_ssh_target, "^[A-Za-z0-9_@.:%-]+$");
constexpr Shape kAddress = text("a numeric address such as 192.0.2.10 or 2001:db8::10", valid_address, "^[0-9A-Fa-f.:]+$");
constexpr Shape kAddresses = of(Kind::list, "a list of addresses", kAddress);
constexpr Shape kPrefix = text("a prefix such as 192.0.2.0/26 or 2001:db8::/64", valid_prefix, "^[0-9A-Fa-f.:]+/[0-9]{1,3}$");
constexpr Shape kPath = text("an absolute path without .. such as /srv/shop", is_absolute_path, "^/");
constexpr Shape kFile = text("the name of a file", is_line, ".");
constexpr Shape kUrl = text("a URL such as http://shop.example/health", is_http_url, "^https?://[^ #@]+$");
constexpr Shape kHostPort = text("a host and a port such as mx.example:25", valid_host_port, "^[^ ]+:[0-9]{1,5}$");
constexpr Shape kConninfo{.kind = Kind::text,
                          .expected = "key=value pairs with a host and without a password such as \"host=db.example "
                                      "dbname=app\" (a password belongs into password_file)",
                          .valid = is_probe_conninfo,
                          .pattern = "=",
                          .secret = true};
constexpr Shape kPort = integer("a port from 1 to 65535", 1, 65'535);
constexpr Shape kInodes = integer("a number of inodes", 1, 1'000'000'000'000);
constexpr Shape kGrow = text("a factor from 1x to 100x such as 1.5x", valid_factor, "^[0-9]+(\\.[0-9]+)?x$");
constexpr Shape kCount = integer("a number from 1 to 4096", 1, 4'096);
constexpr Shape kShare = text("a percentage such as 1% or 0.5%", valid_share, "^[0-9]{1,3}(\\.[0-9]{1,2})?%$");
constexpr Shape kRatio = text("a ratio such as 1.5x", valid_ratio, "^[0-9]{1,3}(\\.[0-9]{1,2})?x$");
constexpr Shape kSamples = integer("a number from 50 to 1000000", 50, 1'000'000);
constexpr Shape kRate = integer("a number from 1 to 1000", 1, 1'000);
constexpr Shape kBoolean{.kind = Kind::boolean, .expected = "true or false"};
constexpr Shape kPercent{.kind = Kind::percent, .expected = "a percentage from 1 to 100"};
constexpr Shape kSteps = of(Kind::list, "percentages that rise to 100 such as [1, 5, 25, 50, 100]", kPercent);
constexpr Shape kProxyName = text("a name from HAProxy's configuration", is_proxy_name, "^[A-Za-z0-9_.:-]+$");
constexpr Shape kServers = of(Kind::one_or_list, "a server of the backend, or a list of them", kProxyName);
constexpr Shape kDatabase = text("the name of a database", is_database_name, "^.{1,63}$");
constexpr Shape kDatabases = of(Kind::list, "a list of databases", kDatabase);
constexpr Shape kDnsName = text("an absolute name with its final dot such as shop.example.", is_absolute_name, "^[A-Za-z0-9_.-]+\\.$");
constexpr Shape kServer = text("a name or address such as ns1.example", is_server_name, "^[A-Za-z0-9_.:-]+$");
constexpr Shape kDevice = text("a network device such as eth0", is_device_name, "^[A-Za-z0-9_.@-]{1,15}$");
constexpr Shape kUnitName = text("a unit such as invoices.timer, queue@1.service or cron@invoices", is_unit_name,
                                 "^[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,99}$");
constexpr Shape kPattern = text("a pattern such as cache/", is_line, ".");
constexpr Shape kPatterns = of(Kind::list, "a list of patterns", kPattern);
constexpr std::array<std::string_view, 2> kTypeWords{"A", "AAAA"};
constexpr Shape kType = words("A or AAAA", kTypeWords);
constexpr std::array<std::string_view, 3> kAfterWords{"stopped", "fenced", "kept"};
constexpr Shape kAfterOld = words("stopped, fenced or kept", kAfterWords);

constexpr Field kAtLeastFields[] = {
    {"memory", &kSize, optional, "memory of the host"},
    {"cpus", &kCount, optional, "processors of the host"},
    {"disk", &kSize, optional, "free disk space of the host"},
    {"inodes", &kInodes, optional, "free inodes of the host"},
};
constexpr Shape kAtLeast = object("what the host must have, {memory, cpus, disk, inodes}", kAtLeastFields);

constexpr Field kHostFields[] = {
    {"ssh", &kSsh, required, "user@host, over an address that does not move"},
    {"ssh_config", &kFile, optional, "a file for ssh -F"},
    {"data", &kAddress, optional, "numeric address for traffic between agents; ssh's where silent; never one that moves"},
    {"at_least", &kAtLeast, optional, "what the host must have"},
    {"grow", &kGrow, optional, "how many times old's memory and processors the host must have, with room for what moves"},
    {"provision", nullptr, later, "making hosts at a hypervisor"},
};
constexpr Shape kHost = object("a host, {ssh: user@host}", kHostFields);
constexpr Shape kHosts = of(Kind::map, "hosts by name", kHost);

constexpr Field kWindowFields[] = {
    {"days", &kDays, required, "days of the week"},
    {"from", &kTime, required, "first minute"},
    {"to", &kTime, required, "the minute after the last"},
    {"zone", &kTimeZone, required, "IANA time zone of these times"},
};
constexpr Shape kWindow = object("a window, {days, from, to, zone}", kWindowFields);

constexpr Field kGuardFields[] = {
    {"errors", &kShare, optional, "how much more often requests may fail on new than on old; 1% where silent"},
    {"p95", &kRatio, optional, "how much slower new may be than old, at median and 95th percentile; 1.5x where silent"},
    {"floor", &kPositive, optional, "latencies below this are never too slow; 20ms where silent"},
    {"min_samples", &kSamples, optional, "requests of each side before anything is concluded; 300 where silent"},
    {"rate", &kRate, optional, "requests of its own a second, to each side; 20 where silent"},
    {"enabled", &kBoolean, optional, "false: traffic shifts unguarded"},
};
constexpr Shape kGuard = object("limits of the guard, {errors, p95, min_samples}", kGuardFields);

// Every phase but the first, and finish, which asks by itself.
constexpr std::array<std::string_view, 8> kConfirmWords{"copy", "follow", "gate", "shift", "switch", "soak", "addresses", "home"};
constexpr Shape kConfirmPhase = words("a phase (copy, follow, gate, shift, switch, soak, addresses, home)", kConfirmWords);
constexpr Shape kConfirm = of(Kind::one_or_list, "phases such as [switch, addresses]", kConfirmPhase);

constexpr Field kRulesFields[] = {
    {"downtime", &kPositive, optional, "budget of each service over the whole move; 5m where silent"},
    {"window", &kWindow, optional, "when steps that users can feel may run"},
    {"observe", &kDuration, optional, "how long to soak; 2h where silent"},
    {"silence", &kPositive, optional, "how long nobody may have talked to old before it is given up; 60s where silent"},
    {"guard", &kGuard, optional, "when traffic goes back by itself: new against old while it shifts"},
    {"confirm", &kConfirm, optional, "phases that wait for the operator's word before they begin"},
};
constexpr Shape kRules = object("rules, {downtime, window, observe, guard, confirm}", kRulesFields);

constexpr Field kSidesFields[] = {
    {"old", &kHostName, optional, "the host that is moved from; old where silent"},
    {"new", &kHostName, optional, "the host that is moved to; new where silent"},
};
constexpr Shape kSides = object("the two sides, {old: HOST, new: HOST}", kSidesFields);

constexpr Field kProbeFields[] = {
    {"http", &kUrl, one_of, "URL to GET; up is any 2xx"},
    {"tcp", &kHostPort, one_of, "host:port to connect to"},
    {"postgres", &kConninfo, one_of, "libpq key=value pairs, without a password"},
    {"smtp", &kHostPort, any_of, "mail, host:port: mail to postmaster would be taken"},
    {"submission", &kHostPort, any_of, "mail, host:port: TLS and, with a password_file, a login"},
    {"imap", &kHostPort, any_of, "mail, host:port: TLS and, with a password_file, a login and the INBOX"},
    {"write", &kBoolean, optional, "postgres: write a row rather than read one"},
    {"password_file", &kPath, optional, "on the vantage host; postgres: a libpq password file; mail: one line, USER PASSWORD"},
    {"every", &kPace, optional, "100ms where silent; mail: 500ms"},
    {"timeout", &kPace, optional, "1s where silent; mail: 5s"},
};
constexpr Shape kProbe = object("a probe, {http: URL}, {tcp: HOST:PORT}, {postgres: CONNINFO} or {smtp, submission, imap: HOST:PORT}", kProbeFields);

constexpr Field kFilesFields[] = {
    {"path", &kPath, required, "the tree"},
    {"both_ways", &kBoolean, optional, "follow in both directions while both sides serve"},
    {"except", &kPatterns, optional, "what is left out"},
};
constexpr Shape kFiles = object("a tree, {path: /srv/shop}", kFilesFields);
constexpr Shape kFilesList = of(Kind::list, "a list of trees", kFiles);

constexpr Field kClusterFields[] = {
    {"host", &kHostName, required, "the database's host"},
    {"port", &kPort, optional, "5432 where silent"},
};
constexpr Shape kCluster = object("a cluster, {host: HOST, port: 5432}", kClusterFields);
bool valid_limit(std::string_view t) {
  const auto size = parse_size(t);
  return size && *size >= (1 << 20) && *size <= (1 << 30);
}
constexpr std::array<std::string_view, 3> kRoadWords{"logical", "seeded", "physical"};
constexpr Shape kRoad = words("logical, seeded or physical", kRoadWords);
constexpr Shape kLimit = text("bytes a second from 1M to 1G such as 64M", valid_limit, "^[0-9]+[MG]$");
constexpr std::array<std::string_view, 2> kReverseWords{"async", "sync"};
constexpr Shape kReverse = words("async or sync", kReverseWords);
bool valid_commit_latency(std::string_view t) { return t == "off" || valid_positive(t); }
constexpr Shape kCommitLatency = text("a duration of more than 0 such as 50ms, or off", valid_commit_latency, "^(off|0*[1-9][0-9]*(ms|s|m|h))$");
constexpr Field kPostgresFields[] = {
    {"old", &kCluster, required, "the cluster that is moved from"},
    {"new", &kCluster, required, "the cluster that is moved to"},
    {"databases", &kDatabases, required, "what moves"},
    {"deadline", &kPositive, optional, "of the switch; 1s where silent"},
    {"verify_age", &kPositive, optional, "how long before the switch both sides may have been found equal; 24h where silent"},
    {"road", &kRoad, optional, "how new comes to have the rows: logical where silent; seeded, from a base backup of old's whole cluster; physical, as its standby"},
    {"limit", &kLimit, optional, "of the seeded and the physical road: bytes a second that its base backup may read; no limit where silent"},
    {"commit_latency", &kCommitLatency, optional, "bulk reads slow down where a commit on old takes longer; 50ms where silent, off: they do not"},
    {"reverse", &kReverse, optional, "after the switch: async where silent; sync: commits on new wait until old has them"},
};
constexpr Shape kPostgres = object("{old: {host}, new: {host}, databases: [..]}", kPostgresFields);

constexpr Field kGateFields[] = {
    {"host", &kHostName, required, "where it runs: beside HAProxy"},
    {"listen", &kHostPort, required, "where HAProxy's server for it leads"},
    {"close_idle", &kPositive, optional, "a session that does not come through it is closed once idle for so long; never where silent"},
};
constexpr Shape kGate = object("{host: HOST, listen: ADDRESS:PORT}", kGateFields);

constexpr Field kTrafficFields[] = {
    {"haproxy", &kHostName, required, "HAProxy's host"},
    {"backend", &kProxyName, required, "the backend's name"},
    {"old", &kServers, required, "the servers on old"},
    {"new", &kServers, required, "the servers on new"},
    {"steps", &kSteps, optional, "percent to new, rising to 100; none where the service has postgres, which is followed by health check"},
    {"hold", &kDuration, optional, "at each step; 5m where silent"},
    {"drain", &kPositive, optional, "deadline of the drain; 10m where silent"},
    {"socket", &kPath, optional, "/run/haproxy/admin.sock where silent"},
    {"config", &kPath, optional, "/etc/haproxy/haproxy.cfg where silent"},
};
constexpr Shape kTraffic = object("{haproxy: HOST, backend, old, new, steps}", kTrafficFields);

constexpr Field kNameFields[] = {
    {"name", &kDnsName, required, "what clients know, with the final dot"},
    {"type", &kType, required, "A or AAAA"},
    {"server", &kServer, required, "the primary name server, as the via host reaches it"},
    {"zone", &kDnsName, optional, "the name without its first label where silent"},
    {"via", &kHostName, optional, "host whose agent sends the update; the service's HAProxy host where silent"},
    {"key_file", &kFile, required, "TSIG key in BIND's format, on the via host"},
    {"old", &kAddress, required, "what the name leads to before"},
    {"new", &kAddress, required, "what the name leads to after"},
    {"ttl", &kTtl, optional, "while the move lasts; 60s where silent"},
};
constexpr Shape kNameSpec = object("a name, {name, type, server, key_file, old, new}", kNameFields);
constexpr Shape kNames = of(Kind::list, "a list of names", kNameSpec);

constexpr Field kMailEndsFields[] = {
    {"old", &kHostName, required, "the host that is moved from"},
    {"new", &kHostName, required, "the host that is moved to"},
};
constexpr Shape kMailEnds = object("two hosts, {old: HOST, new: HOST}", kMailEndsFields);
constexpr Field kMailFields[] = {
    {"dovecot", &kMailEnds, required, "where users read their mail"},
    {"postfix", &kMailEnds, required, "where mail is taken and sent; Dovecot's hosts"},
    {"steps", &kSteps, optional, "percent of users at home on new, rising to 100; [10, 100] where silent"},
};
constexpr Shape kMail = object("mail, {dovecot: {old, new}, postfix: {old, new}}", kMailFields);

constexpr Shape kNeeds = of(Kind::list, "a list of services", kName);
constexpr Field kServiceFields[] = {
    {"needs", &kNeeds, optional, "services that this one needs"},
    {"probe", &kProbe, optional, "how users see it"},
    {"budget", &kPositive, optional, "downtime of this service; rules.downtime where silent"},
    {"files", &kFilesList, optional, "trees that it needs"},
    {"postgres", &kPostgres, optional, "databases that it needs"},
    {"traffic", &kTraffic, optional, "how users reach it"},
    {"names", &kNames, optional, "names that users know"},
    {"guard", &kGuard, optional, "what this service wants other than in rules.guard"},
    {"gate", &kGate, optional, "the PostgreSQL session gate between its clients and both databases"},
    {"mail", &kMail, optional, "mailboxes and queue; its addresses are not renumbered"},
};
constexpr Shape kService = object("a service, {probe, files, postgres, traffic, names, mail}", kServiceFields);
constexpr Shape kServices = of(Kind::map, "services by name", kService);

constexpr Field kEndFields[] = {
    {"host", &kHostName, required, "the host"},
    {"dev", &kDevice, required, "its network device"},
};
constexpr Shape kEnd = object("an end, {host: HOST, dev: eth0}", kEndFields);
constexpr Field kSubnetFields[] = {
    {"subnet", &kPrefix, one_of, "a subnet that moves"},
    {"from", &kEnd, optional, "where it is"},
    {"to", &kEnd, optional, "where it goes"},
    {"addresses", &kAddresses, optional, "what moves; all that `from` has of the subnet where silent"},
    {"gateway", &kAddress, optional, "the router in the subnet"},
    {"pool", &kPrefix, one_of, "the temporary home"},
    {"for", &kHostName, optional, "the pool's host"},
    {"release", &kBoolean, optional, "at the end the names' addresses of it leave the host"},
};
constexpr Shape kSubnet = object("{subnet, from, to} or {pool, for}", kSubnetFields);
constexpr Shape kSubnets = of(Kind::list, "a list of subnets and pools", kSubnet);

constexpr Shape kStraggler = text("who may still talk to old: an address, or SERVICE@ADDRESS", is_straggler, "^([a-z][a-z0-9_-]*@)?[0-9A-Fa-f.:]+$");
constexpr Shape kStragglers = of(Kind::one_or_list, "a list of addresses", kStraggler);
constexpr Field kAfterFields[] = {
    {"old", &kAfterOld, optional, "what becomes of old at the end"},
    {"accept", &kStragglers, optional, "who may still talk to old when it is given up"},
};
constexpr Shape kAfter = object("{old: stopped, fenced or kept}", kAfterFields);

constexpr std::array<std::string_view, 1> kUnitSides{"one"};
constexpr Shape kOneSide = words("one", kUnitSides);
constexpr Field kUnitFields[] = {
    {"name", &kUnitName, required, "a service or timer of the host's supervisor, or cron@NAME for /etc/cron.d/NAME"},
    {"sides", &kOneSide, optional, "one: it runs on old until the switch, then on new; one where silent"},
    {"deadline", &kPositive, optional, "how long a run in progress is waited for; 30s where silent"},
};
constexpr Shape kUnit = object("a unit, {name: invoices.timer}", kUnitFields);
constexpr Shape kUnits = of(Kind::list, "a list of units", kUnit);
constexpr Shape kAccept = text("what `check` says is not covered, such as \"listen 127.0.0.1:6379\"", is_acceptance,
                               "^(listen|unit|cron|mount|database|tree|firewall|ssh|certificates)( .+)?$");
constexpr Shape kAccepted = of(Kind::list, "a list of what is accepted", kAccept);

constexpr Field kManifestFields[] = {
    {"move", &kName, required, "the move's name"},
    {"hosts", &kHosts, required, "machines reached by ssh"},
    {"sides", &kSides, optional, "which hosts are old and new"},
    {"vantage", &kHostName, optional, "host where probes run; out where silent"},
    {"verifier", &kHostName, optional, "third host that verifies addresses; HAProxy's where silent"},
    {"rules", &kRules, optional, "the rules of engagement"},
    {"services", &kServices, required, "what users see"},
    {"addresses", &kSubnets, optional, "subnets that move, and the temporary home"},
    {"after", &kAfter, optional, "what becomes of old at the end"},
    {"units", &kUnits, optional, "units that must never run twice"},
    {"accept", &kAccepted, optional, "what no mover covers, accepted in writing"},
};
constexpr Shape kManifest = object("a manifest, {move, hosts, services, ..}", kManifestFields);

}  // namespace

const Shape& manifest_shape() { return kManifest; }

}  // namespace midstream
