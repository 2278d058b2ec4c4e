#include "movers/postgres/switch.h"

#include <fmt/format.h>

#include <map>
#include <set>

#include "movers/postgres/carry.h"
#include "movers/postgres/catalog.h"
#include "movers/postgres/check.h"
#include "movers/postgres/ddl.h"
#include "movers/postgres/digests.h"
#include "movers/postgres/fence.h"
#include "movers/postgres/gate_hold.h"
#include "movers/postgres/handover.h"
#include "movers/postgres/outlook.h"
#include "movers/postgres/physical_give.h"
#include "movers/postgres/physical_side.h"
#include "movers/postgres/prewarm.h"
#include "movers/postgres/roads.h"
#include "movers/postgres/setup.h"
#include "movers/postgres/shared.h"
#include "movers/postgres/stream.h"
#include "movers/postgres/sync_reverse.h"
#include "movers/postgres/title.h"

namespace midstream::postgres {

namespace {

using Handler = Result<Json> (*)(const Work&, const std::string& database, const Json& args);

const std::map<std::string_view, Handler>& handlers() {
  static const std::map<std::string_view, Handler> all{
      {"title",
       [](const Work& w, const std::string& d, const Json&) -> Result<Json> { return to_json(TRY(read_title(w, d))); }},
      {"hot_relations", [](const Work& w, const std::string& d, const Json&) { return hot_relations(w, d); }},
      {"filled_views", [](const Work& w, const std::string& d, const Json&) { return filled_views(w, d); }},
      {"prepare_take", [](const Work& w, const std::string& d, const Json& a) { return prepare_take(w, d, a); }},
      {"prepare_give", [](const Work& w, const std::string& d, const Json& a) { return prepare_give(w, d, a); }},
      {"give", [](const Work& w, const std::string& d, const Json& a) { return give(w, d, a); }},
      {"take", [](const Work& w, const std::string& d, const Json& a) { return take(w, d, a); }},
      {"after_give", [](const Work& w, const std::string& d, const Json& a) { return after_give(w, d, a); }},
      {"reopen",
       [](const Work& w, const std::string& d, const Json&) -> Result<Json> {
         const bool opened = TRY(reopen(w, d));
         CHECK_OK(clear_lease(w, d));
         return Json{{"opened", opened}};
       }},
      {"arrival",
       [](const Work& w, const std::string& d, const Json&) -> Result<Json> {
         const auto arrival = TRY(look_at_subscription(w, d));
         return Json{{"present", arrival.present}, {"enabled", arrival.enabled}, {"running", arrival.running}};
       }},
      {"oldest_writer",
       [](const Work& w, const std::string&, const Json&) -> Result<Json> {
         return Json{{"words", TRY(oldest_writer(w))}};
       }},
      {"drop_slot",
       [](const Work& w, const std::string& d, const Json&) -> Result<Json> {
         CHECK_OK(drop_slot(w, w.outgoing(d)));
         return Json::object();
       }},
      {"lag",
       [](const Work& w, const std::string& d, const Json&) -> Result<Json> {
         return to_json(TRY(look_at_slot(w, w.outgoing(d))));
       }},
      {"ddl_written", [](const Work& w, const std::string& d, const Json&) { return ddl_written(w, d); }},
      {"ddl_missing", [](const Work& w, const std::string& d, const Json& a) { return ddl_missing(w, d, a); }},
      {"ddl_row", [](const Work& w, const std::string& d, const Json& a) { return ddl_row(w, d, a); }},
      {"ddl_rehearsed", [](const Work& w, const std::string& d, const Json& a) { return ddl_rehearsed(w, d, a); }},
      {"subjects", [](const Work& w, const std::string& d, const Json&) { return list_subjects(w, d); }},
      {"walk", [](const Work& w, const std::string& d, const Json& a) { return walk_keys(w, d, a); }},
      {"digest", [](const Work& w, const std::string& d, const Json& a) { return digest_range(w, d, a); }},
      {"digest_buckets", [](const Work& w, const std::string& d, const Json& a) { return digest_buckets(w, d, a); }},
      {"digest_rows", [](const Work& w, const std::string& d, const Json& a) { return digest_rows(w, d, a); }},
      {"digest_keys", [](const Work& w, const std::string& d, const Json& a) { return digest_keys(w, d, a); }},
      {"name_row", [](const Work& w, const std::string& d, const Json& a) { return name_row(w, d, a); }},
      {"pinned_rows", [](const Work& w, const std::string& d, const Json& a) { return pinned_rows(w, d, a); }},
      {"report_promptly", [](const Work& w, const std::string& d, const Json&) { return report_promptly(w, d); }},
      {"settle_lag", [](const Work& w, const std::string& d, const Json&) { return settle_lag(w, d); }},
      {"sequences", [](const Work& w, const std::string& d, const Json&) { return sequences_here(w, d); }},
      {"take_sequences", [](const Work& w, const std::string& d, const Json& a) { return take_sequences(w, d, a); }},
      {"objects", [](const Work& w, const std::string& d, const Json& a) { return objects_here(w, d, a); }},
      {"object", [](const Work& w, const std::string& d, const Json& a) { return object_piece(w, d, a); }},
      {"take_object", [](const Work& w, const std::string& d, const Json& a) { return take_object(w, d, a); }},
      {"dump", [](const Work& w, const std::string&,
                  const Json& a) { return dump_catalog(w, get_bool_or(a, "schema", false)); }},
      {"carry_shared", [](const Work& w, const std::string&, const Json& a) { return carry_shared(w, a); }},
      {"credentials",
       [](const Work& w, const std::string&, const Json& a) -> Result<Json> {
         return exchange_credentials(w, TRY(get_string(a, "password")));
       }},
      {"shared_credentials", [](const Work& w, const std::string&, const Json&) { return shared_credentials(w); }},
      {"physical_look", [](const Work& w, const std::string&, const Json&) -> Result<Json> { return to_json(TRY(look_at_side(w))); }},
      {"physical_prepare_take", [](const Work& w, const std::string&, const Json&) { return physical_prepare_take(w); }},
      {"physical_prepare_give", [](const Work& w, const std::string&, const Json&) { return physical_prepare_give(w); }},
      {"physical_give", [](const Work& w, const std::string&, const Json& a) { return physical_give(w, a); }},
      {"physical_take", [](const Work& w, const std::string&, const Json& a) { return physical_take(w, a); }},
      {"physical_rejoin", [](const Work& w, const std::string&, const Json&) { return physical_rejoin(w); }},
      {"physical_refuse", [](const Work& w, const std::string&, const Json&) { return physical_refuse(w); }},
      {"physical_stop",
       [](const Work& w, const std::string&, const Json& a) -> Result<Json> {
         const auto given = TRY(stop_for_good(w, TRY(get_int(a, "turn"))));
         return Json{{"turn", given.turn}, {"lsn", given.lsn}};
       }},
      {"physical_start",
       [](const Work& w, const std::string&, const Json&) -> Result<Json> {
         CHECK_OK(start_again(w));
         return Json::object();
       }},
      {"forget_streams",
       [](const Work& w, const std::string&, const Json&) -> Result<Json> {
         CHECK_OK(forget_streams(w));
         return Json::object();
       }},
      {"finish_old",
       [](const Work& w, const std::string&, const Json&) -> Result<Json> {
         CHECK_OK(finish_old(w));
         return Json::object();
       }},
      {"refuse_gate", [](const Work& w, const std::string& d, const Json&) { return refuse_gate(w, d); }},
      {"admit_all", [](const Work& w, const std::string& d, const Json&) { return admit_all(w, d); }},
      {"gate_password",
       [](const Work& w, const std::string&, const Json&) -> Result<Json> {
         return Json{{"password", TRY(get_string(TRY(Record::load(w.context, w.plan.move)), "gate_password"))}};
       }},
      {"road_facts", [](const Work& w, const std::string&, const Json&) { return road_facts(w); }},
      {"forget_seed",
       [](const Work& w, const std::string&, const Json&) -> Result<Json> {
         CHECK_OK(forget_seed(w));
         return Json::object();
       }},
      {"seed_room",
       [](const Work& w, const std::string&, const Json&) -> Result<Json> { return to_json(TRY(look_at_wal(w, w.plan.seed_slot()))); }},
      {"heard", [](const Work& w, const std::string& d, const Json& a) { return note_heard(w, d, a); }},
      {"outlook", [](const Work& w, const std::string& d, const Json&) { return what_is_here(w, d); }},
      {"facts", [](const Work& w, const std::string&, const Json&) { return cluster_facts(w); }},
  };
  return all;
}

struct Both {
  Title old_side;
  Title new_side;
};

class Switch {
 public:
  Switch(const Work& work, const std::string& database) : work_(work), database_(database), gate_(work, database) {}

