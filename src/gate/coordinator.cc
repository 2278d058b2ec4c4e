#include "gate/coordinator.h"

#include <fmt/format.h>

#include <algorithm>

#include "sys/clock.h"
#include "sys/log.h"

namespace midstream::gate {

namespace {

constexpr Millis kLongestHold{60'000};
constexpr Millis kLongestPreparation{3'600'000};
constexpr Millis kLastWords{500};
// Without a word after `keep` for so long, the titles decide.
constexpr Millis kSilence{1'500};
constexpr Millis kLook{500};
constexpr Millis kPatience{1'000};  // with one server
// Until a proxy has noticed that nobody listens any more.
constexpr Millis kNoticed{500};

std::int64_t ms_since(std::chrono::nanoseconds start) { return std::chrono::duration_cast<Millis>(boot_now() - start).count(); }

Result<Millis> span_of(const Json& request, const char* key, Millis most) {
  const auto span = TRY(get_int(request, key));
  if (span < 0 || span > most.count())
    return refused(fmt::format("{} of {} ms is out of bounds", key, span), fmt::format("at most {} ms", most.count()));
  return Millis(span);
}

Json sessions_of(const Coordinator::Workers& workers) {
  std::vector<Json> all;
  for (const auto& worker : workers)
    for (auto& one : worker->sessions()) all.push_back(std::move(one));
  std::ranges::sort(all, {}, [](const Json& one) { return one["id"].get<std::uint64_t>(); });
  return {{"sessions", all}};
}

// All workers together: {"holding", "left_ms", "sessions", "in_the_way"}.
Json held_by(const Coordinator::Workers& workers) {
  Json out{{"holding", true}, {"left_ms", 0}, {"in_the_way", Json::array()}};
  std::size_t sessions = 0;
  for (const auto& worker : workers) {
    const auto held = worker->held();
    sessions += held.sessions;
    if (held.until.count() == 0) out["holding"] = false;
    out["left_ms"] = std::max<std::int64_t>(0, std::chrono::duration_cast<Millis>(held.until - boot_now()).count());
    for (const auto& one : held.in_the_way) out["in_the_way"].push_back(one);
  }
  out["sessions"] = sessions;
  return out;
}

Json end_session(const Coordinator::Workers& workers, std::uint64_t id) {
  return {{"ended", std::ranges::any_of(workers, [id](const auto& worker) { return worker->end(id); })}};
}

}  // namespace

Coordinator::Coordinator(Shared& shared, const Workers& workers, std::function<void()> stop_listening)
    : shared_(shared), workers_(workers), stop_listening_(std::move(stop_listening)), began_ms_(wall_now_ms()) {
  if (!shared.titled()) return;
  for (const auto& database : shared.config.databases) {
    states_[database].titles = std::make_unique<Titles>(shared, database);
    states_[database].asked = std::make_unique<Titles>(shared, database);
    for (const auto& server : shared.servers) switches_.known({database, server.config.label});
  }
}

Result<Json> Coordinator::respond(const Json& request, const std::stop_token& stop) {
  const auto verb = TRY(get_string(request, "verb"));
  if (verb == "sessions") return sessions_of(workers_);
  if (verb == "held") return held_by(workers_);
  if (verb == "metrics") {
    const auto found = metrics();
    return Json{{"metrics", to_json(found)}, {"text", prometheus_text(found)}};
  }
  if (verb == "hold" || verb == "release") {
    const auto span = verb == "release" ? Millis(0) : TRY(span_of(request, "for_ms", kLongestHold));
    for (const auto& worker : workers_) worker->hold(boot_now() + span);
    return held_by(workers_);
  }
  if (verb == "end") return end_session(workers_, static_cast<std::uint64_t>(TRY(get_int(request, "session"))));
  const std::lock_guard lock(mutex_);
  if (verb == "prepare") return prepare(request, stop);
  if (verb == "ready") return readiness(request);
  if (verb == "close") return close(request, stop);
  if (verb == "keep") return keep(request);
  if (verb == "over") return over(request, stop);
  if (verb == "retire") return retire(request, stop);
  if (verb == "open") return open(request, stop);
  return refused(fmt::format("the gate does not know '{}'", verb));
}

std::vector<Family> Coordinator::metrics() const {
  Metrics found{.switches = switches_.counts(), .start_seconds = static_cast<double>(began_ms_) / 1e3};
  for (const auto& worker : workers_) found.totals += worker->totals();
  for (const auto& server : shared_.servers) found.servers.push_back(server.config.label);
  return families(found);
}

Result<Coordinator::Asked> Coordinator::switch_of(const Json& request) {
  const auto database = TRY(get_string(request, "database"));
  const auto it = states_.find(database);
  if (it == states_.end()) return refused(fmt::format("database {} is not one that this gate can switch", database), "name it in `databases`, and two servers");
  const auto label = TRY(get_string(request, "to"));
  const auto server = std::ranges::find(shared_.servers, label, [](const auto& one) -> const std::string& { return one.config.label; });
  if (server == shared_.servers.end()) return refused(fmt::format("the gate knows no server '{}'", label));
  return Asked{database, &it->second, static_cast<std::size_t>(server - shared_.servers.begin())};
}

Json Coordinator::ready_now(const Asked& asked, Hold& hold) {
  Json out{{"sessions", 0}, {"in_the_way", Json::array()}, {"server_pids", Json::array()}};
  std::size_t sessions = 0, leaving = 0;
  for (const auto& worker : workers_) {
    const auto one = worker->readiness(asked.database, asked.to);
    sessions += one.sessions;
    hold.held = hold.held || one.held;
    hold.in_time = hold.in_time && one.in_time;
    for (const auto& session : one.in_the_way) out["in_the_way"].push_back(session);
    for (const auto pid : one.server_pids) out["server_pids"].push_back(pid);
    leaving += one.leaving;
  }
  out["sessions"] = sessions;
  out["leaving"] = leaving;
  return out;
}

Result<Json> Coordinator::prepare(const Json& request, const std::stop_token& stop) {
  const auto asked = TRY(switch_of(request));
  Hold hold;
  (void)ready_now(asked, hold);
  if (hold.held) return retry(fmt::format("{} is held for a switch already", asked.database));
  const auto from = shared_.primary(asked.database);
  if (!from) return retry(fmt::format("nobody knows who owns {}", asked.database));
  const auto settings = TRY(asked.state->asked->settings(*from, kPatience, stop));
  const auto until = boot_now() + TRY(span_of(request, "for_ms", kLongestPreparation));
  for (const auto& worker : workers_) worker->prepare(asked.database, asked.to, until, settings);
  return readiness(request);
}

Result<Json> Coordinator::readiness(const Json& request) {
  Hold hold;
  return ready_now(TRY(switch_of(request)), hold);
}

Result<Json> Coordinator::close(const Json& request, const std::stop_token& stop) {
  const auto asked = TRY(switch_of(request));
  const auto start = boot_now();
  const auto span = TRY(span_of(request, "for_ms", kLongestHold));
  const auto deadline = Deadline::in(TRY(span_of(request, "within_ms", span)));
  if (asked.state->kept) return retry(fmt::format("{} is being switched already", asked.database));
  switches_.failed(key(asked.database, *asked.state), Failed::again, start);
  asked.state->to = asked.to;
  asked.state->given_up = false;
  switches_.begun(key(asked.database, *asked.state), start);
  ++asked.state->turn;
  for (const auto& worker : workers_) worker->close(asked.database, asked.to, start + span);
  for (;;) {
    Hold hold;
    auto ready = ready_now(asked, hold);
    // Held, a session cannot get rid of what pins it: everybody would wait for nothing.
    const auto& waiting = ready["in_the_way"];
    const auto hopeless = std::ranges::find_if(waiting, [](const Json& one) { return !one.value("soon", false); });
    const bool in_time = hold.in_time && hopeless == waiting.end() && !deadline.expired() && !stop.stop_requested();
    if (in_time && waiting.empty()) {
      ready["ms"] = ms_since(start);
      return ready;
    }
    if (in_time) {
      pause_for(Millis(1), stop);
      continue;
    }
    open_all(asked.database, *asked.state, waiting.empty() ? Failed::late : hopeless == waiting.end() ? Failed::busy : Failed::pinned);
    const auto first = waiting.empty() ? Json{{"why", "the hold ended"}} : hopeless == waiting.end() ? waiting[0] : *hopeless;
    return retry(fmt::format("{} of {} sessions of {} could not go over in {} ms; session {} of user {} at {}: {}", waiting.size(),
                             ready["sessions"].get<std::size_t>(), asked.database, ms_since(start), first.value("id", 0), first.value("user", "-"),
                             first.value("client", "-"), first.value("why", "-")));
  }
}

Result<Json> Coordinator::keep(const Json& request) {
  const auto asked = TRY(switch_of(request));
  Hold hold;
  const auto ready = ready_now(asked, hold);
  bool kept = hold.in_time && ready["in_the_way"].empty() && !asked.state->given_up;
  for (const auto& worker : workers_) kept = kept && worker->keep(asked.database);
  if (!kept) {
    asked.state->given_up = true;
    asked.state->why = Failed::late;
    return retry(fmt::format("the gate does not hold {} for good any more", asked.database));
  }
  ++asked.state->turn;
  asked.state->kept = true;
  asked.state->kept_at = boot_now();
  return Json{{"kept", true}};
}

Json Coordinator::go_over(const std::string& database, State& state, const std::stop_token& stop) {
  const auto start = boot_now();
  ++state.turn;
  for (const auto& worker : workers_) worker->last_words(database);
  const auto deadline = Deadline::in(kLastWords);
  const auto fetching = [&] { return std::ranges::any_of(workers_, [&](const auto& worker) { return worker->fetching(database); }); };
  while (fetching() && !deadline.expired()) pause_for(Millis(1), stop);
  shared_.primaries.set(database, state.to);
  Json out{{"moved", 0}, {"ended", Json::array()}};
  std::size_t moved = 0;
  for (const auto& worker : workers_) {
    const auto over = worker->go_over(database, state.to);
    moved += over.moved;
    for (const auto& one : over.ended) {
      out["ended"].push_back(one);
      log_warn("gate", "session {} of {} could not go over to {}: {}", one.value("id", 0), database, shared_.servers[state.to].config.label, one.value("why", ""));
    }
  }
  for (const auto& worker : workers_) worker->primary_is(database, state.to);
  state.kept = state.given_up = false;
  switches_.done(key(database, state), boot_now());
  out["moved"] = moved;
  out["ms"] = ms_since(start);
  log_info("gate", "{} is on {}: {} sessions went over, {} ended", database, shared_.servers[state.to].config.label, moved, out["ended"].size());
  return out;
}

Result<Json> Coordinator::over(const Json& request, const std::stop_token& stop) {
  const auto asked = TRY(switch_of(request));
  if (shared_.primary(asked.database) == asked.to && !asked.state->kept) return Json{{"moved", 0}, {"ended", Json::array()}, {"ms", 0}};
  if (!asked.state->kept || asked.state->to != asked.to) return refused(fmt::format("{} is not held for a switch to that server", asked.database));
  return go_over(asked.database, *asked.state, stop);
}

// Who comes is refused at once, so that the proxy before us leads elsewhere; who is here goes at the next boundary of a
// transaction. What is left after `within_ms` stays until it comes to rest: asked again.
Result<Json> Coordinator::retire(const Json& request, const std::stop_token& stop) {
  const auto span = TRY(span_of(request, "within_ms", kLongestHold));
  stop_listening_();
  for (const auto& worker : workers_) worker->refuse_all();
  pause_for(kNoticed, stop);
  for (const auto& worker : workers_) worker->hold(boot_now() + span);
  std::size_t left = 0;
  for (const auto deadline = Deadline::in(span);; pause_for(Millis(5), stop)) {
    left = 0;
    for (const auto& worker : workers_) left += worker->end_resting();
    if (left == 0 || deadline.expired() || stop.stop_requested()) return Json{{"sessions", left}};
  }
}

void Coordinator::open_all(const std::string& database, State& state, Failed why) {
  state.kept = state.given_up = false;
  ++state.turn;
  for (const auto& worker : workers_) worker->open(database);
  switches_.failed(key(database, state), why, boot_now());
}

Result<Json> Coordinator::open(const Json& request, const std::stop_token& stop) {
  const auto asked = TRY(switch_of(request));
  asked.state->given_up = true;
  asked.state->why = Failed::withdrawn;
  found(asked.database, *asked.state, asked.state->asked->look(kPatience, stop), stop);
  return Json{{"open", !asked.state->given_up}};
}

// Asked outside the lock: a server that does not answer must not keep the switch from going on.
void Coordinator::look(const std::string& database, State& state, const std::stop_token& stop) {
  std::uint64_t turn = 0;
  {
    const std::lock_guard lock(mutex_);
    turn = state.turn;
  }
  const auto titles = state.titles->look(kPatience, stop);
  const std::lock_guard lock(mutex_);
  if (state.turn != turn) return;  // what was read may be of before
  found(database, state, titles, stop);
}

void Coordinator::found(const std::string& database, State& state, const Titles::Found& titles, const std::stop_token& stop) {
  if (titles.words != state.told) log_info("gate", "the titles of {}: {}", database, titles.words);
  state.told = titles.words;
  Hold hold;
  (void)ready_now({database, &state, state.to}, hold);
  if (hold.held) {
    const bool silent = state.kept && boot_now() - state.kept_at >= kSilence;
    if (!titles.owner || !(silent || state.given_up || !hold.in_time)) return;
    if (*titles.owner == state.to) go_over(database, state, stop);
    else open_all(database, state, state.given_up ? state.why : silent ? Failed::withdrawn : Failed::late);
    return;
  }
  state.given_up = false;
  const auto known = shared_.primary(database);
  // Nobody, or two: whoever comes waits until there is one.
  if (titles.owner == known) return;
  shared_.primaries.set(database, titles.owner);
  for (const auto& worker : workers_) worker->primary_is(database, titles.owner);
}

void Coordinator::watch(const std::stop_token& stop) {
  while (!states_.empty() && !stop.stop_requested()) {
    for (auto& [database, state] : states_) look(database, state, stop);
    pause_for(kLook, stop);
  }
}

}  // namespace midstream::gate
