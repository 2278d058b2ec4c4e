#include "apps/cli_print.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "control/way_back.h"

namespace midstream {

std::string check_text(const CheckResult& result) {
  std::string out;
  int bad = 0;
  for (const auto& one : result.findings) {
    out += fmt::format("{}  {:<6} {}{}\n", one.ok ? "ok  " : "FAIL", one.host, one.what, one.detail.empty() ? "" : ": " + one.detail);
    if (one.ok) continue;
    ++bad;
    if (!one.todo.empty()) out += fmt::format("             -> {}\n", one.todo);
  }
  out += bad == 0 ? fmt::format("{} preconditions hold\n", result.findings.size())
                  : fmt::format("{} of {} preconditions do not hold; nothing was changed on any host\n", bad, result.findings.size());
  return out;
}

namespace {

std::string servers(const std::vector<std::string>& names) { return join(names, "|"); }

void add_path(std::string& out, const ServiceSpec& service, std::string_view when, bool new_name, bool new_server, std::string_view owner) {
  std::vector<std::string> parts;
  for (const auto& name : service.names) {
    if (name.type != "A") continue;
    parts.push_back(fmt::format("{} -> {} ({})", name.name, new_name ? name.new_value : name.old_value, owner));
    break;
  }
  if (service.traffic) {
    const auto& t = *service.traffic;
    parts.push_back(fmt::format("HAProxy {} on {}", t.backend, t.haproxy));
    parts.push_back(servers(new_server ? t.new_servers : t.old_servers));
  } else if (service.postgres) {
    parts.push_back(new_server ? service.postgres->new_side.host : service.postgres->old_side.host);
  }
  if (!parts.empty()) out += fmt::format("  {:<8} {:<7} {}\n", service.name, when, join(parts, " -> "));
}

// The temporary home: what is allocated out of each pool, and what for.
void add_pools(std::string& out, const Manifest& manifest) {
  for (const auto& pool : manifest.pools) {
    out += fmt::format("\ntemporary home {} for {}\n", pool.pool, pool.for_host);
    for (const auto& service : manifest.services) {
      for (const auto& name : service.names) {
        if (within(name.new_value, pool.pool)) out += fmt::format("  {:<8} {:<16} {} {}\n", service.name, name.new_value, name.type, name.name);
      }
    }
  }
}

}  // namespace

std::string plan_text(const Plan& plan, const Manifest& manifest) {
  std::string out = fmt::format("move {}, plan {}\n", plan.move, plan_hash(plan));
  std::string phase;
  std::map<std::string, std::int64_t> expected;
  for (const auto& step : plan.steps) {
    if (step.phase != phase) {
      phase = step.phase;
      out += fmt::format("\n{}\n", phase);
    }
    expected[step.service] += step.expected_blackout_ms;
    const auto* undo = step.irreversible ? "IRREVERSIBLE" : step.kind == StepKind::effect ? "undo" : "-";
    out += fmt::format("  {:<28} {:>8}  {:<12} {}\n", step.id, step.expected_blackout_ms > 0 ? fmt::format("{} ms", step.expected_blackout_ms) : "0",
                       undo, step.expected_from.empty() ? step.text : fmt::format("{} (blackout {})", step.text, step.expected_from));
  }
  out += "\nexpected blackout against budget\n";
  for (const auto& [service, budget] : plan.budgets.items()) {
    out += fmt::format("  {:<8} {} of {} ms\n", service, expected[service], budget.get<std::int64_t>());
  }
  add_pools(out, manifest);
  out += "\npaths\n";
  for (const auto& service : manifest.services) {
    const bool home = !manifest.subnets.empty();
    add_path(out, service, "before", false, false, manifest.old_host);
    add_path(out, service, "during", true, true, manifest.new_host);
    add_path(out, service, "after", !home, true, manifest.new_host);
  }
  return out;
}

std::string irreversible_text(const State& state, const std::string& after_old) {
  std::string out = state.past_return() ? "finish was begun; what is left of it, none of which can be undone:\n"
                                        : "After this there is no way back. Each of these cannot be undone:\n";
  for (std::size_t i = 0; i < state.steps.size(); ++i) {
    const auto& step = state.plan.steps[i];
    if (!step.irreversible || state.steps[i].progress == Progress::done) continue;
    out += fmt::format("  {:<8} {}\n", step.service.empty() ? "move" : step.service, step.text);
  }
  return out + fmt::format("Old stays {}; midstream leaves every host.\n", after_old);
}

std::string status_text(const Json& status) {
  auto out = fmt::format("move {}: {}, phase {}, {} of {} steps{}\n", get_string_or(status, "move", ""), get_string_or(status, "goal", ""),
                         get_string_or(status, "phase", "").empty() ? "-" : get_string_or(status, "phase", ""), get_int_or(status, "steps_done", 0),
                         get_int_or(status, "steps", 0), get_bool_or(status, "complete", false) ? ", complete" : "");
  const auto waiting = get_string_or(status, "waiting", "");
  if (!waiting.empty()) out += fmt::format("  {}\n", waiting);
  const std::string as_of = get_string_or(status, "controller", "running") == "running" ? "" : " (when a controller last looked)";
  out += fmt::format("  going back: {}\n", get_bool_or(status, "past_return", false) ? "no, finish was begun" : way_back_text(status.value("going_back", Json())) + as_of);
  for (const auto& one : status.value("services", Json::array())) {
    const auto name = get_string_or(one, "name", "");
    const auto down = one.value("downtime_ms", Json::object());
    out += fmt::format("  {:<8} downtime {}..{} ms of {} ms; {} requests, {} failed; longest pause {} ms\n", name, get_int_or(down, "lower", 0),
                       get_int_or(down, "upper", 0), get_int_or(status["budgets"], name, 0), get_int_or(one, "requests", 0), get_int_or(one, "failed", 0),
                       get_int_or(one, "longest_pause_ms", 0));
  }
  for (const auto& one : status.value("stragglers", Json::array())) {
    if (one.contains("counted_by")) continue;
    out += fmt::format("  {} talks to old: {} port {}, {} sessions, silent for {:.1f} s{}\n", get_string_or(one, "source", "?"),
                       get_string_or(one, "service", "?"), get_int_or(one, "port", 0), get_int_or(one, "sessions", 0),
                       static_cast<double>(get_int_or(one, "silent_ms", 0)) / 1000, get_bool_or(one, "accepted", false) ? " (accepted)" : "");
  }
  const auto unreachable = status.value("unreachable", Json::object());
  for (const auto& [host, why] : unreachable.items()) out += fmt::format("  {} cannot be reached: {}\n", host, why.dump());
  if (const auto window = status.value("window", Json::object()); window.is_object() && window.contains("text"))
    out += fmt::format("  {}\n", get_string_or(window, "text", ""));
  for (const auto& one : status.value("guard", Json::array()))
    out += fmt::format("  {:<8} guard: {}: {}\n", get_string_or(one, "service", ""), get_string_or(one, "verdict", ""), get_string_or(one, "words", ""));
  return out;
}

}  // namespace midstream