  Result<Json> side(bool old_side, std::string_view verb, Json args = Json::object()) const {
    args["database"] = database_;
    return old_side == work_.on_old ? answer(work_, verb, args) : work_.ask(verb, std::move(args));
  }

  Result<Both> titles() const {
    return Both{title_from_json(TRY(side(true, "title"))), title_from_json(TRY(side(false, "title")))};
  }

  // Brings a hand-over that was cut off to one of its two ends: back where it was not yielded, on where it
  // was.
  Result<Both> settle() const {
    const auto mine = TRY(read_title(work_, database_));
    if (mine.arrived > mine.turn) CHECK_OK(side(work_.on_old, "take"));  // needs nobody else
    for (int round = 0; round < 6; ++round) {
      const auto both = TRY(titles());
      if (both.old_side.state == "closing") {
        CHECK_OK(side(true, "reopen"));
      } else if (both.new_side.state == "closing") {
        CHECK_OK(side(false, "reopen"));
      } else if (both.old_side.state == "yielded" && both.old_side.turn > both.new_side.turn) {
        CHECK_OK(side(false, "take", {{"turn", both.old_side.turn}}));
      } else if (both.new_side.state == "yielded" && both.new_side.turn > both.old_side.turn) {
        CHECK_OK(side(true, "take", {{"turn", both.new_side.turn}}));
      } else {
        return both;
      }
    }
    return failure(ErrorKind::unknown, fmt::format("the titles of {} do not come to rest", database_));
  }

