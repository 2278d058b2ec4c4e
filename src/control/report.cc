#include "control/report.h"

#include <fmt/format.h>

#include "control/story.h"
#include "control/way_back.h"
#include "sys/clock.h"

namespace midstream {

namespace {

std::string_view verdict(const State& state) {
  if (state.stopped || !state.complete()) return "failed";
  return state.goal == Goal::back || state.goal == Goal::end ? "rolled-back" : "moved";
}

std::string_view progress_name(Progress progress) {
  switch (progress) {
    case Progress::pending: return "pending";
    case Progress::running: return "running";
    case Progress::done: return "done";
    case Progress::undoing: return "undoing";
    case Progress::undone: return "undone";
  }
  return "pending";
}

Json step_report(const Step& step, const StepState& at) {
  Json out{{"id", step.id}, {"phase", step.phase}, {"service", step.service}, {"text", step.text}, {"state", progress_name(at.progress)},
           {"expected_blackout_ms", step.expected_blackout_ms}, {"irreversible", step.irreversible}, {"attempts", at.attempt},
           {"figures", at.result}};
  if (at.first_ms > 0) out["began"] = format_wall(at.first_ms);
  if (at.ended_ms > 0) {
    out["ended"] = format_wall(at.ended_ms);
    out["took_ms"] = at.ended_ms - at.first_ms;
  }
  if (at.error) out["error"] = to_json(*at.error);
  return out;
}

Json services_report(const State& state, const Json& meter) {
  Json services = Json::array();
  for (const auto& one : meter.value("services", Json::array())) {
    Json entry = one;
    entry["budget_ms"] = get_int_or(state.plan.budgets, get_string_or(one, "name", ""), 0);
    services.push_back(std::move(entry));
  }
  return services;
}

Json addresses_report(const Json& meter) {
  Json addresses = Json::array();
  for (const auto& one : meter.value("addresses", Json::array())) {
    Json entry = one;
    const auto bounds = one.value("blackout_ms", Json::object());
    if (bounds.is_object()) {
      entry["blackout_ms"] = bounds.value("upper", Json(0));
      entry["blackout_lower_ms"] = bounds.value("lower", Json(0));
    }
    addresses.push_back(std::move(entry));
  }
  return addresses;
}

}  // namespace

Json make_report(const State& state, const Json& meter) {
  Json steps = Json::array();
  for (std::size_t i = 0; i < state.steps.size(); ++i) steps.push_back(step_report(state.plan.steps[i], state.steps[i]));
  Json verdicts = Json::array();
  for (const auto& one : state.verdict_records) {
    verdicts.push_back({{"at", format_wall(get_int_or(one, "at", 0))}, {"service", one["service"]}, {"step", one["step"]}, {"verdict", one["verdict"]},
                        {"words", one["words"]}, {"took_back", one.contains("back_to")}});
  }
  Json report{{"schema", "midstream.report/1"}, {"move", state.plan.move}, {"verdict", verdict(state)}, {"plan_hash", state.hash},
              {"epoch", state.epoch}, {"goal", to_string(state.goal)}, {"services", services_report(state, meter)},
              {"addresses", addresses_report(meter)}, {"steps", std::move(steps)}, {"guard", std::move(verdicts)}};
  report["going_back"] = way_back_json(state);
  report["past_return"] = state.past_return();
  if (state.stopped) report["stopped"] = {{"step", state.stopped_step}, {"error", to_json(*state.stopped)}};
  return report;
}

namespace {

std::string going_back_line(const Json& report) {
  const auto way = report.value("going_back", Json());
  if (!way.is_object()) return "";
  const auto closed = get_int_or(way, "closed", 0);
  const auto now = get_bool_or(report, "past_return", false) ? "no, finish was begun" : way_back_text(way);
  return fmt::format("Going back: {}. {}\n\n", now,
                     closed == 0 ? "It was possible whenever it was observed."
                                 : fmt::format("It was found not to be possible {} times, for {} ms in sum.", closed,
                                               get_int_or(way, "closed_ms", 0)));
}

}  // namespace

std::string report_markdown(const Json& report) {
  std::string out = fmt::format("# Move {}: {}\n\nPlan {}, epoch {}.\n\n", get_string_or(report, "move", ""), get_string_or(report, "verdict", ""),
                                get_string_or(report, "plan_hash", ""), get_int_or(report, "epoch", 0));
  out += going_back_line(report);
  out += "| service | requests | failed | longest pause | downtime (lower..upper) | budget |\n|---|---|---|---|---|---|\n";
  for (const auto& one : report["services"]) {
    const auto down = one.value("downtime_ms", Json::object());
    out += fmt::format("| {} | {} | {} | {} ms | {}..{} ms | {} ms |\n", get_string_or(one, "name", ""), get_int_or(one, "requests", 0),
                       get_int_or(one, "failed", 0), get_int_or(one, "longest_pause_ms", 0), get_int_or(down, "lower", 0),
                       get_int_or(down, "upper", 0), get_int_or(one, "budget_ms", 0));
  }
  if (!report["addresses"].empty()) {
    out += "\n| address | blackout |\n|---|---|\n";
    for (const auto& one : report["addresses"]) {
      out += fmt::format("| {} | {} ms |\n", get_string_or(one, "address", ""), get_int_or(one, "blackout_ms", 0));
    }
  }
  out += "\n| step | state | took | figures |\n|---|---|---|---|\n";
  for (const auto& one : report["steps"]) {
    out += fmt::format("| {} | {} | {} ms | {} |\n", get_string_or(one, "text", ""), get_string_or(one, "state", ""), get_int_or(one, "took_ms", 0),
                       figures(one.value("figures", Json::object())));
  }
  if (!report["guard"].empty()) out += "\n| guard | of | at | verdict | numbers |\n|---|---|---|---|---|\n";
  for (const auto& one : report["guard"]) {
    out += fmt::format("| {} | {} | {} | {}{} | {} |\n", get_string_or(one, "at", ""), get_string_or(one, "service", ""), get_string_or(one, "step", ""),
                       get_string_or(one, "verdict", ""), get_bool_or(one, "took_back", false) ? ", taken back" : "", get_string_or(one, "words", ""));
  }
  if (report.contains("checker")) {
    const auto& checker = report["checker"];
    const auto acknowledged = checker.value("acknowledged", Json::object());
    out += fmt::format("\nChecker: {}; acknowledged {} rows and {} files; lost {}, doubled {}, two owners {} ms, two writers {} ms.\n",
                       get_string_or(checker, "verdict", ""), get_int_or(acknowledged, "rows", 0), get_int_or(acknowledged, "files", 0),
                       get_int_or(checker, "lost", 0), get_int_or(checker, "doubled", 0), get_int_or(checker, "two_owners_ms", 0),
                       get_int_or(checker, "two_writers_ms", 0));
    if (checker.contains("mail")) {
      const auto& mail = checker["mail"];
      out += fmt::format("Mail: acknowledged {} messages and {} changes of flags and folders; UIDs changed {}, refused {}, from another address {}.\n",
                         get_int_or(acknowledged, "messages", 0), get_int_or(acknowledged, "flags", 0), get_int_or(mail, "violations", 0),
                         get_int_or(mail, "refused", 0), get_int_or(mail, "wrong_source", 0));
    }
  }
  return out;
}

}  // namespace midstream
