#include "control/check.h"

#include <arpa/inet.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <set>
#include <thread>

#include "base/text.h"
#include "control/host_checks.h"
#include "control/oneshot.h"
#include "control/rules.h"

namespace midstream {

namespace {

constexpr std::int64_t kClockSkewLimitMs = 2'000;
constexpr int kLooks = 3;

struct HostView {
  std::optional<Oneshot> agent;
  std::vector<std::string> addresses;
  std::vector<Finding> findings;
  bool cut = false;  // before there was an agent to ask
};

void add(HostView& view, const HostSpec& host, std::string what, bool ok, std::string detail, std::string todo = "") {
  view.findings.push_back({host.name, std::move(what), ok, std::move(detail), std::move(todo)});
}

void check_host(HostView& view, const Manifest& manifest, const HostSpec& host, const std::filesystem::path& binary, Deadline deadline) {
  auto agent = Oneshot::open(ssh_target(manifest, host), manifest.move, binary, deadline.sooner(Millis(20'000)));
  if (!agent) return add(view, host, "reachable by ssh", false, agent.error().what, agent.error().todo);
  const auto before = wall_now_ms();
  auto facts = agent->facts(deadline.sooner(Millis(10'000)));
  view.cut = agent->cut();
  if (!facts) return add(view, host, "the agent runs there", false, facts.error().what, "the host must be Linux on x86-64 with glibc 2.36 or later");
  add(view, host, "reachable by ssh", true, host.ssh);
  const auto after = wall_now_ms();
  const auto theirs = get_int_or(*facts, "wall_ms", 0);
  const auto skew = theirs < before ? before - theirs : theirs > after ? theirs - after : 0;
  add(view, host, "clock agrees", skew <= kClockSkewLimitMs, fmt::format("{} ms apart", skew), "run an NTP client there");
  const auto addresses = facts->value("addresses", Json::array());
  add(view, host, "data address is its own", std::ranges::find(addresses, Json(host.data)) != addresses.end(), host.data,
      "set `data:` of this host to an address it has and keeps");
  for (const auto& address : addresses) {
    if (address.is_string()) view.addresses.push_back(address.get<std::string>());
  }
  view.agent = std::move(*agent);
}

// One desired state a mover, host, kind and thing: the weights of one backend are checked once, not per step.
std::vector<const Step*> worth_checking(const Plan& plan) {
  std::vector<const Step*> steps;
  std::set<std::string> seen;
  for (const auto& step : plan.steps) {
    const bool late = step.phase == "home" || (step.phase == "finish" && step.mover != "end");
    if (step.kind != StepKind::effect || late) continue;
    const auto kind = get_string_or(step.desired, "kind", "");
    const auto thing = get_string_or(step.desired, "backend", get_string_or(step.desired, "name", get_string_or(step.desired, "id", "")));
    const auto type = get_string_or(step.desired, "type", "");
    if (seen.insert(fmt::format("{}|{}|{}|{}|{}|{}", step.host, step.mover, kind, step.service, thing, type)).second) steps.push_back(&step);
  }
  return steps;
}

void check_steps(HostView& view, const HostSpec& host, const std::vector<const Step*>& steps, Deadline deadline, const Oneshot::Relay& relay) {
  if (!view.agent) return;
  for (const auto* step : steps) {
    if (step->host != host.name) continue;
    auto found = view.agent->ask(step->mover, "check", step->desired, deadline.sooner(Millis(30'000)), relay);
    if (!found) {
      add(view, host, step->text, false, found.error().what, found.error().todo);
      if (found.error().kind == ErrorKind::retry) return;  // the link is gone
      continue;
    }
    for (const auto& one : *found) {
      const bool ok = get_bool_or(one, "ok", false);
      add(view, host, get_string_or(one, "what", step->text), ok, get_string_or(one, "detail", ""), ok ? "" : get_string_or(one, "todo", ""));
    }
  }
}

template <class Body>
void on_every_host(const Manifest& manifest, Body body) {
  std::vector<std::jthread> threads;
  for (std::size_t i = 0; i < manifest.hosts.size(); ++i) threads.emplace_back([&, i] { body(i); });
}

}  // namespace

bool within(const std::string& address, const std::string& prefix) {
  const auto slash = prefix.find('/');
  const int family = prefix.find(':') == std::string::npos ? AF_INET : AF_INET6;
  std::array<unsigned char, 16> a{};
  std::array<unsigned char, 16> b{};
  if (::inet_pton(family, address.c_str(), a.data()) != 1) return false;
  if (::inet_pton(family, prefix.substr(0, slash).c_str(), b.data()) != 1) return false;
  const int bits = std::atoi(prefix.c_str() + slash + 1);
  for (int bit = 0; bit < bits; ++bit) {
    if (((a[bit / 8] ^ b[bit / 8]) >> (7 - bit % 8) & 1) != 0) return false;
  }
  return true;
}

namespace {

// A moving subnet that lists no addresses means those that its host has now.
Manifest resolve(const Manifest& manifest, const std::vector<HostView>& views) {
  auto resolved = manifest;
  for (auto& subnet : resolved.subnets) {
    if (!subnet.addresses.empty()) continue;
    for (std::size_t i = 0; i < manifest.hosts.size(); ++i) {
      if (manifest.hosts[i].name != subnet.from.host) continue;
      std::ranges::copy_if(views[i].addresses, std::back_inserter(subnet.addresses),
                           [&](const std::string& address) { return within(address, subnet.subnet); });
    }
  }
  return resolved;
}

// HAProxy's servers on old: what listens there is known to traffic. What cannot be asked is a finding of traffic's own.
Json servers_on_old(const Manifest& manifest, std::vector<HostView>& views, Deadline deadline) {
  Json servers = Json::array();
  for (const auto& question : servers_questions(manifest)) {
    for (std::size_t i = 0; i < manifest.hosts.size(); ++i) {
      if (manifest.hosts[i].name != question.host || !views[i].agent) continue;
      const auto seen = views[i].agent->ask("traffic", "observe", question.desired, deadline.sooner(Millis(5'000)), {});
      const auto found = seen ? seen->value("servers", Json::object()) : Json::object();
      for (const auto& [name, server] : found.items()) {
        const auto port = get_int_or(server, "port", 0);
        if (port > 0) servers.push_back({{"address", get_string_or(server, "address", "")}, {"port", port}, {"by", fmt::format("server {} of service {}", name, question.service)}});
      }
    }
  }
  return servers;
}

// Today's TTLs, which the plan's waits depend on.
void read_ttls(const Manifest& manifest, std::vector<HostView>& views, PlanFacts& facts, Deadline deadline) {
  for (const auto& service : manifest.services) {
    for (const auto& name : service.names) {
      for (std::size_t i = 0; i < manifest.hosts.size(); ++i) {
        if (manifest.hosts[i].name != name.via || !views[i].agent) continue;
        const auto seen = views[i].agent->ask("names", "observe", ttl_desired(name, name.ttl.count(), name.ttl.count(), name.old_value),
                                              deadline.sooner(Millis(5'000)), {});
        // What cannot be read now is a finding of the name's own check; the plan then assumes the manifest's TTL.
        if (!seen) continue;
        const auto ttl = get_int_or(*seen, "ttl_ms", 0);
        if (ttl > 0) facts.ttl_ms[name_key(name)] = ttl;
      }
    }
  }
}

}  // namespace

bool CheckResult::ok() const { return std::ranges::all_of(findings, &Finding::ok); }

namespace {
// Where a family has a pool, each name's new address is allocated out of one of new's, and once a service.
void check_pools(const Manifest& manifest, std::vector<Finding>& findings) {
  for (const auto& service : manifest.services) {
    for (const auto& name : service.names) {
      const bool v6 = name.type == "AAAA";
      bool has_pool = false;
      bool allocated = false;
      for (const auto& pool : manifest.pools) {
        if (pool.for_host != manifest.new_host || (pool.pool.find(':') != std::string::npos) != v6) continue;
        has_pool = true;
        allocated = allocated || within(name.new_value, pool.pool);
      }
      if (!has_pool || allocated || name.new_value == name.old_value) continue;
      findings.push_back({manifest.new_host, fmt::format("the temporary home of {} {}", name.type, name.name), false,
                          fmt::format("{} lies in no pool for {}", name.new_value, manifest.new_host), "give it an address of the pool, or correct the pool"});
    }
  }
}

}  // namespace

std::vector<Finding> check_manifest(const Manifest& manifest) {
  std::vector<Finding> findings;
  check_pools(manifest, findings);
  std::map<std::string, std::string> taken;  // host to service
  for (const auto& service : manifest.services) {
    if (!service.postgres) continue;
    const auto& spec = *service.postgres;
    // Each is handed over in a commit of its own: a crash between two would leave them on different sides.
    if (spec.databases.size() > 1)
      findings.push_back({spec.new_side.host, "databases that are switched together", false,
                          fmt::format("service {} has {}", service.name, join(spec.databases, ", ")),
                          "several databases cannot be switched as one yet: move one of them in this move, the next after it has finished"});
    for (const auto& host : {spec.old_side.host, spec.new_side.host}) {
      const auto [first, fresh] = taken.try_emplace(host, service.name);
      if (!fresh && first->second != service.name)
        findings.push_back({host, "one service with databases a host", false, fmt::format("services {} and {}", first->second, service.name),
                            "move one of them in this move, the other after it has finished"});
    }
  }
  return findings;
}

SshTarget ssh_target(const Manifest&, const HostSpec& host) {
  return {host.name, host.ssh, host.ssh_config.value_or(""), host.data};
}

std::vector<Finding> check_window(const Manifest& manifest, const Plan& plan, std::int64_t now) {
  if (!manifest.rules.window) return {};
  const auto view = view_window(*manifest.rules.window, state_of(plan), now);
  if (!view) return {{"", "the window", false, view.error().what, view.error().todo}};
  return {{"", "what users could feel fits the window", view->fits_at_all, view->text,
           "shorten holds or TTLs, let fewer services shift in one move, or widen rules.window"}};
}

namespace {

// `cut`: a link broke on the way, so that findings may say something of the link alone.
Result<CheckResult> look_once(const Manifest& manifest, const std::filesystem::path& agent_binary, const Describe& describe,
                              const History& history, Deadline deadline, bool& cut) {
  CheckResult result;
  result.facts.history = history;
  result.findings = check_manifest(manifest);
  std::vector<HostView> views(manifest.hosts.size());
  on_every_host(manifest, [&](std::size_t i) { check_host(views[i], manifest, manifest.hosts[i], agent_binary, deadline); });
  read_ttls(manifest, views, result.facts, deadline);
  result.resolved = resolve(manifest, views);
  cut = std::ranges::any_of(views, &HostView::cut);
  const bool all_reached = std::ranges::all_of(views, [](const HostView& view) { return view.agent.has_value(); });
  if (!all_reached) {
    for (auto& view : views) std::ranges::move(view.findings, std::back_inserter(result.findings));
    return result;
  }
  result.plan = TRY(make_plan(result.resolved, result.facts, describe));
  std::ranges::move(check_window(result.resolved, result.plan, wall_now_ms()), std::back_inserter(result.findings));
  auto steps = worth_checking(result.plan);
  const auto more = host_checks(result.resolved, servers_on_old(result.resolved, views, deadline));
  for (const auto& step : more) steps.push_back(&step);
  const auto relay = [&](const std::string& host, const Json& question) -> Result<Json> {
    for (std::size_t i = 0; i < manifest.hosts.size(); ++i) {
      if (manifest.hosts[i].name == host) return views[i].agent->peer(question, deadline.sooner(Millis(20'000)));
    }
    return refused(fmt::format("host {} is not in the manifest", host));
  };
  // One host after the other: a check may ask any other host, which must then be free to answer.
  for (std::size_t i = 0; i < views.size(); ++i) check_steps(views[i], manifest.hosts[i], steps, deadline, relay);
  cut = std::ranges::any_of(views, [](const HostView& view) { return view.agent->cut(); });
  for (auto& view : views) std::ranges::move(view.findings, std::back_inserter(result.findings));
  return result;
}

}  // namespace

// A link that broke while hosts were looked over is no finding about what is there: everything is looked at again. The last
// look is taken as it is.
Result<CheckResult> check_move(const Manifest& manifest, const std::filesystem::path& agent_binary, const Describe& describe,
                               const History& history, Deadline deadline) {
  for (int look = 1;; ++look) {
    bool cut = false;
    auto result = look_once(manifest, agent_binary, describe, history, deadline, cut);
    if (!cut || look == kLooks || deadline.expired()) return result;
  }
}

Json to_json(const CheckResult& result) {
  Json findings = Json::array();
  for (const auto& one : result.findings) {
    findings.push_back({{"host", one.host}, {"what", one.what}, {"ok", one.ok}, {"detail", one.detail}, {"todo", one.todo}});
  }
  return {{"schema", "midstream.check/1"}, {"ok", result.ok()}, {"findings", std::move(findings)}};
}

}  // namespace midstream
