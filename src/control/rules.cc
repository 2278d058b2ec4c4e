#include "control/rules.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "control/window.h"
#include "engine/fit.h"
#include "manifest/values.h"

namespace midstream {

State state_of(const Plan& plan) {
  State state;
  state.plan = plan;
  state.steps.resize(plan.steps.size());
  return state;
}

Result<WindowView> view_window(const Window& window, const State& state, std::int64_t now) {
  WindowView view;
  const auto stretch = next_stretch(state, now);
  view.needed_ms = stretch.total_ms;
  const auto opening = TRY(window_opening(window, now));
  view.text = fmt::format("window {}: ", to_string(window));
  if (!opening) {
    view.fits = view.fits_at_all = stretch.parts.empty();
    view.text += "it does not open within two weeks";
    return view;
  }
  view.open = opening->opens_ms <= now;
  view.opens_ms = std::max(opening->opens_ms, view.open ? now : 0);
  view.closes_ms = opening->closes_ms;
  view.last_safe_start_ms = view.closes_ms - view.needed_ms;
  view.fits = view.opens_ms + view.needed_ms <= view.closes_ms;
  view.fits_at_all = view.fits;
  if (!view.fits && view.open) {
    const auto next = TRY(window_opening(window, view.closes_ms));
    view.fits_at_all = next && next->opens_ms + view.needed_ms <= next->closes_ms;
  }
  view.text += view.open ? fmt::format("open until {}", zone_text(window.zone, view.closes_ms))
                         : fmt::format("opens {}, for {}", zone_text(window.zone, view.opens_ms), span_text(view.closes_ms - view.opens_ms));
  if (stretch.parts.empty()) {
    view.text += "; nothing that users could feel is left to do";
    return view;
  }
  view.text += fmt::format("; what users could feel takes {}", sum_text(stretch));
  if (view.fits) {
    view.text += fmt::format("; last safe start {}", zone_text(window.zone, view.last_safe_start_ms));
  } else if (view.fits_at_all) {
    view.text += fmt::format("; will not fit any more: the last safe start was {}", zone_text(window.zone, view.last_safe_start_ms));
  } else {
    view.text += fmt::format("; will not fit: {} more than a window has", span_text(view.needed_ms - (view.closes_ms - view.opens_ms)));
  }
  return view;
}

Json to_json(const WindowView& view) {
  return {{"open", view.open}, {"fits", view.fits}, {"fits_at_all", view.fits_at_all}, {"needed_ms", view.needed_ms}, {"opens_ms", view.opens_ms},
          {"closes_ms", view.closes_ms}, {"last_safe_start_ms", view.last_safe_start_ms}, {"text", view.text}};
}

namespace {

constexpr std::string_view kTunable =
    "rules.downtime, rules.observe, rules.window.to, rules.guard.LIMIT, services.NAME.budget, services.NAME.guard.LIMIT, "
    "services.NAME.traffic.hold, services.NAME.traffic.steps (LIMIT: errors, p95, floor, min_samples)";

std::unexpected<Error> not_tunable(std::string_view what) {
  return refused(fmt::format("{} cannot be changed while the move runs", what), fmt::format("what can: {}", kTunable));
}

std::unexpected<Error> no_value(const std::string& key, const std::string& value) {
  return refused(fmt::format("'{}' is no value for {}", printable(value), printable(key)), "write it as in the manifest");
}

template <class To, class From>
bool take(To& to, const std::optional<From>& value) {
  if (value) to = *value;
  return value.has_value();
}

bool take_limit(GuardRules& guard, const std::string& limit, const std::string& value) {
  if (limit == "errors") return take(guard.errors, parse_share(value));
  if (limit == "p95") return take(guard.p95, parse_factor(value));
  if (limit == "floor") return take(guard.floor, parse_duration(value));
  const auto samples = parse_integer(value);
  return samples && *samples >= 50 && *samples <= 1'000'000 && take(guard.min_samples, samples);
}

bool is_limit(const std::string& name) { return name == "errors" || name == "p95" || name == "floor" || name == "min_samples"; }

bool take_steps(std::vector<int>& steps, const std::string& value) {
  steps.clear();
  for (const auto& text : split(value, ',')) {
    const auto percent = parse_percent(trim(text));
    if (!percent || (!steps.empty() && *percent <= steps.back())) return false;
    steps.push_back(*percent);
  }
  return !steps.empty() && steps.back() == 100;
}

// nullopt for what is not tunable, else whether `value` is one.
std::optional<bool> take_service_setting(ServiceSpec& service, const std::vector<std::string>& key, const std::string& value) {
  if (key.size() == 3 && key[2] == "budget") return take(service.budget, parse_duration(value)) && service.budget > Span(0);
  if (key.size() != 4) return std::nullopt;
  const bool shifts = service.traffic && !service.traffic->steps.empty();
  if (key[2] == "guard" && is_limit(key[3]) && shifts) return take_limit(service.guard, key[3], value);
  if (key[2] == "traffic" && key[3] == "hold" && shifts) return take(service.traffic->hold, parse_duration(value));
  if (key[2] == "traffic" && key[3] == "steps" && shifts) return take_steps(service.traffic->steps, value);
  return std::nullopt;
}

std::optional<bool> take_rule(Manifest& manifest, const std::vector<std::string>& key, const std::string& value) {
  auto& rules = manifest.rules;
  if (key.size() == 2 && key[1] == "downtime") return take(rules.downtime, parse_duration(value)) && rules.downtime > Span(0);
  if (key.size() == 2 && key[1] == "observe") return take(rules.observe, parse_duration(value));
  if (key.size() != 3) return std::nullopt;
  if (key[1] == "window" && key[2] == "to" && rules.window)
    return take(rules.window->to_minute, parse_time(value)) && rules.window->to_minute > rules.window->from_minute;
  if (key[1] != "guard" || !is_limit(key[2])) return std::nullopt;
  // As the parser does, each service has what the rules say; one that had a limit of its own is told anew by name.
  for (auto& service : manifest.services) {
    if (!take_limit(service.guard, key[2], value)) return false;
  }
  return take_limit(rules.guard, key[2], value);
}

}  // namespace

Result<Manifest> tuned_manifest(Manifest manifest, const std::string& setting) {
  const auto equals = setting.find('=');
  if (equals == setting.npos) return refused(fmt::format("'{}' is not KEY=VALUE", printable(setting)), fmt::format("what can be tuned: {}", kTunable));
  const auto key = setting.substr(0, equals);
  const auto value = setting.substr(equals + 1);
  const auto path = split(key, '.');
  std::optional<bool> taken;
  if (path[0] == "rules") taken = take_rule(manifest, path, value);
  if (path[0] == "services" && path.size() > 2) {
    const auto service = std::ranges::find(manifest.services, path[1], &ServiceSpec::name);
    if (service == manifest.services.end()) return refused(fmt::format("there is no service '{}'", printable(path[1])), "");
    taken = take_service_setting(*service, path, value);
  }
  if (!taken) return not_tunable(printable(key));
  if (!*taken) return no_value(key, value);
  return manifest;
}

namespace {

// The pending weights and holds of `service` make room for those that lead to `percents`.
Result<Json> steps_setting(const State& state, const std::string& service, const std::vector<int>& percents) {
  const auto prefix = service + ".weights-";
  const Step* weights = nullptr;
  const Step* hold = nullptr;
  std::int64_t reached = 0;
  Json removes = Json::array();
  for (std::size_t i = 0; i < state.steps.size(); ++i) {
    const auto& step = state.plan.steps[i];
    if (!step.id.starts_with(prefix)) continue;
    (step.kind == StepKind::effect ? weights : hold) = &step;
    const auto progress = state.steps[i].progress;
    if (progress == Progress::pending || progress == Progress::undone) {
      removes.push_back(step.id);
    } else if (step.kind == StepKind::effect) {
      reached = get_int_or(step.desired, "percent", 0);
    }
  }
  if (weights == nullptr || hold == nullptr || reached == 100)
    return refused(fmt::format("the traffic of {} has no steps ahead", service), "leave its steps as they are");
  // The hold of the share at hand stays, begun or not.
  const auto here = fmt::format("{}{}-hold", prefix, reached);
  removes.erase(std::remove(removes.begin(), removes.end(), Json(here)), removes.end());
  Json steps = Json::array();
  auto from = reached;
  for (const int percent : percents) {
    if (percent <= reached) continue;
    auto next = *weights;
    next.id = fmt::format("{}{}", prefix, percent);
    next.desired["percent"] = percent;
    next.desired["from"] = from;
    next.text = fmt::format("HAProxy's backend {} sends {} % to new (before: {} %)", get_string_or(next.desired, "backend", "?"), percent, from);
    steps.push_back(to_json(next));
    auto wait = *hold;
    wait.id = next.id + "-hold";
    wait.text = fmt::format("watches {}% on new for {} s", percent, static_cast<double>(wait.deadline_ms) / 1000.0);
    steps.push_back(to_json(wait));
    from = percent;
  }
  return Json{{"what", "steps"}, {"service", service}, {"removes", std::move(removes)}, {"steps", std::move(steps)}};
}

// The settings that one differing field of the manifest asks for; nothing where it may not differ.
Result<std::vector<Json>> settings_for(const std::vector<std::string>& path, const Manifest& wanted, const State& state) {
  const auto number = [](std::string what, std::string service, std::int64_t value) {
    return Json{{"what", std::move(what)}, {"service", std::move(service)}, {"value", value}};
  };
  const auto budget = [&](const ServiceSpec& service) {
    return number("budget", service.name, (service.budget.count() > 0 ? service.budget : wanted.rules.downtime).count());
  };
  std::vector<Json> out;
  if (path[0] == "rules" && path.size() > 1) {
    if (path[1] == "downtime_ms") {
      for (const auto& service : wanted.services) out.push_back(budget(service));
    }
    if (path[1] == "observe_ms") out.push_back(number("soak", "", wanted.rules.observe.count()));
    if (path[1] == "window" && path.size() == 3 && path[2] == "to_minute") out.push_back(number("window_to", "", wanted.rules.window->to_minute));
    // A service's own guard says what holds for it; that of the rules is in each.
    if (path[1] == "guard" && path.size() == 3 && path[2] != "enabled" && path[2] != "rate") return std::vector<Json>{Json()};
    return out;
  }
  if (path[0] != "services" || path.size() < 3) return out;
  const auto& service = wanted.services.at(std::stoul(path[1]));
  if (path[2] == "budget_ms") out.push_back(budget(service));
  if (path[2] == "guard" && path.size() == 4 && path[3] != "enabled" && path[3] != "rate") {
    const auto& g = service.guard;
    // Without traffic by steps it has no guard: what rules.guard says of it is without effect.
    if (std::ranges::find(state.plan.guards, service.name, &GuardSpec::service) == state.plan.guards.end()) return std::vector<Json>{Json()};
    out.push_back({{"what", "limits"}, {"service", service.name},
                   {"value", to_json(GuardLimits{g.errors, g.p95, g.floor.count() * 1'000, static_cast<std::uint64_t>(g.min_samples)})}});
  }
  if (path[2] == "traffic" && path.size() >= 4 && path[3] == "hold_ms") out.push_back(number("hold", service.name, service.traffic->hold.count()));
  if (path[2] == "traffic" && path.size() >= 4 && path[3] == "steps") out.push_back(TRY(steps_setting(state, service.name, service.traffic->steps)));
  return out;
}

}  // namespace

Result<Json> tuning(const Json& recorded, const Manifest& wanted, const State& state) {
  std::vector<Json> settings;
  for (const auto& change : Json::diff(recorded, to_json(wanted))) {
    const auto pointer = get_string_or(change, "path", "");
    const auto path = split(pointer.substr(std::min<std::size_t>(1, pointer.size())), '/');
    // Only the list of steps may grow or shrink; of all else a value is replaced.
    const bool steps = path.size() >= 4 && path[0] == "services" && path[2] == "traffic" && path[3] == "steps";
    const auto asked = get_string_or(change, "op", "") == "replace" || steps ? TRY(settings_for(path, wanted, state)) : std::vector<Json>();
    if (asked.empty()) return not_tunable(fmt::format("what the manifest says at '{}'", join(path, ".")));
    for (const auto& setting : asked) {
      if (!setting.is_null() && std::ranges::find(settings, setting) == settings.end()) settings.push_back(setting);
    }
  }
  // Steps copy their hold: it is set after them.
  std::ranges::stable_sort(settings, std::ranges::less(), [](const Json& setting) { return setting["what"] == "steps" ? 0 : 1; });
  return Json(settings);
}

}  // namespace midstream
