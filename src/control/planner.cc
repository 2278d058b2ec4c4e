#include "control/planner.h"

#include <fmt/format.h>

#include <algorithm>

#include "control/check.h"

namespace midstream {

namespace {

constexpr Span kPatience{24 * 3'600'000};  // with those who still talk to old
constexpr std::int64_t kAssumedEffect = 2'000;  // where nothing of the kind was measured yet
constexpr std::int64_t kAssumedWait = 10'000;
constexpr std::int64_t kLooks = 2'000;  // of a guard, beyond its sample
constexpr Span kVerify{24 * 3'600'000};  // until every row was compared
constexpr Span kEaseBack{3'000};  // at most, at each share on the way back

// Collects the steps phase by phase: every service adds its own to each, in the manifest's order.
class Builder {
 public:
  Builder(const Manifest& manifest, const PlanFacts& facts, const Describe& describe)
      : manifest_(manifest), facts_(facts), describe_(describe) {}

  Result<Plan> build() {
    plan_.move = manifest_.move;
    for (const auto& host : manifest_.hosts) plan_.hosts.push_back(host.name);
    for (const auto& service : manifest_.services) {
      plan_.budgets[service.name] = (service.budget.count() > 0 ? service.budget : manifest_.rules.downtime).count();
    }
    prepare();
    copy();
    follow();
    gate();
    shift();
    switch_over();
    soak();
    CHECK_OK(addresses());
    home();
    finish();
    leave();
    add_gates();
    for (auto& step : plan_.steps) expect(step);
    CHECK_OK(validate(plan_));
    return std::move(plan_);
  }

 private:
  Step& add(std::string phase, std::string service, std::string id, std::string host, std::string mover, Json desired) {
    Step step;
    step.id = service.empty() ? std::move(id) : fmt::format("{}.{}", service, id);
    step.phase = std::move(phase);
    step.service = std::move(service);
    step.host = std::move(host);
    step.hosts = involved(step.host, desired);
    step.text = describe_(mover, desired);
    step.mover = std::move(mover);
    step.desired = std::move(desired);
    plan_.steps.push_back(std::move(step));
    return plan_.steps.back();
  }
  Step& add_wait(std::string phase, std::string service, std::string id, std::string host, std::string mover, Json desired,
                 Span deadline) {
    auto& step = add(std::move(phase), std::move(service), std::move(id), std::move(host), std::move(mover), std::move(desired));
    step.kind = StepKind::wait;
    step.deadline_ms = deadline.count();
    return step;
  }
  Step& add_hold(std::string phase, std::string service, std::string id, std::string text, Span span) {
    Step step;
    step.id = service.empty() ? std::move(id) : fmt::format("{}.{}", service, id);
    step.phase = std::move(phase);
    step.service = std::move(service);
    step.kind = StepKind::hold;
    step.text = std::move(text);
    step.deadline_ms = std::max<std::int64_t>(span.count(), 1);
    plan_.steps.push_back(std::move(step));
    return plan_.steps.back();
  }

  // The hosts whose agents a step may set to work: its own, and every one that its desired state names. Whoever else is
  // out of reach does not hold it up.
  std::vector<std::string> involved(const std::string& host, const Json& desired) const {
    std::vector<std::string> hosts{host};
    for (const auto* key : {"from", "to", "old", "new", "verifier", "gate"}) {
      const auto named = desired.value(key, Json());
      const auto name = named.is_object() ? get_string_or(named, "host", "") : named.is_string() ? named.get<std::string>() : "";
      if (manifest_.host(name) == nullptr || std::ranges::find(hosts, name) != hosts.end()) continue;
      hosts.push_back(name);
    }
    return hosts;
  }

  static Json with(Json base, std::string kind, const Json& more = Json::object()) {
    base["kind"] = std::move(kind);
    base.update(more);
    return base;
  }

  // The operator's word before a phase. A phase without steps has no gate.
  void add_gates() {
    for (const auto& phase : manifest_.rules.confirm) {
      const auto first = std::ranges::find(plan_.steps, phase, &Step::phase);
      if (first == plan_.steps.end()) continue;
      Step gate;
      gate.id = "confirm-" + phase;
      gate.phase = phase;
      gate.kind = StepKind::confirm;
      gate.text = fmt::format("waits for the operator's word before phase {}", phase);
      plan_.steps.insert(first, std::move(gate));
    }
  }

  // How long a step takes and what it costs its service: what earlier steps of its kind did, else what is assumed.
  void expect(Step& step) const {
    if (step.kind == StepKind::confirm) return;
    if (step.kind == StepKind::hold) {
      step.expected_ms = step.deadline_ms;
      const auto service = std::ranges::find(manifest_.services, step.guard, &ServiceSpec::name);
      if (service != manifest_.services.end())
        step.expected_ms = std::max(step.expected_ms, kLooks + 1'000 * service->guard.min_samples / service->guard.rate);
      return;
    }
    const auto ttl = get_int_or(step.desired, "ttl", 0);
    const bool waits_for_ttl = step.kind == StepKind::wait && get_string_or(step.desired, "kind", "") == "expired";
    step.expected_ms = waits_for_ttl ? ttl : step.kind == StepKind::wait ? kAssumedWait : kAssumedEffect;
    const auto cost = facts_.history.cost(history_key(step));
    if (step.kind == StepKind::effect && !step.service.empty()) step.expected_from = step.expected_blackout_ms > 0 ? "assumed" : "";
    if (!cost) return;
    if (cost->took_ms && !waits_for_ttl) step.expected_ms = *cost->took_ms;
    if (step.kind != StepKind::effect || step.service.empty() || !cost->blackout_ms) return;
    step.expected_blackout_ms = *cost->blackout_ms;
    step.expected_from = fmt::format("measured {} times", cost->times);
  }

  // ---- bases of desired states, docs/formats/desired.md
  Json files_base(const ServiceSpec& service, std::size_t index) const {
    const auto& tree = service.files[index];
    return {{"id", fmt::format("{}-{}", service.name, index)}, {"path", tree.path}, {"except", tree.except}};
  }
  Json postgres_base(const ServiceSpec& service) const {
    const auto& spec = *service.postgres;
    const auto side = [&](const ClusterSpec& cluster) {
      return Json{{"host", cluster.host}, {"address", manifest_.host(cluster.host)->data}, {"port", cluster.port}};
    };
    Json base{{"databases", spec.databases}, {"old", side(spec.old_side)}, {"new", side(spec.new_side)}};
    if (spec.road != "logical") base["road"] = spec.road;
    if (spec.limit > 0) base["limit"] = spec.limit;
    if (spec.sync_reverse) base["reverse"] = "sync";
    if (spec.commit_latency > Span(0)) base["commit_latency_ms"] = spec.commit_latency.count();
    if (!service.gate) return base;
    base["service"] = service.name;
    base["gate"] = {{"host", service.gate->host}, {"address", manifest_.host(service.gate->host)->data}};
    return base;
  }
  Json gate_base(const ServiceSpec& service) const {
    auto base = postgres_base(service);
    base.erase("gate");
    base["listen"] = service.gate->listen;
    base["postgres"] = with(with_port(postgres_base(service), service.postgres->old_side), "source");
    return base;
  }
  // Trees that other movers carry: mail stores are not to be among them.
  Json mail_base(const MailSpec& spec) const {
    const auto side = [&](const std::string& host) { return Json{{"host", host}, {"address", manifest_.host(host)->data}}; };
    Json trees = Json::array();
    for (const auto& service : manifest_.services)
      for (const auto& tree : service.files) trees.push_back(tree.path);
    return {{"old", side(spec.old_host)}, {"new", side(spec.new_host)}, {"trees", trees}};
  }
  static Json with_port(Json base, const ClusterSpec& cluster) {
    base["port"] = cluster.port;
    return base;
  }
  static Json traffic_base(const TrafficSpec& spec) {
    return {{"socket", spec.socket}, {"config", spec.config}, {"backend", spec.backend}, {"old", spec.old_servers}, {"new", spec.new_servers}};
  }
  static Json name_base(const NameSpec& name) {
    return {{"server", name.server}, {"port", 53}, {"zone", name.zone}, {"name", name.name}, {"type", name.type}, {"key_file", name.key_file}};
  }
  static std::string name_id(const NameSpec& name) {
    std::string label = name.name.substr(0, name.name.find('.'));
    return fmt::format("{}-{}", label, name.type == "AAAA" ? "aaaa" : "a");
  }
  std::int64_t ttl_today(const NameSpec& name) const {
    const auto found = facts_.ttl_ms.find(name_key(name));
    return found == facts_.ttl_ms.end() ? name.ttl.count() : found->second;
  }
  // The clock of a name's old record starts when all servers agree on the new one, and is waited for later: the
  // clocks of all names run side by side.
  void add_clock(const std::string& phase, const ServiceSpec& service, const std::string& id, const NameSpec& name,
                 const std::string& value, std::int64_t ttl_ms) {
    add(phase, service.name, id + "-clock", name.via, "names", with(name_base(name), "expired", {{"value", value}, {"ttl", ttl_ms}}));
  }
  void add_expired(const std::string& phase, const ServiceSpec& service, const std::string& id, const NameSpec& name,
                   const std::string& value, std::int64_t ttl_ms) {
    add_wait(phase, service.name, id + "-expired", name.via, "names", with(name_base(name), "expired", {{"value", value}, {"ttl", ttl_ms}}),
             Span(ttl_ms * 2 + 60'000));
  }

  // ---- units that run on one side only
  Json unit_base(const UnitSpec& unit) const {
    return {{"name", unit.name},
            {"from", {{"host", manifest_.old_host}}},
            {"to", {{"host", manifest_.new_host}}},
            {"deadline_ms", unit.deadline.count()}};
  }
  void add_unit(const std::string& phase, const std::string& kind, const UnitSpec& unit, const std::string& host) {
    const auto suffix = kind == "unit" ? std::string() : kind.substr(4) + (kind == "unit-end" ? "-" + host : "");
    auto& step = add(phase, "", fmt::format("unit-{}{}", unit.name, suffix), host, "hosts", with(unit_base(unit), kind));
    step.deadline_ms = unit.deadline.count() + 60'000;  // and its start, or its way back
    if (kind == "unit") step.needs = {fmt::format("unit-{}-ready", unit.name)};
    step.irreversible = kind == "unit-end";
  }

  // ---- phases
  void prepare() {
    for (const auto& unit : manifest_.units) add_unit("prepare", "unit-ready", unit, manifest_.new_host);
    const auto config = probe_config(manifest_);
    if (!config["services"].empty() || !config["addresses"].empty()) {
      add("prepare", "", "probe", manifest_.vantage, "probe", {{"kind", "probe"}, {"config", config}});
    }
    for (const auto& service : manifest_.services) {
      for (const auto& name : service.names) {
        add("prepare", service.name, name_id(name) + "-ttl-low", name.via, "names",
            ttl_desired(name, name.ttl.count(), ttl_today(name), name.old_value));
        add_clock("prepare", service, name_id(name) + "-ttl-low", name, name.old_value, ttl_today(name));
      }
    }
    for (const auto& service : manifest_.services) {
      if (service.mail) add("prepare", service.name, "mail-proxy", service.mail->new_host, "mail", with(mail_base(*service.mail), "proxy"));
      if (!service.postgres) continue;
      const auto& spec = *service.postgres;
      add("prepare", service.name, "source", spec.old_side.host, "postgres", with(with_port(postgres_base(service), spec.old_side), "source"));
      add("prepare", service.name, "target", spec.new_side.host, "postgres", with(with_port(postgres_base(service), spec.new_side), "target"))
          .deadline_ms = 600'000;
    }
  }

  // Who is mail's home changes step by step; what changes on new from then on is carried back.
  void switch_mail(const ServiceSpec& service) {
    const auto& spec = *service.mail;
    const auto back = mail_follow(spec, false, "caught-up");
    add_wait("switch", service.name, "mail-close", spec.old_host, "mail", mail_follow(spec, true, "caught-up"), Span(600'000));
    add("switch", service.name, "mail-back", spec.new_host, "mail", back);
    int from = 0;
    for (const int percent : spec.steps) {
      auto& step = add("switch", service.name, fmt::format("mail-flip-{}", percent), spec.new_host, "mail", with(mail_base(spec), "flip", {{"percent", percent}, {"from", from}}));
      step.expected_blackout_ms = 5'000;  // of one user: logins and deliveries wait for a few at a time
      step.deadline_ms = 1'800'000;
      step.in_window = true;
      step.attempts = 6;
      step.needs = {service.name + ".mail-verify"};
      from = percent;
    }
    add_wait("switch", service.name, "mail-back-caught-up", spec.new_host, "mail", back, Span(600'000));
  }

  // SMTP waits on old while the addresses move, then the queue follows them: from there on new sends under the mail address.
  void add_mail_steps(std::string_view kind) {
    for (const auto& service : manifest_.services) {
      if (!service.mail) continue;
      auto& step = add("addresses", service.name, fmt::format("mail-{}", kind), kind == "defer" ? service.mail->old_host : service.mail->new_host, "mail",
                       with(mail_base(*service.mail), std::string(kind)));
      step.in_window = true;
      step.deadline_ms = 300'000;
      step.attempts = 6;
    }
  }

  Json mail_follow(const MailSpec& spec, bool first, const std::string& until) const {
    return with(mail_base(spec), "follow", {{"first", first}, {"until", until}});
  }

  void copy() {
    for (const auto& service : manifest_.services) {
      if (service.mail) add("copy", service.name, "mail-copy", service.mail->old_host, "mail", mail_follow(*service.mail, true, "copied"));
      for (std::size_t i = 0; i < service.files.size(); ++i) {
        add("copy", service.name, fmt::format("files-{}", i), manifest_.old_host, "files", forward_files(service, i, "copied"));
      }
      if (service.postgres) add("copy", service.name, "mirror", service.postgres->new_side.host, "postgres", mirror(service, "copied"));
    }
    wait_for_data("copy", "copied", Span(24 * 3'600'000));
  }

  void follow() {
    wait_for_data("follow", "caught-up", Span(3'600'000));
    for (const auto& service : manifest_.services) {
      for (const auto& name : service.names) {
        add_expired("follow", service, name_id(name) + "-ttl-low", name, name.old_value, ttl_today(name));
      }
      for (std::size_t i = 0; i < service.files.size(); ++i) {
        add("follow", service.name, fmt::format("files-{}-verify", i), manifest_.old_host, "files",
            with(files_base(service, i), "verify", {{"to", manifest_.new_host}}))
            .deadline_ms = 3'600'000;
      }
      if (service.mail) add("follow", service.name, "mail-verify", service.mail->new_host, "mail", with(mail_base(*service.mail), "verify")).deadline_ms = 3'600'000;
      if (!service.postgres) continue;
      const auto& spec = *service.postgres;
      add("follow", service.name, "verify", spec.new_side.host, "postgres", verified(service));
      add_wait("follow", service.name, "verified", spec.new_side.host, "postgres", verified(service), kVerify);
    }
  }

  Json forward_files(const ServiceSpec& service, std::size_t i, const std::string& until) const {
    return with(files_base(service, i), "follow", {{"to", manifest_.new_host}, {"first", true}, {"until", until}});
  }
  Json mirror(const ServiceSpec& service, const std::string& until) const {
    return with(with_port(postgres_base(service), service.postgres->new_side), "follow", {{"until", until}});
  }

  // Begun once, it goes on in the background; it is seen clean before traffic moves, and young enough before the switch.
  Json verified(const ServiceSpec& service) const {
    return with(with_port(postgres_base(service), service.postgres->new_side), "verify", {{"age_ms", service.postgres->verify_age.count()}});
  }

  void wait_for_data(const std::string& phase, const std::string& until, Span deadline) {
    for (const auto& service : manifest_.services) {
      for (std::size_t i = 0; i < service.files.size(); ++i) {
        add_wait(phase, service.name, fmt::format("files-{}-{}", i, until), manifest_.old_host, "files", forward_files(service, i, until), deadline);
      }
      if (service.mail) add_wait(phase, service.name, "mail-" + until, service.mail->old_host, "mail", mail_follow(*service.mail, true, until), deadline);
      if (service.postgres) {
        add_wait(phase, service.name, "mirror-" + until, service.postgres->new_side.host, "postgres", mirror(service, until), deadline);
      }
    }
  }

  void gate() {
    for (const auto& service : manifest_.services) {
      if (!service.gate) continue;
      const auto& spec = *service.postgres;
      add("gate", service.name, "gate", service.gate->host, "gate", with(gate_base(service), "gate")).deadline_ms = 60'000;
      auto& drain = add("gate", service.name, "drain", spec.old_side.host, "postgres",
                        with(with_port(postgres_base(service), spec.old_side), "drain", {{"idle_ms", service.gate->close_idle.count()}}));
      drain.deadline_ms = kPatience.count();
    }
  }

  void shift() {
    const auto first = plan_.steps.size();
    for (const auto& service : manifest_.services) both_ways(service);
    repoint_names();
    for (const auto& service : manifest_.services) {
      if (service.traffic && !service.traffic->steps.empty()) shift_traffic(service);
    }
    for (auto i = first; i < plan_.steps.size(); ++i) plan_.steps[i].in_window = plan_.steps[i].kind == StepKind::effect;
  }

  // From the first request that new serves until finish, uploads may land on either side.
  void both_ways(const ServiceSpec& service) {
    for (std::size_t i = 0; i < service.files.size(); ++i) {
      const auto desired = with(files_base(service, i), "follow", {{"to", manifest_.old_host}, {"first", false}, {"until", "caught-up"}});
      // Its undo waits for what is still being written on new.
      add("shift", service.name, fmt::format("files-{}-back", i), manifest_.new_host, "files", desired).attempts = 30;
      add_wait("shift", service.name, fmt::format("files-{}-back-caught-up", i), manifest_.new_host, "files", desired, Span(600'000));
    }
  }

  void repoint_names() {
    for (const auto& service : manifest_.services) {
      for (const auto& name : service.names) {
        add("shift", service.name, name_id(name) + "-repoint", name.via, "names",
            with(name_base(name), "repoint", {{"from", name.old_value}, {"to", name.new_value}, {"ttl", name.ttl.count()}}));
        add_clock("shift", service, name_id(name) + "-repoint", name, name.new_value, name.ttl.count());
      }
    }
    for (const auto& service : manifest_.services) {
      for (const auto& name : service.names) add_expired("shift", service, name_id(name) + "-repoint", name, name.new_value, name.ttl.count());
    }
  }

  // On the way back old warms up again at the last two shares before all of the traffic.
  static std::int64_t ease_back_ms(const TrafficSpec& spec, int percent) {
    const auto share = std::ranges::find(spec.steps, percent);
    const auto left = std::distance(share, spec.steps.end());
    return percent < 100 && left <= 3 ? std::min(spec.hold.count(), kEaseBack.count()) : 0;
  }

  void shift_traffic(const ServiceSpec& service) {
    const auto& spec = *service.traffic;
    const auto first = plan_.steps.size();
    if (service.guard.enabled) add_guard(service);
    int from = 0;
    for (const int percent : spec.steps) {
      add("shift", service.name, fmt::format("weights-{}", percent), spec.haproxy, "traffic",
          with(traffic_base(spec), "weights", {{"percent", percent}, {"from", from}}));
      add_hold("shift", service.name, fmt::format("weights-{}-hold", percent), fmt::format("watches {}% on new for {} s", percent, spec.hold.count() / 1000.0), spec.hold)
          .back_ms = ease_back_ms(spec, percent);
      from = percent;
    }
    const auto drain = with(traffic_base(spec), "drain", {{"servers", spec.old_servers}});
    add("shift", service.name, "drain", spec.haproxy, "traffic", drain);
    add_wait("shift", service.name, "drained", spec.haproxy, "traffic", drain, spec.drain);
    for (auto i = first; i < plan_.steps.size() && service.guard.enabled; ++i) plan_.steps[i].guard = service.name;
    for (std::size_t i = 0; i < service.files.size(); ++i) {
      add("shift", service.name, fmt::format("files-{}-barrier", i), manifest_.old_host, "files",
          with(files_base(service, i), "barrier", {{"to", manifest_.new_host}})).attempts = 6;
    }
  }

  // New is looked at before it serves anybody, and from there to the end of the soak.
  void add_guard(const ServiceSpec& service) {
    const auto& spec = *service.traffic;
    const auto& rules = service.guard;
    std::string path;
    std::string authority;
    if (service.probe && service.probe->kind == "http") {
      const auto& url = service.probe->target;
      const auto host = url.find("//") + 2;
      const auto slash = std::min(url.find_first_of("/?", host), url.size());
      authority = url.substr(host, slash - host);
      path = slash == url.size() ? "/" : url[slash] == '?' ? "/" + url.substr(slash) : url.substr(slash);
    }
    const auto watch = with(traffic_base(spec), "watch",
                            {{"path", path}, {"authority", authority}, {"rate", rules.rate}, {"timeout_ms", service.probe ? service.probe->timeout.count() : 1'000}});
    add_hold("shift", service.name, "guard", fmt::format("compares new with old by {} requests of its own each, before new serves anybody", rules.min_samples), Span(1));
    plan_.guards.push_back({service.name, spec.haproxy, "traffic", watch,
                            {rules.errors, rules.p95, rules.floor.count() * 1'000, static_cast<std::uint64_t>(rules.min_samples)},
                            plan_.steps.back().id, "soak"});
  }

  void switch_over() {
    for (const auto& service : manifest_.services) {
      if (service.mail) switch_mail(service);
      if (!service.postgres) continue;
      const auto& spec = *service.postgres;
      add_wait("switch", service.name, "mirror-close", spec.new_side.host, "postgres", mirror(service, "caught-up"), Span(600'000));
      add_wait("switch", service.name, "verified-close", spec.new_side.host, "postgres", verified(service), kVerify);
      auto& step = add("switch", service.name, "switch", spec.new_side.host, "postgres",
                       with(with_port(postgres_base(service), spec.new_side), "switch",
                            {{"deadline_ms", spec.deadline.count()}, {"verified_within_ms", spec.verify_age.count()}}));
      step.expected_blackout_ms = spec.deadline.count();
      step.in_window = true;
      step.attempts = 6;
      step.needs = {service.name + ".verified"};
    }
    // Behind the databases: what works on one finds it where it will stay.
    for (const auto& unit : manifest_.units) add_unit("switch", "unit", unit, manifest_.new_host);
  }

  void soak() {
    add_hold("soak", "", "soak", fmt::format("observes both sides for {} s; going back stays one command", manifest_.rules.observe.count() / 1000.0),
             manifest_.rules.observe);
    keep(plan_.steps.back());
  }

  // What must go on while both sides are observed: uploads flow back, new owns each database and its stream runs back to
  // old, traffic is where it was sent.
  void keep(Step& soak) const {
    for (const auto& service : manifest_.services) {
      std::vector<std::string> kept;
      for (std::size_t i = 0; i < service.files.size(); ++i) kept.push_back(fmt::format("files-{}-back-caught-up", i));
      if (service.postgres) kept.emplace_back("switch");
      if (service.traffic && !service.traffic->steps.empty()) kept.push_back(fmt::format("weights-{}", service.traffic->steps.back()));
      for (const auto& id : kept) soak.keeps.push_back(service.name + "." + id);
    }
  }

  Result<> addresses() {
    if (manifest_.subnets.empty()) {
      for (const auto* kind : {"defer", "queue"}) add_mail_steps(kind);
      return {};
    }
    Json desired{{"addresses", Json::array()}, {"verifier", manifest_.verifier}};
    for (const auto& subnet : manifest_.subnets) {
      if (subnet.addresses.empty()) return refused(fmt::format("subnet {} lists no addresses", subnet.subnet), "name the addresses in use under `addresses:`");
      const bool v6 = subnet.subnet.find(':') != std::string::npos;
      for (const auto& address : subnet.addresses) desired["addresses"].push_back(address);
      desired[v6 ? "prefix6" : "prefix4"] = std::stoi(subnet.subnet.substr(subnet.subnet.find('/') + 1));
      if (!subnet.gateway.empty()) desired[v6 ? "gateway6" : "gateway4"] = subnet.gateway;
      desired["from"] = {{"host", subnet.from.host}, {"dev", subnet.from.dev}};
      desired["to"] = {{"host", subnet.to.host}, {"dev", subnet.to.dev}};
    }
    desired["fixed"] = fixed_addresses();
    const auto host = manifest_.subnets[0].to.host;
    add("addresses", "", "stage", host, "addresses", with(desired, "stage")).in_window = true;
    add_mail_steps("defer");
    auto& own = add("addresses", "", "own", host, "addresses", with(desired, "own"));
    own.in_window = true;
    own.needs = {"stage"};
    add_mail_steps("queue");
    return {};
  }

  // Addresses that midstream's own paths use: none of them may move.
  Json fixed_addresses() const {
    Json fixed = Json::array();
    const auto add_numeric = [&](const std::string& address) {
      const bool numeric = address.find(':') != std::string::npos || address.find_first_not_of("0123456789.") == std::string::npos;
      if (numeric && !address.empty() && std::ranges::find(fixed, Json(address)) == fixed.end()) fixed.push_back(address);
    };
    for (const auto& host : manifest_.hosts) add_numeric(host.data);
    for (const auto& service : manifest_.services) {
      for (const auto& name : service.names) add_numeric(name.server);
    }
    return fixed;
  }

  bool moves_home(const NameSpec& name) const {
    return std::ranges::any_of(manifest_.subnets, [&](const SubnetSpec& subnet) {
      return std::ranges::find(subnet.addresses, name.old_value) != subnet.addresses.end();
    });
  }

  template <class Body>
  void each_name(Body body) {
    for (const auto& service : manifest_.services) {
      for (const auto& name : service.names) body(service, name);
    }
  }

  void home() {
    each_name([&](const ServiceSpec& service, const NameSpec& name) {
      if (!moves_home(name)) return;
      add("home", service.name, name_id(name) + "-home", name.via, "names",
          with(name_base(name), "repoint", {{"from", name.new_value}, {"to", name.old_value}, {"ttl", name.ttl.count()}}))
          .in_window = true;
      add_clock("home", service, name_id(name) + "-home", name, name.old_value, name.ttl.count());
    });
    each_name([&](const ServiceSpec& service, const NameSpec& name) {
      if (moves_home(name)) add_expired("home", service, name_id(name) + "-home", name, name.old_value, name.ttl.count());
    });
    each_name([&](const ServiceSpec& service, const NameSpec& name) {
      add("home", service.name, name_id(name) + "-ttl-back", name.via, "names",
          ttl_desired(name, ttl_today(name), name.ttl.count(), moves_home(name) ? name.old_value : name.new_value));
    });
  }

  // Before the first step that cannot be taken back: nobody talks to old any more, or the operator lets them go.
  void silence() {
    const auto span_ms = manifest_.rules.silence.count();
    Json ignore = Json::object();
    Json ports = Json::object();
    for (const auto& service : manifest_.services) {
      if (service.postgres) ports[std::to_string(service.postgres->old_side.port)] = service.name;
      if (!service.traffic) continue;
      const auto& spec = *service.traffic;
      ignore[manifest_.host(spec.haproxy)->data] = fmt::format("HAProxy on {}, which counts its sessions itself", spec.haproxy);
      add_wait("finish", service.name, "old-silent", spec.haproxy, "traffic",
               with(traffic_base(spec), "silent", {{"servers", spec.old_servers}, {"silence_ms", span_ms}}), kPatience);
    }
    add_wait("finish", "", "old-silent", manifest_.old_host, "end",
             {{"kind", "silent"}, {"silence_ms", span_ms}, {"ignore", ignore}, {"services", ports}, {"accept", manifest_.after_accept}}, kPatience)
        .poll_ms = 500;
    const Json leaving = pool_addresses();
    if (leaving.empty()) return;
    const auto silent = Json{{"kind", "silent"}, {"silence_ms", span_ms}, {"addresses", leaving}, {"ignore", Json::object()},
                             {"services", Json::object()}, {"accept", manifest_.after_accept}};
    add_wait("finish", "", "pool-silent", manifest_.new_host, "end", silent, kPatience).poll_ms = 500;
  }

  // What names had of new's pools until the subnet followed and they went home.
  Json pool_addresses() {
    Json addresses = Json::array();
    each_name([&](const ServiceSpec&, const NameSpec& name) {
      const bool lent = std::ranges::any_of(manifest_.pools, [&](const PoolSpec& pool) {
        return pool.release && pool.for_host == manifest_.new_host && within(name.new_value, pool.pool);
      });
      if (lent && moves_home(name) && std::ranges::find(addresses, Json(name.new_value)) == addresses.end())
        addresses.push_back(name.new_value);
    });
    return addresses;
  }

  void release_pool() {
    const Json leaving = pool_addresses();
    if (leaving.empty()) return;
    Json gateways = Json::array();
    for (const auto& subnet : manifest_.subnets) {
      if (!subnet.gateway.empty()) gateways.push_back(subnet.gateway);
    }
    add("finish", "", "pool-release", manifest_.new_host, "addresses",
        {{"kind", "release"}, {"host", manifest_.new_host}, {"dev", manifest_.subnets[0].to.dev}, {"addresses", leaving}, {"gateways", gateways}})
        .irreversible = true;
  }

  void finish() {
    silence();
    for (const auto& unit : manifest_.units) {
      for (const auto& host : {manifest_.new_host, manifest_.old_host}) add_unit("finish", "unit-end", unit, host);
    }
    for (const auto& service : manifest_.services) {
      for (std::size_t i = 0; i < service.files.size(); ++i) {
        for (const auto* kind : {"end", "forget"}) {
          for (const auto& host : {manifest_.new_host, manifest_.old_host}) {
            const auto& other = host == manifest_.new_host ? manifest_.old_host : manifest_.new_host;
            auto& last = add("finish", service.name, fmt::format("files-{}-{}-{}", i, kind, host), host, "files",
                             with(files_base(service, i), kind, {{"to", other}}));
            last.irreversible = true;
            last.attempts = 6;  // somebody may have a file of the other side open for a moment longer
          }
        }
        if (manifest_.after_old == "kept") continue;
        auto& seal = add("finish", service.name, fmt::format("files-{}-seal", i), manifest_.old_host, "end", with(files_base(service, i), "seal"));
        seal.irreversible = true;
        seal.deadline_ms = 600'000;
      }
      if (service.mail) add("finish", service.name, "mail-end", service.mail->new_host, "mail", with(mail_base(*service.mail), "end")).irreversible = true;
      if (service.gate) add("finish", service.name, "gate-end", service.gate->host, "gate", with(gate_base(service), "end")).irreversible = true;
      if (service.postgres) {
        const auto& spec = *service.postgres;
        add("finish", service.name, "end", spec.new_side.host, "postgres", with(with_port(postgres_base(service), spec.new_side), "finish"))
            .irreversible = true;
      }
      for (const auto& name : service.names) {
        add("finish", service.name, name_id(name) + "-end", name.via, "names",
            with(name_base(name), "end", {{"value", moves_home(name) ? name.old_value : name.new_value}}))
            .irreversible = true;
      }
    }
    release_pool();
  }

  // Old first, so that the probe still measures when it is shut down; where it probes from last.
  void leave() {
    plan_.leave.push_back({manifest_.old_host, manifest_.after_old == "stopped"});
    for (const auto& host : manifest_.hosts) {
      if (host.name != manifest_.old_host && host.name != manifest_.vantage) plan_.leave.push_back({host.name});
    }
    const bool has_vantage = manifest_.host(manifest_.vantage) != nullptr && manifest_.vantage != manifest_.old_host;
    if (has_vantage) plan_.leave.push_back({manifest_.vantage});
  }

  const Manifest& manifest_;
  const PlanFacts& facts_;
  const Describe& describe_;
  Plan plan_;
};

}  // namespace

std::string name_key(const NameSpec& name) { return name.name + "/" + name.type; }

Json ttl_desired(const NameSpec& name, std::int64_t ttl_ms, std::int64_t from_ttl_ms, const std::string& value) {
  return {{"kind", "ttl"}, {"server", name.server}, {"port", 53}, {"zone", name.zone}, {"name", name.name}, {"type", name.type},
          {"key_file", name.key_file}, {"value", value}, {"ttl", ttl_ms}, {"from_ttl", from_ttl_ms}};
}

Json probe_config(const Manifest& manifest) {
  Json services = Json::array();
  for (const auto& service : manifest.services) {
    if (!service.probe) continue;
    const auto& probe = *service.probe;
    services.push_back({{"name", service.name}, {"kind", probe.kind}, {"target", probe.target}, {"write", probe.write},
                        {"password_file", probe.password_file}, {"every_ms", probe.every.count()}, {"timeout_ms", probe.timeout.count()}});
  }
  Json addresses = Json::array();
  for (const auto& subnet : manifest.subnets) {
    for (const auto& address : subnet.addresses) addresses.push_back({{"address", address}, {"every_ms", 20}, {"timeout_ms", 1000}});
  }
  return {{"services", std::move(services)}, {"addresses", std::move(addresses)}};
}

Result<Plan> make_plan(const Manifest& manifest, const PlanFacts& facts, const Describe& describe) {
  return Builder(manifest, facts, describe).build();
}

}  // namespace midstream
