#include "movers/mail/mail.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <thread>

#include "base/text.h"
#include "movers/mail/check.h"
#include "movers/mail/flip.h"
#include "movers/mail/follower.h"
#include "movers/mail/pipe.h"
#include "movers/mail/postfix.h"
#include "movers/mail/queue.h"
#include "movers/mail/together.h"
#include "sys/file.h"
#include "sys/log.h"

namespace midstream {

namespace mail {
namespace {

constexpr Millis kCaughtUp{5'000};
constexpr Millis kPeer{120'000};
constexpr std::size_t kLookedAtTogether = 32;
constexpr Millis kWayBackLag{30'000};  // further behind, old's copy does not count as in sync

class MailMover final : public Mover {
 public:
  explicit MailMover(MailOptions options) : options_(std::move(options)) {}
  ~MailMover() override {
    ending_.request_stop();
    keeper_ = {};
    follower_.reset();
  }

  std::string_view name() const override { return "mail"; }
  Result<> start(const Context& base) override;
  Result<Json> observe(const Context& context, const Json& desired) override;
  Result<Json> apply(const Context& context, const Json& desired) override;
  Result<Json> undo(const Context& context, const Json& desired) override;
  Result<Json> observe_undo(const Context& context, const Json& desired) override;
  Result<Json> check(const Context& context, const Json& desired) override {
    return run_check(options_, context, TRY(parse_plan(desired)));
  }
  std::string describe(const Json& desired) const override;
  Result<Json> peer(const Context& context, std::string_view verb, const Json& args) override {
    return act(context, verb, args);
  }
  Result<> serve(const Context& context, Stream& stream, const Json& hello) override;

 private:
  static Limits limits(const Context& context) { return {context.deadline, context.stop}; }
  std::shared_ptr<Side> side(const Context& context);
  std::shared_ptr<Queue> queue(const Context& context);
  Result<Json> act(const Context& context, std::string_view verb, const Json& args);
  Ask ask(const Context& context, const std::string& host);
  Result<Json> presync(const Context& context, const Json& args);
  Result<Json> proxy(const Context& context, const Plan& plan);
  Result<Json> unproxy(const Context& context, const Plan& plan);
  Result<Json> flip(const Context& context, const Plan& plan, bool back);
  Result<Json> verify(const Context& context, const Plan& plan);
  Result<Json> observe_flip(const Context& context, const Plan& plan);
  Result<Json> serves(const Context& context);
  std::string why_not_back(const Context& context, const Plan& plan);
  Json follow_outlook(const Plan& plan);
  Result<Json> finish(const Context& context, const Plan& plan);
  Result<> follow(const Context& context, bool on);
  void keep(const std::stop_token& stop);
  Result<> settle_with_peer(Side& side);
  Result<> settle_queue(const Side& side, Queue& queue, const Limits& limits);

  const MailOptions options_;
  std::mutex mutex_;  // guards what follows
  std::optional<Context> base_;
  std::shared_ptr<Side> side_;
  std::shared_ptr<Queue> queue_;
  std::unique_ptr<Follower> follower_;
  bool settled_ = false;
  std::stop_source ending_;
  std::jthread keeper_;
};

// How far into a step each part of it had ended.
struct Laps {
  std::chrono::nanoseconds began = boot_now();
  Json ms = Json::object();
  std::int64_t now() const { return std::chrono::duration_cast<Millis>(boot_now() - began).count(); }
  void note(const char* part) { ms[part] = now(); }
};

std::filesystem::path follow_note(const Context& context) { return context.state / "follow"; }

std::shared_ptr<Side> MailMover::side(const Context& context) {
  const std::lock_guard lock(mutex_);
  if (!side_) side_ = std::make_shared<Side>(options_, context.state);
  return side_;
}

std::shared_ptr<Queue> MailMover::queue(const Context& context) {
  const std::lock_guard lock(mutex_);
  if (!queue_) queue_ = std::make_shared<Queue>(options_, context.state / "queue");
  return queue_;
}

Result<> MailMover::start(const Context& base) {
  {
    const std::lock_guard lock(mutex_);
    base_.emplace(base);
  }
  const auto loaded = side(base)->load({Deadline::in(Millis(10'000)), base.stop});
  std::error_code ignored;
  if (loaded && std::filesystem::exists(follow_note(base), ignored)) {
    const std::lock_guard lock(mutex_);
    follower_ = std::make_unique<Follower>(*side_, options_, base);
  }
  keeper_ = std::jthread([this](const std::stop_token& stop) { keep(stop); });
  return loaded;
}

// Leases, and what a flip that was cut off left to this side.
void MailMover::keep(const std::stop_token& stop) {
  Context base = [&] {
    const std::lock_guard lock(mutex_);
    return *base_;
  }();
  const auto side = this->side(base);
  const auto queue = this->queue(base);
  std::string told;
  while (pause_for(Millis(250), stop) && !base.stop.stop_requested()) {
    const Limits limits{Deadline::in(Millis(10'000)), stop};
    Result<> done;
    if (side->installed()) {
      const auto late = side->overdue(true, options_.lease);
      if (!late.empty()) {
        log_warn("mail", "{} users waited longer than the lease: they are served here again", late.size());
        done = side->keep(late, limits);
      }
      if (done && (!settled_ || !side->overdue(false, options_.lease).empty())) done = settle_with_peer(*side);
    }
    if (done) done = queue->keep(options_.lease, limits);
    if (done) done = settle_queue(*side, *queue, limits);
    const auto trouble = done ? "" : done.error().text();
    if (!trouble.empty() && trouble != told) log_warn("mail", "{}", trouble);
    told = trouble;
    if (!done) pause_for(Millis(1'000), stop);
  }
}

// The giver may have yielded without the taker's hearing of it: nobody is home then until the taker takes.
Result<> MailMover::settle_with_peer(Side& side) {
  const Context base = [&] {
    const std::lock_guard lock(mutex_);
    return *base_;
  }();
  const Limits limits{Deadline::in(Millis(10'000)), ending_.get_token()};
  const auto plan = side.plan();
  auto stream = TRY(base.peers.open(plan->other(base.host).host, "mail", {{"what", "titles"}}, base.task,
                                    limits.deadline, limits.stop));
  const auto theirs = TRY(read_message(*stream, limits.deadline, limits.stop));
  Side::Turns takes;
  std::vector<std::string> back;
  const auto late = side.overdue(false, options_.lease);
  for (const auto& [name, user] : side.users()) {
    if (user.title.home() || !theirs.contains(name)) continue;
    const auto title = TRY(title_from_json(theirs.at(name)));
    if (title.holding == Holding::yielded && title.turn > user.title.turn)
      takes[name] = title.turn;
    else if (title.home() && late.contains(name))
      back.push_back(name);
  }
  if (!takes.empty()) {
    log_warn("mail", "{} users were at home nowhere: they are here now", takes.size());
    CHECK_OK(side.take(takes, limits));
  }
  CHECK_OK(side.send_back(back, limits));
  settled_ = true;
  return {};
}

Result<> MailMover::settle_queue(const Side& side, Queue& queue, const Limits& limits) {
  const auto plan = side.plan();
  if (!plan || !TRY(queue.between(limits))) return {};
  const Context base = [&] {
    const std::lock_guard lock(mutex_);
    return *base_;
  }();
  auto stream = TRY(base.peers.open(plan->other(base.host).host, "mail", {{"what", "queue-status"}}, base.task,
                                    limits.deadline, limits.stop));
  return queue.settle(TRY(read_message(*stream, limits.deadline, limits.stop)), limits);
}

Result<> MailMover::serve(const Context& context, Stream& stream, const Json& hello) {
  const auto side = this->side(context);
  const auto what = TRY(get_string(hello, "what"));
  const Limits limits{Deadline::in(Millis(600'000)), context.stop};
  if (what == "titles") return write_message(stream, titles_of(*side), limits.deadline, limits.stop);
  if (what == "queue-status") {
    const auto status = TRY(queue(context)->act(context, what, Json::object()));
    return write_message(stream, status, limits.deadline, limits.stop);
  }
  if (what == "users") {
    CHECK_OK(side->add_users(TRY(get_strings(hello, "users")), false, limits));
    return write_message(stream, {{"added", true}}, limits.deadline, limits.stop);
  }
  if (what == "queue") return queue(context)->receive(stream, hello, limits);
  if (what != "dsync") return refused(fmt::format("mover mail takes no stream '{}'", printable(what)));
  const auto user = TRY(get_string(hello, "user"));
  TRY(side->user(user));
  const auto hold = TRY(side->occupy(user, Deadline::in(Millis(5'000))));
  if (TRY(side->user(user)).title.home())
    return failure(ErrorKind::fenced,
                   fmt::format("{} is at home on {}: nothing is written over that", user, context.host));
  const auto done = receive_user(side->dovecot(), user, stream, limits);
  if (done) CHECK_OK(side->set_copied(user));
  return done;
}

Ask MailMover::ask(const Context& context, const std::string& host) {
  if (host == context.host)
    return [this, &context](std::string_view verb, const Json& args) { return act(context, verb, args); };
  return [&context, host](std::string_view verb, const Json& args) {
    return context.peers.call(host, "mail", verb, args, context.task, context.deadline.sooner(kPeer), context.stop);
  };
}

Result<Json> MailMover::presync(const Context& context, const Json& args) {
  const auto side = this->side(context);
  Json failed = Json::object();
  std::mutex mutex;
  const Laps laps;
  for_each_name(TRY(get_strings(args, "users")), kSyncsAtOnce, [&](const std::string& name) {
    const auto done = [&]() -> Result<> {
      if (!TRY(side->user(name)).title.home()) return {};
      const auto hold = TRY(side->occupy(name, context.deadline.sooner(Millis(60'000))));
      return sync_user(*side, options_, context, name, false, limits(context));
    }();
    const std::lock_guard lock(mutex);
    if (!done) failed[name] = done.error().text();
  });
  return Json{{"failed", failed}, {"ms", laps.now()}};
}

// Those of the users asked for whose mail is here.
Result<std::vector<std::string>> copied(const Side& side, const Json& args) {
  auto users = TRY(get_strings(args, "users"));
  const auto known = side.users();
  std::erase_if(users, [&](const std::string& name) { return !known.contains(name) || !known.at(name).copied; });
  return users;
}

// One verb on this host, for whichever side runs the step.
Result<Json> MailMover::act(const Context& context, std::string_view verb, const Json& args) {
  const auto side = this->side(context);
  const auto within = limits(context);
  Result<> done;
  if (verb == "users") return Json{{"users", TRY(side->dovecot().users(within))}};
  if (verb == "facts") return facts_of(options_, within);
  if (verb == "status") return Json{{"installed", side->installed()}, {"titles", titles_of(*side)}};
  if (verb == "presync") return presync(context, args);
  if (verb == "give") return give_users(*side, options_, context, turns_from(TRY(get_object(args, "users"))), within);
  if (verb == "counters") return side->dovecot().counters(TRY(copied(*side, args)), within);
  if (verb == "snapshots") return side->dovecot().snapshots(TRY(copied(*side, args)), within);
  if (verb == "serves") return serves(context);
  if (verb == "wipe") return Json{{"wiped", TRY(side->wipe(within))}};
  if (verb.starts_with("queue-")) return queue(context)->act(context, verb, args);
  if (verb == "install") {
    done = side->install(context.task.move, context.host, TRY(parse_plan(TRY(get_object(args, "desired")))),
                         TRY(get_strings(args, "users")), TRY(get_bool(args, "owner")), within);
  } else if (verb == "uninstall") {
    done = side->uninstall(get_bool_or(args, "closed", false), within);
  } else if (verb == "follow") {
    done = follow(context, TRY(get_bool(args, "on")));
  } else if (verb == "stand") {
    done = side->stand_by(turns_from(TRY(get_object(args, "users"))), within);
  } else if (verb == "take") {
    done = side->take(turns_from(TRY(get_object(args, "users"))), within);
  } else if (verb == "send-back") {
    done = side->send_back(TRY(get_strings(args, "users")), within);
  } else if (verb == "flush") {
    done = Postfix(options_.postfix_conf).flush_for(TRY(get_strings(args, "users")), within);
  } else {
    done = refused(fmt::format("mover mail answers no request '{}'", printable(verb)));
  }
  if (!done) return std::unexpected(done.error());
  return Json::object();
}

Result<> MailMover::follow(const Context& context, bool on) {
  const auto side = this->side(context);
  if (on && !side->installed()) return refused(fmt::format("mail is not set up on {}", context.host));
  CHECK_OK(on ? write_file_durably(follow_note(context), "") : remove_file_durably(follow_note(context)));
  std::unique_ptr<Follower> old;  // ended outside of the lock
  const std::lock_guard lock(mutex_);
  if (!on)
    old = std::move(follower_);
  else if (!follower_ && base_)
    follower_ = std::make_unique<Follower>(*side, options_, *base_);
  return {};
}

Result<std::pair<Json, Json>> on_both(const Ask& one, const Ask& other, std::string_view verb) {
  return both([&] { return one(verb, Json::object()); }, [&] { return other(verb, Json::object()); });
}

// New refuses everybody before old sends anybody: nobody makes a mailbox there. Postfix rests while Dovecot reloads: a reload
// makes LMTP say 421 about messages that it has stored, and they would be delivered once more.
Result<Json> MailMover::proxy(const Context& context, const Plan& plan) {
  const auto old_side = ask(context, plan.old_side.host);
  const auto users = TRY(old_side("users", Json::object())).at("users");
  const auto here = ask(context, context.host);
  Laps laps;
  const auto rest = [&](const Ask& side) -> Result<Json> {
    TRY(side("queue-install", {{"desired", plan.raw}}));
    return side("queue-rest", Json::object());
  };
  TRY(both([&] { return rest(old_side); }, [&] { return rest(here); }));
  laps.note("rest");
  TRY(here("install", {{"desired", plan.raw}, {"users", users}, {"owner", false}}));
  laps.note("new");
  TRY(old_side("install", {{"desired", plan.raw}, {"users", users}, {"owner", true}}));
  laps.note("old");
  TRY(on_both(old_side, here, "queue-release"));
  laps.note("released");
  return Json{{"users", users.size()}, {"ms", laps.ms}};
}

// Both sides' configuration put back. `closed`: old's Dovecot serves nobody from then on.
Result<Json> take_down(const Ask& old_side, const Ask& new_side, bool closed) {
  Laps laps;
  const auto rest = [](const Ask& side) -> Result<Json> {
    const auto status = TRY(side("queue-status", Json::object()));
    return get_string_or(status, "state", "none") == "none" ? status : side("queue-rest", Json::object());
  };
  TRY(both([&] { return rest(old_side); }, [&] { return rest(new_side); }));
  laps.note("rest");
  TRY(old_side("uninstall", {{"closed", closed}}));
  laps.note("old");
  TRY(new_side("uninstall", Json::object()));
  laps.note("new");
  TRY(on_both(old_side, new_side, "queue-uninstall"));
  laps.note("released");
  return Json{{"ms", laps.ms}};
}

Result<Json> MailMover::unproxy(const Context& context, const Plan& plan) {
  const auto old_side = ask(context, plan.old_side.host);
  const auto titles = titles_of(*side(context));
  for (const auto& [name, title] : titles.items())
    if (get_string_or(title, "state", "") != "standby" && get_string_or(title, "state", "") != "yielded")
      return refused(fmt::format("{} is at home on {}", name, context.host));
  return take_down(old_side, ask(context, context.host), false);
}

Result<Json> MailMover::flip(const Context& context, const Plan& plan, bool back) {
  auto titles = TRY(act(context, "status", Json::object())).at("titles");
  std::vector<std::string> users;
  for (const auto& [name, title] : titles.items()) users.push_back(name);
  std::ranges::sort(users, goes_before);
  const auto share = share_of(users.size(), get_int_or(plan.raw, back ? "from" : "percent", back ? 0 : 100));
  if (back)
    users.erase(users.begin(), users.begin() + static_cast<std::ptrdiff_t>(share));
  else
    users.resize(share);
  const auto& giver = back ? plan.new_side.host : plan.old_side.host;
  const auto& taker = back ? plan.old_side.host : plan.new_side.host;
  return flip_users(
      {giver, taker, ask(context, giver), ask(context, taker), options_.checkpoint,
       static_cast<std::size_t>(std::clamp<std::int64_t>(get_int_or(plan.raw, "at_once", 8), 1, 64)), limits(context)},
      users);
}

Result<Json> MailMover::observe_flip(const Context& context, const Plan& plan) {
  const auto ours = TRY(act(context, "status", Json::object())).at("titles");
  const auto theirs = ask(context, plan.old_side.host)("status", Json::object());
  if (!theirs) {
    auto result = observation(false, fmt::format("{} cannot be asked: {}", plan.old_side.host, theirs.error().text()));
    return result;
  }
  const auto& old_titles = theirs->at("titles");
  std::vector<std::string> users;
  for (const auto& [name, title] : ours.items()) users.push_back(name);
  std::ranges::sort(users, goes_before);
  const auto share = share_of(users.size(), get_int_or(plan.raw, "percent", 100));
  std::map<std::string, std::int64_t> count{{"old", 0}, {"new", 0}, {"none", 0}, {"both", 0}};
  std::size_t reached = 0;
  bool yielding = false;
  for (std::size_t i = 0; i < users.size(); ++i) {
    const auto home = home_of(old_titles, ours, users[i]);
    ++count[home];
    reached += i < share && home == "new";
    yielding = yielding || get_string_or(ours.at(users[i]), "state", "") == "yielding" ||
               (old_titles.contains(users[i]) && get_string_or(old_titles.at(users[i]), "state", "") == "yielding");
  }
  auto result = observation(
      reached == share,
      reached == share ? "" : fmt::format("{} of {} users are at home on {}", reached, share, plan.new_side.host));
  result["homes"] = count;
  result["held"] = yielding || count["none"] > 0;
  return result;
}

// How the copies of these users differ from their home, for those whose does. Users go on working meanwhile.
Result<std::map<std::string, std::string>> compare(const Ask& home, const Ask& copy,
                                                   const std::vector<std::string>& users) {
  const Json args{{"users", users}};
  const auto before = TRY(home("snapshots", args));
  const auto synced = TRY(home("presync", args));
  const auto there = TRY(copy("snapshots", args));
  const auto after = TRY(home("snapshots", args));
  std::map<std::string, std::string> differ;
  for (const auto& user : users) {
    std::string how;
    if (synced.at("failed").contains(user))
      how = fmt::format("it cannot be synced: {}", get_string_or(synced.at("failed"), user, ""));
    else if (!there.contains(user))
      how = "it was not copied yet";
    else
      how = steady_difference(before.value(user, Json::object()), there.at(user), after.value(user, Json::object()));
    if (!how.empty()) differ[user] = how;
  }
  return differ;
}

Result<Json> MailMover::verify(const Context& context, const Plan& plan) {
  const Laps laps;
  const auto ours = titles_of(*side(context));
  std::map<std::string, std::vector<std::string>> by_home;
  for (const auto& [name, title] : ours.items()) {
    const auto state = get_string_or(title, "state", "");
    by_home[state == "owner" || state == "yielding" ? context.host : plan.old_side.host].push_back(name);
  }
  int looks = 0;
  for (const auto& [host, users] : by_home) {
    const auto home = ask(context, host);
    const auto copy = ask(context, plan.other(host).host);
    for (std::size_t at = 0; at < users.size(); at += kLookedAtTogether) {
      std::vector<std::string> some(
          users.begin() + static_cast<std::ptrdiff_t>(at),
          users.begin() + static_cast<std::ptrdiff_t>(std::min(users.size(), at + kLookedAtTogether)));
      std::map<std::string, std::string> differ;
      for (int attempt = 0; attempt < 6 && !some.empty(); ++attempt, ++looks) {
        if (context.stop.stop_requested()) return failure(ErrorKind::cancelled, "asked to stop");
        differ = TRY(compare(home, copy, some));
        std::erase_if(some, [&](const std::string& name) { return !differ.contains(name); });
      }
      if (!some.empty())
        return refused(
            fmt::format("the mail of {} is not the same on both sides: {}", some.front(), differ.at(some.front())),
            "look at both mailboxes; `run` compares again");
    }
  }
  return Json{{"users", ours.size()}, {"looks", looks}, {"ms", laps.now()}};
}

Result<Json> MailMover::finish(const Context& context, const Plan& plan) {
  const auto old_side = ask(context, plan.old_side.host);
  CHECK_OK(follow(context, false));
  TRY(old_side("follow", {{"on", false}}));
  return take_down(old_side, ask(context, context.host), true);
}

Result<Json> MailMover::apply(const Context& context, const Json& desired) {
  const auto plan = TRY(parse_plan(desired));
  if (!plan.knows(context.host)) return refused(fmt::format("{} is neither side of this mail", context.host));
  if (plan.kind == "follow") {
    CHECK_OK(follow(context, true));
    return Json::object();
  }
  if (plan.kind == "defer") return act(context, "queue-defer", {{"desired", plan.raw}});
  if (context.host != plan.new_side.host)
    return refused(fmt::format("mail: '{}' belongs on {}", plan.kind, plan.new_side.host));
  if (plan.kind == "proxy") return proxy(context, plan);
  if (plan.kind == "verify") return verify(context, plan);
  if (plan.kind == "flip") return flip(context, plan, false);
  if (plan.kind == "queue") return hand_queue(queue(context), ask(context, plan.old_side.host), context, plan, false);
  if (plan.kind == "end") return finish(context, plan);
  return refused(fmt::format("mail: there is no kind '{}'", printable(plan.kind)));
}

Result<Json> MailMover::undo(const Context& context, const Json& desired) {
  const auto plan = TRY(parse_plan(desired));
  if (plan.kind == "follow") {
    CHECK_OK(follow(context, false));
    if (get_bool_or(desired, "first", false)) TRY(ask(context, plan.other(context.host).host)("wipe", Json::object()));
    return Json::object();
  }
  if (plan.kind == "verify") return Json::object();
  if (plan.kind == "defer") return act(context, "queue-release", {{"desired", plan.raw}});
  if (context.host != plan.new_side.host)
    return refused(fmt::format("mail: '{}' belongs on {}", plan.kind, plan.new_side.host));
  if (plan.kind == "proxy") return unproxy(context, plan);
  if (plan.kind == "flip") return flip(context, plan, true);
  if (plan.kind == "queue") return hand_queue(queue(context), ask(context, plan.old_side.host), context, plan, true);
  if (plan.kind == "end") return refused("the way back of mail was taken down");
  return refused(fmt::format("mail: there is no kind '{}'", printable(plan.kind)));
}

Result<Json> MailMover::observe(const Context& context, const Json& desired) {
  const auto plan = TRY(parse_plan(desired));
  const auto side = this->side(context);
  if (plan.kind == "verify") return observation(false, "");
  if (plan.kind == "flip") return observe_flip(context, plan);
  if (plan.kind == "defer" || plan.kind == "queue")
    return queue(context)->observe(context, plan, ask(context, plan.old_side.host));
  if (plan.kind == "proxy" || plan.kind == "end") {
    const auto theirs = TRY(ask(context, plan.old_side.host)("status", Json::object()));
    const bool both = side->installed() && get_bool_or(theirs, "installed", false);
    const bool none = !side->installed() && !get_bool_or(theirs, "installed", false);
    const bool reached = plan.kind == "proxy" ? both : none;
    return observation(reached, reached                ? ""
                                : plan.kind == "proxy" ? "not both sides answer by title yet"
                                                       : "what midstream set is still there");
  }
  if (plan.kind != "follow") return refused(fmt::format("mail: there is no kind '{}'", printable(plan.kind)));
  const std::lock_guard lock(mutex_);
  if (!follower_) return observation(false, "not followed from here");
  auto state = follower_->state();
  const auto users = get_int_or(state, "users", 0);
  const auto copied = get_int_or(state, "copied", 0);
  const bool fresh = get_int_or(state, "oldest_ms", 0) <= kCaughtUp.count();
  const bool reached = copied >= users && (get_string_or(desired, "until", "copied") == "copied" || fresh);
  auto why = reached ? std::string()
                     : fmt::format("{} of {} users are copied, {} have changes to carry over", copied, users,
                                   get_int_or(state, "pending", 0));
  for (const auto& [name, what] : state.at("failed").items()) {
    if (!reached) why += fmt::format("; {}: {}", name, what.get<std::string>());
    break;
  }
  state.update(observation(reached, why));
  state["phase"] = copied < users ? "copying" : fresh ? "following" : "stalled";
  return state;
}

// Whether this host's daemons could have users and queue now: {"why": "" where they could, "titles", "queue": its state}.
Result<Json> MailMover::serves(const Context& context) {
  const auto side = this->side(context);
  const auto within = limits(context);
  Json out{{"why", ""},
           {"titles", titles_of(*side)},
           {"queue", TRY(queue(context)->act(context, "queue-status", Json::object())).value("state", "none")}};
  const auto users = side->users();
  const Postfix postfix(options_.postfix_conf);
  if (!side->installed()) {
    out["why"] = fmt::format("mail is not set up on {}", context.host);
  } else if (const auto serial =
                 users.empty() ? Result<std::uint64_t>(1) : side->dovecot().serial(users.begin()->first, within);
             !serial) {
    out["why"] = fmt::format("{}: {}", context.host, serial.error().what);
  } else if (*serial == 0) {
    out["why"] = fmt::format("Dovecot on {} does not answer from midstream's map", context.host);
  } else if (postfix.present() && !TRY(postfix.running(within))) {
    out["why"] = fmt::format("Postfix does not run on {}", context.host);
  }
  return out;
}

// What is in the way of handing users, queue or configuration back to old; "" where nothing is.
std::string MailMover::why_not_back(const Context& context, const Plan& plan) {
  const auto there = ask(context, plan.old_side.host)("serves", Json::object());
  if (!there) return fmt::format("{} cannot be asked: {}", plan.old_side.host, there.error().text());
  if (const auto why = get_string_or(*there, "why", "?"); !why.empty()) return why;
  if (plan.kind == "queue") {
    const auto here = queue(context)->act(context, "queue-status", Json::object());
    if (!here) return here.error().text();
    const bool both = get_string_or(*here, "state", "") == "owner" && get_string_or(*there, "queue", "") == "owner";
    return both ? "both sides hold the queue" : "";
  }
  const auto ours = titles_of(*side(context));
  for (const auto& [name, title] : ours.items()) {
    if (home_of(there->at("titles"), ours, name) == "both") return fmt::format("{} is at home on both sides", name);
  }
  return "";
}

// What users at home on new have got since must be on its way to old.
Json MailMover::follow_outlook(const Plan& plan) {
  const std::lock_guard lock(mutex_);
  if (!follower_) return undo_outlook(fmt::format("mail is not followed back to {}", plan.old_side.host));
  const auto state = follower_->state();
  const auto oldest = get_int_or(state, "oldest_ms", 0);
  std::string why;
  if (oldest > kWayBackLag.count()) {
    why = fmt::format("mail on {} is {} ms behind, of {} users", plan.old_side.host, oldest,
                      get_int_or(state, "pending", 0));
    for (const auto& [name, what] : state.at("failed").items()) {
      why += fmt::format("; {}: {}", name, what.get<std::string>());
      break;
    }
  }
  auto out = undo_outlook(std::move(why));
  out["lag_ms"] = oldest;
  out["pending"] = state["pending"];
  return out;
}

Result<Json> MailMover::observe_undo(const Context& context, const Json& desired) {
  const auto plan = TRY(parse_plan(desired));
  if (plan.kind == "verify" || plan.kind == "defer")
    return undo_outlook("");  // nothing, or this host's own configuration
  if (plan.kind == "end") return undo_outlook("the way back of mail was taken down");
  if (plan.kind != "follow") return undo_outlook(why_not_back(context, plan));
  if (!get_bool_or(desired, "first", false)) return follow_outlook(plan);
  // What was copied is removed on the other side.
  const auto& other = plan.other(context.host).host;
  const auto there = ask(context, other)("status", Json::object());
  return undo_outlook(there ? "" : fmt::format("{} cannot be asked: {}", other, there.error().text()));
}

std::string MailMover::describe(const Json& desired) const {
  const auto plan = parse_plan(desired);
  if (!plan) return "mail: " + plan.error().text();
  const auto& [old_host, new_host] = std::pair(plan->old_side.host, plan->new_side.host);
  if (plan->kind == "proxy")
    return fmt::format(
        "makes both Dovecots answer by title: every user at home on {}, {} proxies there and relays through {}",
        old_host, new_host, old_host);
  if (plan->kind == "follow") {
    const bool first = get_bool_or(desired, "first", false);
    return fmt::format("copies the mail of users at home on {0} to {1} and follows it", first ? old_host : new_host,
                       first ? new_host : old_host);
  }
  if (plan->kind == "verify")
    return "compares every mailbox of both sides: identity, UIDs, flags, subscriptions, scripts";
  if (plan->kind == "flip")
    return fmt::format(
        "moves the home of {}% of the mail users to {}, a few at a time; their logins and deliveries wait meanwhile",
        get_int_or(desired, "percent", 100), new_host);
  if (plan->kind == "defer") return fmt::format("defers SMTP on {} (4xx), and lets what is being sent end", old_host);
  if (plan->kind == "queue")
    return fmt::format("moves the queue from {} to {}, which from now on sends under the mail address itself", old_host,
                       new_host);
  if (plan->kind == "end") return fmt::format("ends the way back of mail; {} serves alone", new_host);
  return fmt::format("mail knows no kind '{}'", plan->kind);
}

}  // namespace
}  // namespace mail

std::unique_ptr<Mover> make_mail_mover() { return make_mail_mover({}); }
std::unique_ptr<Mover> make_mail_mover(MailOptions options) {
  return std::make_unique<mail::MailMover>(std::move(options));
}

}  // namespace midstream
