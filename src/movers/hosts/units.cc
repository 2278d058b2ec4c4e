#include "movers/hosts/units.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"
#include "sys/file.h"
#include "sys/log.h"

namespace midstream {

namespace {

constexpr Millis kPeerPatience{5'000};
constexpr Millis kAgain{2'000};
constexpr Millis kLeaseLock{100};

Result<Title> title_of(const AskUnit& ask) {
  return title_from_json(TRY(get_object(TRY(ask("status", Json::object())), "title")));
}

}  // namespace

Result<Units::Lock> Units::lock(const UnitMove& unit, Deadline deadline) {
  std::shared_ptr<std::timed_mutex> mutex;
  {
    const std::lock_guard guard(mutex_);
    auto& slot = locks_[unit.name];
    if (!slot) slot = std::make_shared<std::timed_mutex>();  // never removed while the mover lives
    mutex = slot;
  }
  Lock held(*mutex, std::defer_lock);
  if (!held.try_lock_for(deadline.remaining()))
    return retry(fmt::format("another request is at work on {}", unit.name));
  return held;
}

Result<Json> Units::act(const Context& context, const UnitMove& unit, std::string_view verb, const Json& args) {
  if (!unit.concerns(context.host))
    return refused(fmt::format("{} is neither side of unit {}", context.host, unit.name));
  UnitSide side = local(context, unit);
  const auto turn = static_cast<std::uint64_t>(get_int_or(args, "turn", 0));
  if (verb == "status") return side.status();
  if (verb == "keep") return side.keep(turn, context.task);
  if (verb == "take") return side.take(turn, context.task);
  if (verb == "renounce") return side.renounce(turn, context.task);
  if (verb != "yield") return refused(fmt::format("mover hosts answers no request '{}' about units", printable(verb)));
  auto done = side.yield(turn, context.task);
  if (done)
    keeper_.add(options_.lease, kAgain,
                [this, unit, task = context.task, turn] { return end_lease(unit, task, turn); });
  return done;
}

Result<Json> Units::peer(const Context& context, std::string_view verb, const Json& args) {
  const UnitMove unit = TRY(parse_unit_move(TRY(get_object(args, "unit"))));
  if (verb == "status") return act(context, unit, verb, args);
  const Lock held = TRY(lock(unit, context.deadline));
  return act(context, unit, verb, args);
}

AskUnit Units::ask(const Context& context, const UnitMove& unit, const std::string& host) {
  if (host == context.host)
    return [this, &context, &unit](std::string_view verb, const Json& args) { return act(context, unit, verb, args); };
  return [&context, &unit, host](std::string_view verb, Json args) {
    args["unit"] = unit.raw;
    return context.peers.call(host, "hosts", verb, args, context.task,
                              context.deadline.sooner(kPeerPatience * 4 + unit.deadline), context.stop);
  };
}

Result<Json> Units::hand(const Context& context, const UnitMove& unit, bool back) {
  const std::string& giver = back ? unit.to : unit.from;
  const std::string& taker = back ? unit.from : unit.to;
  return hand_over(
      UnitHandover{unit.name, giver, taker, ask(context, unit, giver), ask(context, unit, taker), options_.checkpoint});
}

Result<Json> Units::apply(const Context& context, const UnitMove& unit, std::string_view kind) {
  const Lock held = TRY(lock(unit, context.deadline));
  if (kind == "unit-end") {
    CHECK_OK(local(context, unit).forget());
    return Json::object();
  }
  if (context.host != unit.to) return refused(fmt::format("hosts: this step belongs on {}", unit.to));
  if (kind == "unit") return hand(context, unit, false);
  const Json there = TRY(ask(context, unit, unit.from)("status", Json::object()));
  return local(context, unit).ready(get_string_or(there, "at_boot", ""), context.task);
}

Result<Json> Units::undo(const Context& context, const UnitMove& unit, std::string_view kind) {
  if (kind == "unit-end") return refused(fmt::format("what was remembered of {} is gone", unit.name));
  if (context.host != unit.to) return refused(fmt::format("hosts: this step belongs on {}", unit.to));
  const Lock held = TRY(lock(unit, context.deadline));
  if (kind == "unit-ready") return local(context, unit).unready();
  // Never handed over: nothing to bring back.
  const Title there = TRY(title_of(ask(context, unit, unit.from)));
  const Title here = TRY(local(context, unit).title());
  if (there.holding == Holding::owner && here.holding != Holding::owner && here.holding != Holding::yielding)
    return Json::object();
  return hand(context, unit, true);
}

Result<Json> Units::observe(const Context& context, const UnitMove& unit, std::string_view kind) {
  if (kind == "unit-end") {
    std::error_code error;
    const bool gone = !std::filesystem::exists(context.state / (unit.name + ".unit-title"), error);
    return observation(gone, gone ? "" : fmt::format("the title of {} is still there", unit.name));
  }
  const Json here = TRY(act(context, unit, "status", Json::object()));
  const Title ours = TRY(title_from_json(TRY(get_object(here, "title"))));
  if (kind == "unit-ready") {
    const bool ready = ours.holding == Holding::owner || get_bool_or(here, "held", false);
    return observation(ready, ready ? "" : fmt::format("{} could start on {}", unit.name, context.host));
  }
  const auto there = ask(context, unit, unit.other(context.host))("status", Json::object());
  const auto theirs =
      there ? title_from_json(there->value("title", Json::object())) : Result<Title>(std::unexpected(there.error()));
  const bool mine = ours.holding == Holding::owner;
  const bool other = theirs && (theirs->holding == Holding::owner || theirs->holding == Holding::yielding);
  const bool runs = get_bool_or(here, "running", false);
  const auto on = [&](bool to_side) { return to_side ? "new" : "old"; };
  const std::string owner = mine && other ? "both"
                            : mine        ? on(context.host == unit.to)
                            : other       ? on(context.host != unit.to)
                            : theirs      ? "none"
                                          : "unknown";
  const bool reached = owner == "new" && runs;
  std::string why = reached          ? ""
                    : owner == "new" ? fmt::format("{} does not run on {}", unit.name, unit.to)
                                     : fmt::format("the title of {} is with {}", unit.name, owner);
  if (!theirs) why += fmt::format("; {} cannot be asked: {}", unit.other(context.host), theirs.error().text());
  {
    const std::lock_guard guard(mutex_);
    if (const auto note = notes_.find(unit.name); note != notes_.end() && !note->second.empty())
      why += (why.empty() ? "" : "; ") + note->second;
  }
  Json result = observation(reached, why);
  result["owner"] = owner;
  result["held"] = owner == "none";
  result["processes"] = here["processes"];
  return result;
}

// Old must be there with a unit that it can run, and nobody may have taken it behind our back.
Result<Json> Units::observe_undo(const Context& context, const UnitMove& unit, std::string_view kind) {
  if (kind == "unit-end") return undo_outlook(fmt::format("what was remembered of {} is gone", unit.name));
  const Json here = TRY(act(context, unit, "status", Json::object()));
  const auto unfit = [&](const Json& status, const std::string& host) -> std::string {
    if (!get_bool_or(status, "known", false)) return fmt::format("{} has no unit {}", host, unit.name);
    const auto why = get_string_or(status, "unfit", "");
    return why.empty() ? "" : fmt::format("{} cannot be handed over on {}: {}", unit.name, host, why);
  };
  if (kind == "unit-ready") return undo_outlook(unfit(here, context.host));
  const auto& old_host = unit.from;
  const auto there = ask(context, unit, old_host)("status", Json::object());
  if (!there) return undo_outlook(fmt::format("{} cannot be asked: {}", old_host, there.error().text()));
  if (auto why = unfit(*there, old_host); !why.empty()) return undo_outlook(std::move(why));
  const Title ours = TRY(title_from_json(TRY(get_object(here, "title"))));
  const Title theirs = TRY(title_from_json(TRY(get_object(*there, "title"))));
  const bool both = ours.holding == Holding::owner && theirs.holding == Holding::owner;
  return undo_outlook(both ? fmt::format("both sides have the title of {}", unit.name) : "");
}

Result<Json> Units::check(const Context& context, const UnitMove& unit) {
  Json list = Json::array();
  const auto there = ask(context, unit, unit.from)("status", Json::object());
  const auto here = ask(context, unit, unit.to)("status", Json::object());
  for (const auto& [host, status] : {std::pair{&unit.from, &there}, std::pair{&unit.to, &here}}) {
    if (!*status) {
      list.push_back(
          finding(fmt::format("unit {} on {}", unit.name, *host), false, status->error().what, status->error().todo));
      continue;
    }
    const bool known = get_bool_or(**status, "known", false);
    const auto unfit = get_string_or(**status, "unfit", "");
    list.push_back(finding(fmt::format("unit {} can be handed over on {}", unit.name, *host), known && unfit.empty(),
                           !known          ? "there is no such unit"
                           : unfit.empty() ? "of " + get_string_or(**status, "supervisor", "?")
                                           : unfit,
                           !known ? fmt::format("install it on {}, or correct `units` in the manifest", *host)
                                  : "correct `units` in the manifest"));
  }
  if (!there || !here) return list;
  const bool old_runs = get_bool_or(*there, "running", false);
  const bool new_runs = get_bool_or(*here, "running", false);
  list.push_back(finding(fmt::format("unit {} runs on {} alone", unit.name, unit.from), old_runs && !new_runs,
                         old_runs && new_runs ? "on both"
                         : old_runs           ? unit.from
                         : new_runs           ? unit.to
                                              : "on neither",
                         old_runs
                             ? fmt::format("stop it on {}, so that it does not start there before the switch", unit.to)
                             : fmt::format("start it on {}, or leave it out of `units`", unit.from)));
  return list;
}

void Units::start(const Context& base) {
  {
    const std::lock_guard guard(mutex_);
    base_.emplace(base);
  }
  keeper_.start(base.stop);
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(base.state, error)) {
    if (entry.path().extension() != ".unit-title") continue;
    // One unit's trouble keeps the agent from nothing: observe shows it, and it is tried again.
    keeper_.add(Millis{0}, kAgain, [this, base, file = entry.path()] {
      const auto done = recover(base, file);
      if (!done) log_warn("hosts", "{}: {}", file.string(), done.error().text());
      return done.has_value();
    });
  }
}

Result<> Units::recover(const Context& base, const std::filesystem::path& file) {
  std::error_code error;
  if (!std::filesystem::exists(file, error)) return {};
  const Json record = TRY(parse_json(TRY(read_file(file))));
  const UnitMove unit = TRY(parse_unit_move(TRY(get_object(record, "desired"))));
  const Lock held = TRY(lock(unit, Deadline::in(kPeerPatience)));
  UnitSide side = local(base, unit);
  const Title title = TRY(side.title());
  const Task task{get_string_or(record, "move", ""), get_string_or(record, "step", ""), title.epoch};
  const auto note = side.recover(task);
  {
    const std::lock_guard guard(mutex_);
    notes_[unit.name] = note ? *note : note.error().text();
  }
  if (!note) return std::unexpected(note.error());
  if (!note->empty()) log_warn("hosts", "{}", *note);
  const Title now = TRY(side.title());
  // After a restart a lease counts as expired.
  if (now.holding == Holding::yielded)
    keeper_.add(Millis{0}, kAgain, [this, unit, task, turn = now.turn] { return end_lease(unit, task, turn); });
  return {};
}

// The dead-man's act of the side that gave (P8 within P2): it starts the unit again only after the other side has
// durably stood down. True: nothing is left to be done.
bool Units::end_lease(const UnitMove& unit, const Task& task, std::uint64_t turn) {
  Context ours = base();
  ours.task = task;
  ours.deadline = Deadline::in(kPeerPatience * 2);
  UnitSide side = local(ours, unit);
  // The host that runs handovers keeps them out for the whole act; the other must not, for it is asked by one.
  Result<Lock> held{Lock()};
  if (ours.host == unit.to) held = lock(unit, Deadline::in(kLeaseLock));
  if (!held) return false;
  const auto mine = side.title();
  if (!mine) return false;
  ours.task.epoch = mine->epoch;
  if (mine->turn != turn || mine->holding != Holding::yielded) return true;
  if (!ours.peers.level_epochs(unit.other(ours.host), ours.deadline, ours.stop)) return false;
  const AskUnit other = ask(ours, unit, unit.other(ours.host));
  const auto title = title_of(other);
  if (!title) return false;  // nobody can know: it runs nowhere
  if (title->holding == Holding::owner && title->turn >= turn) return true;
  const std::uint64_t next = std::max(turn, title->turn) + 1;
  if (!other("renounce", {{"turn", next}})) return false;
  if (!held->owns_lock()) held = lock(unit, ours.deadline);
  const auto taken = held ? side.take(next, ours.task) : Result<Json>(std::unexpected(held.error()));
  if (!taken) return false;
  log_warn("hosts", "{} of move {} ran nowhere: {} runs it again", unit.name, task.move, ours.host);
  return true;
}

}  // namespace midstream
