#include "movers/mail/flip.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>

#include "base/text.h"
#include "movers/mail/follower.h"
#include "movers/mail/together.h"

namespace midstream::mail {

namespace {

constexpr Millis kDrain{2'500};
constexpr Millis kLongSync{2'000};

bool is_home(const Json& titles, const std::string& user) {
  const auto state = titles.contains(user) ? get_string_or(titles.at(user), "state", "") : "";
  return state == "owner" || state == "yielding";
}

std::uint64_t turn_of(const Json& titles, const std::string& user) {
  return titles.contains(user) ? static_cast<std::uint64_t>(get_int_or(titles.at(user), "turn", 0)) : 0;
}

Json names_in(const Side::Turns& users) {
  Json names = Json::array();
  for (const auto& [name, turn] : users) names.push_back(name);
  return names;
}

// The last sync of users who wait, and the proof that nothing is missing there: who is not through, and why.
Result<Json> complete(Side& side, const MailOptions& options, const Context& context,
                      const std::vector<std::string>& users, const Limits& limits) {
  Json kept = Json::object();
  std::mutex mutex;
  for_each_name(users, kSyncsAtOnce, [&](const std::string& user) {
    const auto done = sync_user(side, options, context, user, true, limits);
    const std::lock_guard lock(mutex);
    if (!done) kept[user] = done.error().text();
  });
  std::vector<std::string> synced;
  for (const auto& user : users)
    if (!kept.contains(user)) synced.push_back(user);
  const auto other = side.plan()->other(context.host).host;
  const auto [there, here] = TRY(both(
      [&] {
        return context.peers.call(other, "mail", "counters", {{"users", synced}}, context.task, limits.deadline,
                                  limits.stop);
      },
      [&] { return side.dovecot().counters(synced, limits); }));
  for (const auto& user : synced) {
    const auto how = difference(here.value(user, Json::object()), there.value(user, Json::object()));
    if (!how.empty()) kept[user] = fmt::format("both sides are not equal after the last sync: {}", how);
  }
  return kept;
}

}  // namespace

Json titles_of(const Side& side) {
  Json titles = Json::object();
  for (const auto& [name, user] : side.users()) {
    titles[name] = to_json(user.title);
    titles[name]["copied"] = user.copied;
  }
  return titles;
}

Side::Turns turns_from(const Json& users) {
  Side::Turns turns;
  for (const auto& [name, turn] : users.items())
    if (turn.is_number_integer()) turns[name] = turn.get<std::uint64_t>();
  return turns;
}

Json to_json(const Side::Turns& turns) {
  Json users = Json::object();
  for (const auto& [name, turn] : turns) users[name] = turn;
  return users;
}

std::string home_of(const Json& old_titles, const Json& new_titles, const std::string& user) {
  const bool on_old = is_home(old_titles, user);
  const bool on_new = is_home(new_titles, user);
  return on_old ? (on_new ? "both" : "old") : on_new ? "new" : "none";
}

Result<Json> give_users(Side& side, const MailOptions& options, const Context& context, const Side::Turns& users,
                        const Limits& limits) {
  std::vector<Side::Hold> holds;
  for (const auto& [name, turn] : users)
    holds.push_back(TRY(side.occupy(name, limits.deadline.sooner(Millis(30'000)))));
  std::vector<std::string> names;
  for (const auto& [name, turn] : users) names.push_back(name);
  // Whatever goes wrong ahead of `yielded`, they are at home here and served again before this returns; where that
  // fails too, the lease does it.
  const auto back = [&](const Error& error) -> Result<Json> {
    Side::Turns still;
    for (const auto& [name, turn] : users)
      if (const auto now = side.user(name); now && now->title.holding == Holding::yielding) still[name] = turn;
    if (!still.empty()) CHECK_OK(side.keep(still, {Deadline::in(Millis(5'000)), {}}));
    return std::unexpected(error);
  };
  const auto began = boot_now();
  Json ms = Json::object();
  const auto lap = [&](const char* part) { ms[part] = std::chrono::duration_cast<Millis>(boot_now() - began).count(); };
  if (auto begun = side.begin_yield(users, limits); !begun) return back(begun.error());
  lap("held");
  options.checkpoint("give.held");
  if (auto drained = side.drain(names, {limits.deadline.sooner(kDrain), limits.stop}); !drained)
    return back(drained.error());
  lap("drained");
  options.checkpoint("give.drained");
  const auto completed = complete(side, options, context, names, limits);
  if (!completed) return back(completed.error());
  const auto& kept = *completed;
  Side::Turns given;
  for (const auto& [name, turn] : users)
    if (!kept.contains(name)) given[name] = turn;
  lap("synced");
  options.checkpoint("give.synced");
  // Nobody slipped in while the last sync ran.
  if (auto quiet = side.quiet(names, limits); !quiet) return back(quiet.error());
  if (!given.empty()) {
    if (auto yielded = side.finish_yield(given, limits); !yielded) return back(yielded.error());
  }
  options.checkpoint("give.yielded");
  Side::Turns still;
  for (const auto& [name, why] : kept.items()) still[name] = users.at(name);
  if (!still.empty()) CHECK_OK(side.keep(still, limits));
  return Json{{"given", names_in(given)}, {"kept", kept}, {"ms", ms}};
}

namespace {

struct Outcome {
  std::size_t flipped = 0;
  Json kept = Json::object();
  std::vector<std::int64_t> hold_ms;
  Json laps = Json::array();
};

// What the giver has yielded although its answer was lost, and what it has not.
Result<> settle(const Flip& flip, const Side::Turns& batch) {
  const auto titles = TRY(flip.giver("status", Json::object())).at("titles");
  Side::Turns yielded;
  Json back = Json::array();
  for (const auto& [name, turn] : batch) {
    const auto state = titles.contains(name) ? get_string_or(titles.at(name), "state", "") : "";
    if (state == "yielded" && turn_of(titles, name) == turn)
      yielded[name] = turn;
    else
      back.push_back(name);
  }
  if (!yielded.empty()) TRY(flip.taker("take", {{"users", to_json(yielded)}}));
  if (!back.empty()) TRY(flip.taker("send-back", {{"users", back}}));
  return {};
}

Result<> flip_batch(const Flip& flip, const Side::Turns& batch, Outcome& outcome) {
  // Once more where the first took so long that there is much to carry over again.
  for (int round = 0; round < 2; ++round) {
    const auto synced = TRY(flip.giver("presync", {{"users", names_in(batch)}}));
    for (const auto& [name, why] : synced.at("failed").items())
      return retry(fmt::format("{} cannot be synced: {}", name, why.get<std::string>()));
    if (get_int_or(synced, "ms", 0) < kLongSync.count()) break;
  }
  TRY(flip.taker("stand", {{"users", to_json(batch)}}));
  flip.checkpoint("flip.standing");
  const auto begun = boot_now();
  auto given = flip.giver("give", {{"users", to_json(batch)}});
  flip.checkpoint("flip.given");
  if (!given) {
    CHECK_OK(settle(flip, batch));
    return std::unexpected(given.error());
  }
  Side::Turns taken;
  for (const auto& name : TRY(get_strings(*given, "given"))) taken[name] = batch.at(name);
  if (!taken.empty()) TRY(flip.taker("take", {{"users", to_json(taken)}}));
  flip.checkpoint("flip.taken");
  outcome.laps.push_back(given->value("ms", Json::object()));
  outcome.hold_ms.push_back(std::chrono::duration_cast<Millis>(boot_now() - begun).count());
  outcome.flipped += taken.size();
  Json back = Json::array();
  for (const auto& [name, why] : given->at("kept").items()) {
    outcome.kept[name] = why;
    back.push_back(name);
  }
  if (!back.empty()) TRY(flip.taker("send-back", {{"users", back}}));
  // Mail that was told to wait need not wait for the next queue run.
  const Json flushed{{"users", names_in(batch)}};
  TRY(both([&] { return flip.giver("flush", flushed); }, [&] { return flip.taker("flush", flushed); }));
  return {};
}

}  // namespace

Result<Json> flip_users(const Flip& flip, const std::vector<std::string>& users) {
  const auto giver = TRY(flip.giver("status", Json::object())).at("titles");
  const auto taker = TRY(flip.taker("status", Json::object())).at("titles");
  std::vector<Side::Turns> batches;
  Side::Turns half;  // yielded, and not taken: what an earlier run left
  for (const auto& name : users) {
    if (is_home(taker, name)) continue;
    if (!is_home(giver, name)) {
      // Yielded by whichever side has the higher turn, and not taken by the other yet.
      if (turn_of(giver, name) > turn_of(taker, name)) {
        half[name] = turn_of(giver, name);
        continue;
      }
      TRY(flip.giver("take", {{"users", {{name, turn_of(taker, name)}}}}));
    }
    if (batches.empty() || batches.back().size() >= flip.at_once) batches.emplace_back();
    batches.back()[name] = std::max(turn_of(giver, name), turn_of(taker, name)) + 1;
  }
  Outcome outcome;
  if (!half.empty()) {
    TRY(flip.taker("take", {{"users", to_json(half)}}));
    outcome.flipped += half.size();
  }
  for (const auto& batch : batches) {
    if (flip.limits.stop.stop_requested()) return failure(ErrorKind::cancelled, "asked to stop");
    CHECK_OK(flip_batch(flip, batch, outcome));
  }
  if (!outcome.kept.empty()) {
    const auto& [name, why] = *outcome.kept.items().begin();
    return retry(fmt::format("{} of {} users stayed on {}, such as {}: {}", outcome.kept.size(), users.size(),
                             flip.giver_host, name, why.get<std::string>()));
  }
  std::ranges::sort(outcome.hold_ms);
  const auto p50 = outcome.hold_ms.empty() ? 0 : outcome.hold_ms[outcome.hold_ms.size() / 2];
  const auto worst = outcome.hold_ms.empty() ? 0 : outcome.hold_ms.back();
  return Json{{"users", outcome.flipped}, {"hold_ms", {{"p50", p50}, {"worst", worst}}}, {"laps", outcome.laps}};
}

}  // namespace midstream::mail
