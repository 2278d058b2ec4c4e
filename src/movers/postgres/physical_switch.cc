#include "movers/postgres/physical_switch.h"

#include <fmt/format.h>

#include "movers/postgres/gate_hold.h"
#include "movers/postgres/physical_side.h"
#include "movers/postgres/switch.h"
#include "movers/postgres/wal.h"

namespace midstream::postgres {

namespace {

constexpr std::int64_t kWayBackLagMs = 10'000;  // further behind, old does not count as in sync

struct Sides {
  SideLook old_side;
  SideLook new_side;
  const SideLook& of(bool old) const { return old ? old_side : new_side; }
};

// Whoever owns is up and the other follows: nothing is left to be done.
std::string owner_of(const Sides& sides) {
  const bool old_owns = sides.old_side.owns(true), new_owns = sides.new_side.owns(false);
  return old_owns && new_owns ? "both" : old_owns ? "old" : new_owns ? "new" : "none";
}

// A turn begins with `yielded`; then the taker is `owner`, and `closing` when it is to end. A standby may still show what was before.
bool later(const SideLook& one, const SideLook& other) {
  const auto place = [](const SideLook& look) { return std::pair(look.turn, look.state == "yielded" ? 0 : look.state == "owner" ? 1 : 2); };
  return other.state.empty() || (!one.state.empty() && place(one) > place(other));
}

class PhysicalSwitch {
 public:
  explicit PhysicalSwitch(const Work& work) : work_(work), database_(only_database(work.plan)), gate_(work, database_) {}

  Result<Json> side(bool old_side, std::string_view verb, Json args = Json::object()) const {
    args["database"] = database_;
    return old_side == work_.on_old ? answer(work_, verb, args) : work_.ask(verb, std::move(args));
  }
  Result<Sides> look() const {
    return Sides{side_look_from_json(TRY(side(true, "physical_look"))), side_look_from_json(TRY(side(false, "physical_look")))};
  }

  Result<Sides> settle() const {
    for (int round = 0; round < 6; ++round) {
      const auto sides = TRY(look());
      if (!TRY(one_step(sides))) return sides;
    }
    return failure(ErrorKind::unknown, fmt::format("the title of {} does not come to rest", database_));
  }

  // The gate's sessions go over, and everybody else may come.
  Result<Json> after_take(bool from_old) const {
    if (!work_.plan.gate.present()) return Json::object();
    const auto over = gate_.over(from_old);
    work_.at("switch.over");
    gate_.wait_left(from_old);
    CHECK_OK(side(!from_old, "admit_all"));
    return over ? *over : Json{{"error", over.error().what}};
  }

  Result<Json> hand_over(bool from_old) const {
    const auto ready = side(!from_old, "physical_prepare_take");
    if (!ready) return postponed(from_old, ready.error());
    const auto lag = side(from_old, "physical_prepare_give");
    if (!lag) return postponed(from_old, lag.error());
    const auto gate_there = gate_.make_ready(from_old);
    if (!gate_there) return postponed(from_old, gate_there.error());
    work_.at("switch.prepared");
    const auto start = boot_now();
    auto given = side(from_old, "physical_give", {{"deadline_ms", work_.plan.deadline_ms}, {"gate_gone", !*gate_there}});
    if (!given && (given.error().kind == ErrorKind::retry || given.error().kind == ErrorKind::refused) && !TRY(has_yielded(from_old)))
      return postponed(from_old, given.error());
    Json figures = given ? *given : Json::object();
    work_.at("switch.given");
    if (given) {
      const auto taken = side(!from_old, "physical_take", {{"turn", get_int_or(*given, "turn", 0)}, {"lsn", get_string_or(*given, "lsn", "")}});
      if (taken) figures.update(*taken);
    }
    // Whatever is missing, the sides know.
    const auto sides = TRY(settle());
    if (!sides.of(!from_old).owns(!from_old)) {
      if (!given) return postponed(from_old, given.error());
      return failure(ErrorKind::unknown, fmt::format("{} was given away by {} and not taken", database_, from_old ? "old" : "new"));
    }
    figures["total_ms"] = std::chrono::duration_cast<Millis>(boot_now() - start).count();
    work_.at("switch.taken");
    const auto over = TRY(after_take(from_old));
    if (work_.plan.gate.present()) figures["gate"] = over;
    const auto after = TRY(side(from_old, "physical_rejoin"));
    figures["lag_bytes"] = get_int_or(*lag, "lag_bytes", 0);
    auto proof = ready->value("proof", Json::array());
    for (const auto& more : {figures.value("proof", Json::array()), after.value("proof", Json::array())})
      for (const auto& one : more) proof.push_back(one);
    figures["fence_proof"] = proof;
    figures.erase("proof");
    return figures;
  }

 private:
  Result<bool> has_yielded(bool from_old) const {
    const auto look = side_look_from_json(TRY(side(from_old, "physical_look")));
    return !look.owns(from_old) && !(look.up && look.state == "closing");
  }

  // False: it is at rest.
  Result<bool> one_step(const Sides& sides) const {
    for (const bool old : {true, false})
      if (sides.of(old).up && !sides.of(old).recovering && sides.of(old).state == "closing") return opened(old);
    const auto& newest = later(sides.new_side, sides.old_side) ? sides.new_side : sides.old_side;
    const auto turn = std::max(newest.turn, std::max(sides.old_side.given.turn, sides.new_side.given.turn));
    return turn > newest.turn || newest.state == "yielded" ? on(sides, turn) : up_again(sides, turn);
  }
  Result<bool> opened(bool old) const {
    CHECK_OK(side(old, "reopen"));
    return true;
  }

