#include "control/rebuild.h"

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "engine/engine.h"

namespace midstream {

namespace {

// The last call of each step, and of all.
struct Deeds {
  std::vector<std::optional<Json>> of_step;
  std::optional<Json> last;
  bool irreversible = false;
};

std::string name_of(const Json& kept) {
  const auto hash = get_string_or(kept, "hash", "");
  return hash.substr(0, hash.find('+'));
}
std::size_t tunings_of(const Json& kept) { return kept.value("tuned", Json::array()).size(); }

// Of one that was tuned the newest: whoever could not be reached then was told nothing, and has done nothing by it.
Result<Json> the_plan(const std::map<std::string, Json>& recalled) {
  Json plan;
  std::string from;
  for (const auto& [host, answer] : recalled) {
    const auto theirs = answer.value("plan", Json());
    if (!theirs.is_object()) continue;
    if (plan.is_object() && name_of(plan) != name_of(theirs))
      return refused(fmt::format("the agents on {} and {} know different plans of this move", from, host),
                     "remove the agent of the move that is not meant");
    if (plan.is_object() && tunings_of(plan) >= tunings_of(theirs)) continue;
    plan = theirs;
    from = host;
  }
  if (plan.is_object()) return plan;
  return refused("no agent knows this move: there is nothing to adopt", "`midstream run` begins it");
}

std::pair<std::int64_t, std::int64_t> order_of(const Json& call) {
  return {get_int_or(call, "epoch", 0), get_int_or(call, "number", 0)};
}

Deeds gather(const Plan& plan, const std::map<std::string, Json>& recalled) {
  Deeds deeds;
  deeds.of_step.resize(plan.steps.size());
  const auto later = [](std::optional<Json>& known, const Json& call) {
    if (!known || order_of(*known) < order_of(call)) known = call;
  };
  for (const auto& [host, answer] : recalled) {
    for (const auto& call : answer.value("calls", Json::array())) {
      const int index = plan.find(get_string_or(call, "step", ""));
      if (index < 0) continue;
      later(deeds.of_step[index], call);
      later(deeds.last, call);
      deeds.irreversible = deeds.irreversible || plan.steps[index].irreversible;
    }
  }
  return deeds;
}

class Records {
 public:
  explicit Records(std::int64_t now) : now_(now) {}
  void add(Json record, std::int64_t at = 0) {
    record["at"] = at > 0 ? at : now_;
    records.push_back(std::move(record));
  }
  // One step's intent; its outcome where it is known.
  void begun(const std::string& step, bool back, const Json& call) {
    add({{"type", "intent"},
         {"step", step},
         {"direction", direction(back)},
         {"attempt", 1},
         {"epoch", get_int_or(call, "epoch", 0)}},
        get_int_or(call, "at", 0));
  }
  void ended(const std::string& step, bool back, const Json& call) {
    const bool ok = get_bool_or(call, "ok", true);
    Json record{{"type", "outcome"}, {"step", step}, {"direction", direction(back)}, {"ok", ok}, {"adopted", true}};
    const auto result = call.value("result", Json());
    if (ok) record["result"] = result.is_object() ? result : Json::object();
    if (!ok) record["error"] = call.value("error", Json::object());
    add(std::move(record), get_int_or(call, "ended_at", 0));
  }

  std::vector<Json> records;

 private:
  static std::string_view direction(bool back) { return back ? "back" : "forward"; }
  std::int64_t now_;
};

}  // namespace

bool add_to_kept_plan(Json& kept, const Json& record) {
  const auto type = get_string_or(record, "type", "");
  if (type == "plan") kept = record;
  if (type != "tuned" || !kept.is_object()) return false;
  kept["tuned"].push_back(record);
  kept["hash"] = fmt::format("{}+{}", name_of(kept), tunings_of(kept));
  return true;
}

Result<std::vector<Json>> rebuild_journal(const std::map<std::string, Json>& recalled, std::uint64_t epoch,
                                          const std::string& journal, std::int64_t now) {
  auto first = TRY(the_plan(recalled));
  const auto tunings = first.value("tuned", Json::array());
  first.erase("tuned");
  first["hash"] = name_of(first);
  first["journal"] = journal;
  first["adopted"] = true;
  Records out(now);
  out.add(std::move(first));
  Engine engine;
  CHECK_OK(engine.fold(out.records[0]));
  for (const auto& tuned : tunings) {
    CHECK_OK(engine.fold(tuned));
    out.records.push_back(tuned);
  }
  const auto& plan = engine.state().plan;
  const auto deeds = gather(plan, recalled);
  out.add({{"type", "epoch"}, {"epoch", epoch}});
  if (!deeds.last) return out.records;  // nothing was begun
  const bool back = get_string_or(*deeds.last, "verb", "") == "undo";
  out.add({{"type", "asked"}, {"goal", deeds.irreversible ? "finish" : back ? "back" : "run"}, {"until", ""}});
  const int at = plan.find(get_string_or(*deeds.last, "step", ""));
  for (int i = 0; i < static_cast<int>(plan.steps.size()); ++i) {
    const auto& step = plan.steps[i];
    const auto& call = deeds.of_step[i];
    if (i < at) {
      if (step.kind == StepKind::effect && !call)
        return refused(
            fmt::format("'{}' must have been done, and the agent on {} has no record of it", step.id, step.host),
            "its host has lost the agent's state: the move cannot be adopted, only undone by hand");
      const bool ended = call && get_bool_or(*call, "ok", false) && get_string_or(*call, "verb", "") == "apply";
      out.begun(step.id, false, call.value_or(Json::object()));
      out.ended(step.id, false,
                ended ? *call : Json::object());  // else found done by a look, before the next step began
    } else if (i == at) {
      out.begun(step.id, back, *call);
      if (call->contains("ok")) out.ended(step.id, back, *call);
    } else if (step.kind == StepKind::effect && call) {
      out.begun(step.id, true, *call);
      out.ended(step.id, true, Json::object());
    }
  }
  return out.records;
}

}  // namespace midstream