  // The last part of a hand-over, no user waits any more: the stream back begins where the taker's ownership did.
  Result<Json> after_give(bool from_old) const {
    const auto taker = title_from_json(TRY(side(!from_old, "title")));
    return side(from_old, "after_give", {{"began", taker.began}});
  }

  // The gate's sessions go over, and everybody else may come. A gate that is gone has no sessions, and one that does not hear
  // goes by the title: neither keeps the switch from going on.
  Result<Json> after_take(bool from_old) const {
    if (!work_.plan.gate.present()) return Json::object();
    const auto over = gate_.over(from_old);
    work_.at("switch.over");
    gate_.wait_left(from_old);
    // Every backend reads its configuration anew for this, in its next statement: not in the first ones after the hold.
    CHECK_OK(side(!from_old, "admit_all"));
    return over ? *over : Json{{"error", over.error().what}};
  }

  Result<Json> hand_over(bool from_old) const {
    // Nobody is held for a stream that has stopped.
    if (const auto way = TRY(ddl_in_the_way(work_, database_, from_old)); !way.empty()) return retry(way);
    const auto catalog = side(from_old, "dump");
    if (!catalog) return postponed(from_old, catalog.error());
    const auto shared = side(!from_old, "carry_shared", {{"catalog", *catalog}});
    if (!shared) return postponed(from_old, shared.error());
    // Old is warm when it takes back. Without the answer new begins cold, that is all.
    const auto hot = from_old ? side(true, "hot_relations") : Result<Json>(Json::object());
    const auto views = side(from_old, "filled_views");
    if (!views) return postponed(from_old, views.error());
    const auto can_take = side(!from_old, "prepare_take", {{"hot", hot.value_or(Json::object())}, {"views", *views}});
    if (!can_take) return postponed(from_old, can_take.error());
    const auto& ready = *can_take;
    const auto asked = side(from_old, "prepare_give", {{"fingerprint", ready.value("fingerprint", "")}});
    if (!asked) return postponed(from_old, asked.error());
    const auto& lag = *asked;
    const auto gate_there = gate_.make_ready(from_old);
    if (!gate_there) return postponed(from_old, gate_there.error());
    work_.at("switch.prepared");
    const auto start = boot_now();
    auto given = side(from_old, "give", {{"deadline_ms", work_.plan.deadline_ms}, {"gate_gone", !*gate_there}});
    if (!given) {
      const auto kind = given.error().kind;
      if (kind == ErrorKind::retry || kind == ErrorKind::refused) return postponed(from_old, given.error());
      if (kind != ErrorKind::unknown) return postponed(from_old, given.error());
      // The answer was lost on the way: the titles know.
      const auto both = TRY(settle());
      if ((from_old ? both.new_side : both.old_side).state != "owner") return postponed(from_old, given.error());
      given = Json::object();
    }
    const auto given_at = boot_now();
    work_.at("switch.given");
    const auto taken = TRY(side(!from_old, "take", {{"turn", get_int_or(*given, "turn", 0)}}));
    // From the commit that shut the giver to the one that opened the taker, as seen from here.
    const auto since = [](auto from, auto to) { return std::chrono::duration_cast<Millis>(to - from).count(); };
    const auto total = since(given_at, boot_now()) + get_int_or(*given, "give_ms", since(start, given_at));
    work_.at("switch.taken");
    const auto over = TRY(after_take(from_old));
    const auto after = TRY(after_give(from_old));
    auto figures = *given;
    figures.update(taken);
    figures["total_ms"] = total;
    if (work_.plan.gate.present()) figures["gate"] = over;
    figures["shared"] = shared->value("changed", Json::array());
    figures["lag_bytes"] = get_int_or(lag, "lag_bytes", 0);
    figures["warmed_bytes"] = get_int_or(ready, "warmed_bytes", 0);
    figures["fence_proof"] = Json::array();
    for (const auto& proof : {ready.value("proof", Json::array()), given->value("proof", Json::array()),
                              after.value("proof", Json::array())})
      for (const auto& one : proof) figures["fence_proof"].push_back(one);
    figures.erase("proof");
    return figures;
  }