  // It was yielded in that turn: the giver stops for good, the taker takes.
  Result<bool> on(const Sides&, std::int64_t turn) const {
    const bool from_old = turn % 2 != 0;
    const auto given = TRY(side(from_old, "physical_stop", {{"turn", turn}}));
    const Json args{{"turn", turn}, {"lsn", get_string_or(given, "lsn", "")}};
    const auto taken = side(!from_old, "physical_take", args);
    if (taken) return true;
    if (taken.error().kind != ErrorKind::retry) return std::unexpected(taken.error());
    // What has not arrived, the giver sends as a standby.
    CHECK_OK(side(from_old, "physical_start"));
    CHECK_OK(side(!from_old, "physical_take", args));
    return true;
  }

  // Nothing was yielded: the server of whoever owns may be down all the same. A death between the signal and the clean stop leaves
  // one that is yielded, and says so when it is up.
  Result<bool> up_again(const Sides& sides, std::int64_t turn) const {
    const bool old_owns = turn % 2 == 0;
    const auto& owner = sides.of(old_owns);
    if (owner.up && !owner.recovering) return false;
    if (owner.signal) return on(sides, turn + 1);
    if (owner.up) return failure(ErrorKind::unknown, fmt::format("{} owns {} and recovers", old_owns ? "old" : "new", database_));
    CHECK_OK(side(old_owns, "physical_start"));
    return true;
  }

  // Nothing was yielded.
  std::unexpected<Error> postponed(bool from_old, const Error& why) const {
    gate_.open(from_old);
    (void)side(!from_old, "physical_refuse");
    return std::unexpected(why);
  }

  const Work& work_;
  std::string database_;
  GateHold gate_;
};

Json titles_of(const Sides& sides) { return {{"old", to_json(sides.old_side)}, {"new", to_json(sides.new_side)}}; }

}  // namespace

Result<Json> run_physical_switch(const Work& work, bool to_new) {
  const PhysicalSwitch one(work);
  const auto sides = TRY(one.settle());
  const auto owner = owner_of(sides);
  if (owner == "both" || owner == "none")
    return refused(fmt::format("{} has {} owners", only_database(work.plan), owner == "both" ? "two" : "no"), "run source, target and follow first");
  const bool old_owns = owner == "old";
  if (old_owns != to_new) {
    CHECK_OK(one.after_take(to_new));
    CHECK_OK(one.side(to_new, "physical_rejoin"));
    return Json{{"total_ms", 0}, {"databases", Json::object()}};
  }
  // Half of a switch the other way: its last part makes the other side fit to take it back.
  if (!sides.of(!old_owns).up) CHECK_OK(one.side(!old_owns, "physical_rejoin"));
  const auto figures = TRY(one.hand_over(to_new));
  Json total{{"fence_proof", figures.value("fence_proof", Json::array())}};
  for (const char* key : {"fence_ms", "barrier_ms", "total_ms", "sessions_cut"}) total[key] = get_int_or(figures, key, 0);
  auto rest = figures;
  rest.erase("fence_proof");
  total["databases"][only_database(work.plan)] = rest;
  return total;
}

Result<Json> observe_physical_switch(const Work& work) {
  const auto& database = only_database(work.plan);
  const PhysicalSwitch one(work);
  const auto sides = TRY(one.look());
  const auto owner = owner_of(sides);
  Json out = observation(true, "");
  out["titles"][database] = titles_of(sides);
  out["owner"] = owner;
  out["held"] = owner == "none";
  if (owner != "new") {
    out["reached"] = false;
    out["why"] = fmt::format("{} is owned by {}", database, owner);
    return out;
  }
  const auto room = TRY(look_at_wal(work, work.plan.seed_slot()));
  out["wal"][database] = to_json(room);
  if (const auto alarm = alarm_of(room, work.context.host); !alarm.empty()) out["alarm"] = alarm;
  if (!room.given_up.empty() || (sides.old_side.up && sides.old_side.recovering && sides.old_side.streaming)) return out;
  out["reached"] = false;
  out["why"] = fmt::format("old does not follow {} as a standby yet", database);
  return out;
}

Result<Json> observe_physical_way_back(const Work& work) {
  const auto& database = only_database(work.plan);
  const PhysicalSwitch one(work);
  const auto sides = one.look();
  if (!sides) return undo_outlook(fmt::format("{} cannot be asked: {}", database, sides.error().what));
  if (owner_of(*sides) != "new") return undo_outlook(fmt::format("{} is owned by {}", database, owner_of(*sides)));
  const auto room = TRY(look_at_wal(work, work.plan.seed_slot()));
  if (!room.given_up.empty()) return undo_outlook(room.given_up);
  if (!sides->old_side.up || !sides->old_side.streaming || !sides->new_side.streaming)
    return undo_outlook(fmt::format("old does not follow {} as a standby", database));
  if (sides->new_side.lag_ms > kWayBackLagMs)
    return undo_outlook(fmt::format("{} on old is {} ms and {} bytes behind", database, sides->new_side.lag_ms, sides->new_side.lag_bytes));
  auto out = undo_outlook("");
  out["lag_bytes"] = sides->new_side.lag_bytes;
  return out;
}

}  // namespace midstream::postgres