 private:
  // Nothing was yielded. The slot that the taker has made would keep its log for nobody until the next try, which makes it
  // anew; where it cannot be dropped now, the taker's agent does it when the disk gets tight.
  std::unexpected<Error> postponed(bool from_old, const Error& why) const {
    (void)side(!from_old, "drop_slot");
    gate_.open(from_old);
    if (work_.plan.gate.present()) (void)side(!from_old, "refuse_gate");
    return std::unexpected(why);
  }

  const Work& work_;
  std::string database_;
  GateHold gate_;
};

std::string owner_of(const Both& both) {
  const bool old_owns = both.old_side.state == "owner" || both.old_side.state == "closing";
  const bool new_owns = both.new_side.state == "owner" || both.new_side.state == "closing";
  if (old_owns && new_owns) return "both";
  return old_owns ? "old" : new_owns ? "new" : "none";
}

}  // namespace

Result<Json> answer(const Work& work, std::string_view verb, const Json& args) {
  const auto found = handlers().find(verb);
  if (found == handlers().end()) return refused(fmt::format("postgres answers no request '{}'", verb));
  const auto database = get_string_or(args, "database", "");
  if (!database.empty() && work.plan.number(database) < 0)
    return refused(fmt::format("database '{}' is not part of this step", database));
  static const std::set<std::string_view> kChanging{"prepare_take", "prepare_give", "give",
                                                    "take",         "after_give",   "reopen", "refuse_gate",  "admit_all",
                                                    "physical_prepare_take", "physical_prepare_give", "physical_give", "physical_take",
                                                    "physical_rejoin", "physical_refuse", "physical_stop", "physical_start"};
  std::unique_lock lock(work.titles, std::defer_lock);
  if (kChanging.contains(verb)) lock.lock();
  return found->second(work, database, args);
}

Result<Json> run_switch(const Work& work, bool to_new) {
  Json total{{"fence_ms", 0},
             {"barrier_ms", 0},
             {"total_ms", 0},
             {"sessions_cut", 0},
             {"fence_proof", Json::array()},
             {"databases", Json::object()}};
  for (const auto& database : work.plan.databases) {
    const Switch one(work, database);
    const auto both = TRY(one.settle());
    const auto& taker = to_new ? both.new_side : both.old_side;
    const auto& giver = to_new ? both.old_side : both.new_side;
    if (taker.state == "owner") {
      // Done before, perhaps all but the last part.
      if (giver.state != "yielded") continue;
      CHECK_OK(one.after_take(to_new));
      CHECK_OK(one.after_give(to_new));
      continue;
    }
    // Half of a switch the other way: its last part makes this side fit to take the database back.
    if (giver.state == "owner" && taker.state == "yielded") {
      CHECK_OK(one.after_take(!to_new));
      CHECK_OK(one.after_give(!to_new));
    }
    if (giver.state != "owner")
      return refused(fmt::format("{} has no owner that could give it away (old '{}', new '{}')", database,
                                 both.old_side.state, both.new_side.state),
                     "run source, target and follow first");
    const auto figures = TRY(one.hand_over(to_new));
    for (const char* key : {"fence_ms", "barrier_ms", "total_ms", "sessions_cut"})
      total[key] = get_int_or(total, key, 0) + get_int_or(figures, key, 0);
    for (const auto& proof : figures.value("fence_proof", Json::array())) total["fence_proof"].push_back(proof);
    auto rest = figures;
    rest.erase("fence_proof");
    total["databases"][database] = rest;
  }
  // Only now: the streams back run, and a commit that waited for one of them before would wait for its beginning.
  if (to_new && is_sync_reverse(work.plan)) CHECK_OK(begin_sync_reverse(work));
  return total;
}

namespace {

Result<> observe_sync_reverse(const Work& work, Json& out) {
  if (!is_sync_reverse(work.plan)) return {};
  const auto look = TRY(look_at_sync_reverse(work));
  out["sync"] = {{"in_force", look.ours}, {"present", look.present}, {"waiting", look.waiting}};
  if (look.ours && !look.present) out["alarm"] = words_of_waiting(look);
  if (look.ours || !get_bool_or(out, "reached", false)) return {};
  out["reached"] = false;
  out["why"] = "commits on new do not wait for old yet";
  return {};
}

}  // namespace

Result<Json> observe_switch(const Work& work) {
  Json out = observation(true, "");
  std::string owner;
  for (const auto& database : work.plan.databases) {
    const Switch one(work, database);
    const auto both = TRY(one.titles());
    const auto here = owner_of(both);
    owner = owner.empty() || owner == here ? here : "none";
    out["titles"][database] = {{"old", to_json(both.old_side)}, {"new", to_json(both.new_side)}};
    if (here != "new") {
      out["reached"] = false;
      out["why"] = fmt::format("{} is owned by {}", database, here);
      continue;
    }
    const auto reverse = TRY(one.side(true, "arrival"));
    const auto room = TRY(look_at_wal(work, work.outgoing(database)));
    out["wal"][database] = to_json(room);
    if (const auto alarm = alarm_of(room, work.context.host); !alarm.empty()) out["alarm"] = alarm;
    if (!room.given_up.empty()) continue;  // new owns, and nothing leads back any more: the alarm says so
    if (get_bool_or(reverse, "enabled", false) && get_bool_or(reverse, "running", false)) continue;
    out["reached"] = false;
    out["why"] = fmt::format("the stream of {} back to old does not run yet", database);
  }
  if (owner == "new") CHECK_OK(observe_sync_reverse(work, out));
  out["owner"] = owner;
  out["held"] = owner == "none";  // nobody commits, or one database here and another there: only going on ends that
  return out;
}

namespace {

constexpr std::int64_t kWayBackLagMs = 10'000;  // further behind, old does not count as in sync

// For the day on which new cannot be asked any more (outlook.h). A note that is not made is the older by a second.
void tell_old(const Work& work, const Switch& one, const std::string& database, bool sync) {
  auto positions = own_positions(work, database);
  if (!positions) return;
  (*positions)["sync"] = sync;
  (void)one.side(true, "heard", std::move(*positions));
}

Result<std::string> why_not_back(const Work& work, const std::string& database, bool sync, std::int64_t& lag_bytes) {
  const Switch one(work, database);
  const auto both = TRY(one.titles());
  if (owner_of(both) != "new") return fmt::format("{} is owned by {}", database, owner_of(both));
  tell_old(work, one, database, sync);
  const auto reverse = TRY(one.side(true, "arrival"));
  const auto lag = TRY(look_at_slot(work, work.outgoing(database)));
  lag_bytes += lag.bytes;
  if (!lag.wal.given_up.empty()) return lag.wal.given_up;
  if (lag.bytes > 0)
    if (auto way = TRY(ddl_in_the_way(work, database, false)); !way.empty()) return way;
  if (!get_bool_or(reverse, "enabled", false) || !get_bool_or(reverse, "running", false) || !lag.active)
    return fmt::format("the stream of {} back to old is not connected; {} bytes are to follow", database, lag.bytes);
  if (lag.ms > kWayBackLagMs) return fmt::format("{} on old is {} ms and {} bytes behind", database, lag.ms, lag.bytes);
  return "";
}

}  // namespace

Result<Json> observe_way_back(const Work& work) {
  std::int64_t lag_bytes = 0;
  bool waits = false;  // new's commits, for old
  if (is_sync_reverse(work.plan)) {
    const auto sync = look_at_sync_reverse(work);
    if (sync && sync->ours && !sync->present) return undo_outlook(words_of_waiting(*sync));
    waits = sync && sync->ours;
  }
  for (const auto& database : work.plan.databases) {
    const auto why = why_not_back(work, database, waits, lag_bytes);
    if (!why) return undo_outlook(fmt::format("{} cannot be asked: {}", database, why.error().what));
    if (!why->empty()) return undo_outlook(*why);
  }
  auto out = undo_outlook("");
  out["lag_bytes"] = lag_bytes;
  return out;
}

namespace {

// Backends that a killed agent of ours has left: what they were told to commit must not come after we looked.
Result<> end_our_own(const Work& work, const std::string& database) {
  auto session = TRY(work.session(database));
  const auto deadline = work.context.deadline.sooner(Millis(5000));
  while (true) {
    const auto left =
        TRY(session->run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                         "AND usename = current_user AND "
                         "application_name = 'midstream' AND pid <> pg_backend_pid()",
                         {}, deadline, work.context.stop));
    if (left.size() == 0) return {};
    CHECK_OK(wait_a_bit(Millis(5), deadline, work.context.stop, "backends of an agent that was killed to end"));
  }
}

}  // namespace

Result<bool> keep(const Work& work, bool all_leases) {
  const std::lock_guard lock(work.titles);
  bool did = false;
  for (const auto& database : work.plan.databases) {
    const bool held = std::filesystem::exists(work.context.state /
                                              fmt::format("{}-{}.lease", work.plan.move, work.plan.number(database)));
    const bool ended =
        held && (all_leases || TRY(lease_expired(work.context, work.plan.move, work.plan.number(database))));
    if (ended) {
      CHECK_OK(end_our_own(work, database));
      did = TRY(reopen(work, database)) || did;
      CHECK_OK(clear_lease(work, database));
    }
    const auto title = TRY(read_title(work, database));
    const bool takes = title.arrived > title.turn && !title.state.empty();
    if (takes) CHECK_OK(take(work, database, Json::object()));
    did = did || takes;
    // Whoever took it may not have come, or come back, so far as to let everybody in.
    if ((takes || title.state == "owner") && TRY(is_gated(work, database))) CHECK_OK(admit_all(work, database));
  }
  return did;
}

}  // namespace midstream::postgres
