#include "movers/mail/follower.h"

#include <fmt/format.h>
#include <stdlib.h>

#include <algorithm>

#include "movers/mail/pipe.h"
#include "movers/mail/watch.h"
#include "sys/log.h"

namespace midstream::mail {

namespace {

constexpr Millis kOneUser{600'000};
constexpr Millis kRetry{1'000};
constexpr Millis kRound{60'000};  // whatever events were missed
constexpr Millis kLearn{10'000};  // accounts that are new
constexpr Millis kTaken{300};     // users who became at home here

std::vector<std::string> pipe_of(const MailOptions& options) {
  if (!options.pipe.empty()) return options.pipe;
  std::error_code ignored;
  auto self = std::filesystem::read_symlink("/proc/self/exe", ignored).string();
  constexpr std::string_view kDeleted = " (deleted)";
  if (self.ends_with(kDeleted)) self.resize(self.size() - kDeleted.size());
  return {self, "pipe"};
}

// Whether this host has work enough of its own that we should take less of it.
bool is_busy() {
  double load = 0;
  return ::getloadavg(&load, 1) == 1 && load > 2.0 * std::max(1u, std::thread::hardware_concurrency());
}

}  // namespace

Result<> sync_user(Side& side, const MailOptions& options, const Context& context, const std::string& user, bool full,
                   const Limits& limits) {
  static std::atomic<std::uint64_t> number = 0;
  const auto plan = side.plan();
  if (!plan) return refused("mail is not set up on this host");
  auto stream = TRY(context.peers.open(plan->other(context.host).host, "mail", {{"what", "dsync"}, {"user", user}},
                                       context.task, limits.deadline.sooner(Millis(10'000)), limits.stop));
  const auto socket = context.state / fmt::format("dsync-{}.sock", ++number);
  return send_user(side.dovecot(), user, full, *stream, pipe_of(options), socket, limits);
}

Follower::Follower(Side& side, const MailOptions& options, const Context& base)
    : side_(side), options_(options), base_(base) {
  mark_all();
  threads_.emplace_back([this](const std::stop_token& stop) { watch(stop); });
  for (const bool spare : {false, true})
    threads_.emplace_back([this, spare](const std::stop_token& stop) { work(stop, spare); });
}

Follower::~Follower() {
  for (auto& thread : threads_) thread.request_stop();
  wake_.notify_all();
}

void Follower::mark(const std::string& user) {
  const auto now = boot_now();
  const std::lock_guard lock(mutex_);
  auto [entry, fresh] = pending_.try_emplace(user, Entry{now, now});
  if (!fresh && entry->second.running) entry->second.again = true;
  wake_.notify_all();
}

void Follower::mark_all() {
  std::vector<std::string> ours;
  {
    const auto users = side_.users();
    const std::lock_guard lock(mutex_);
    for (const auto& [name, user] : users) {
      homes_[user.home.string()] = name;
      if (user.title.home()) ours.push_back(name);
    }
  }
  for (const auto& name : ours) mark(name);
}

// Users who became at home here: all of their mail is to be on the other side at that turn too.
void Follower::mark_taken() {
  std::vector<std::string> taken;
  {
    const auto users = side_.users();
    const std::lock_guard lock(mutex_);
    for (const auto& [name, user] : users) {
      if (!user.title.home() || pending_.contains(name)) continue;
      const auto copied = copied_.find(name);
      if (copied == copied_.end() || copied->second != user.title.turn) taken.push_back(name);
    }
  }
  for (const auto& name : taken) mark(name);
}

void Follower::mark_path(const std::string& directory) {
  std::string user;
  {
    const std::lock_guard lock(mutex_);
    for (std::filesystem::path at = directory; at.has_relative_path(); at = at.parent_path()) {
      const auto found = homes_.find(at.string());
      if (found == homes_.end()) continue;
      user = found->second;
      break;
    }
  }
  if (user.empty()) return;
  const auto known = side_.user(user);
  if (known && known->title.home()) mark(user);
}

void Follower::learn_users(const std::stop_token& stop) {
  const auto plan = side_.plan();
  if (!plan || base_.host != plan->old_side.host) return;  // accounts are new on old, whoever is whose home
  const Limits limits{Deadline::in(Millis(10'000)), stop};
  const auto listed = side_.dovecot().users(limits);
  if (!listed) return;
  const auto known = side_.users();
  std::vector<std::string> fresh;
  for (const auto& name : *listed)
    if (!known.contains(name) && is_mail_user(name)) fresh.push_back(name);
  if (fresh.empty()) return;
  // New refuses them first: from then on nobody makes a mailbox there.
  auto stream = base_.peers.open(plan->new_side.host, "mail", {{"what", "users"}, {"users", fresh}}, base_.task,
                                 limits.deadline, stop);
  if (!stream || !read_message(**stream, limits.deadline, stop).value_or(Json::object()).contains("added")) return;
  if (const auto added = side_.add_users(fresh, true, limits); !added) {
    log_warn("mail", "new accounts: {}", added.error().text());
    return;
  }
  mark_all();
}

void Follower::watch(const std::stop_token& stop) {
  auto next_round = Deadline::in(kRound);
  auto next_learning = Deadline::in(kLearn);
  auto next_taken = Deadline::in(kTaken);
  std::optional<Watch> eyes;
  while (!stop.stop_requested()) {
    if (!eyes) {
      std::vector<std::filesystem::path> homes;
      for (const auto& [name, user] : side_.users()) homes.push_back(user.home);
      auto opened = Watch::open(homes);
      if (opened) {
        eyes.emplace(std::move(*opened));
        mark_all();  // what changed before the mark
      } else {
        if (next_round.remaining() > Millis(5'000))
          log_warn("mail", "{}; every store is looked at once in 5 s instead", opened.error().text());
        next_round = next_round.sooner(Millis(5'000));
        pause_for(Millis(500), stop);
      }
    }
    watched_ = eyes.has_value();
    if (eyes &&
        !eyes->wait([this](const std::string& directory) { mark_path(directory); }, [this] { mark_all(); }, stop))
      eyes.reset();
    if (next_taken.expired()) {
      mark_taken();
      next_taken = Deadline::in(kTaken);
    }
    if (next_learning.expired()) {
      learn_users(stop);
      next_learning = Deadline::in(kLearn);
    }
    if (!next_round.expired()) continue;
    mark_all();
    next_round = Deadline::in(kRound);
  }
}

// One user after the other, the longest waiting first. The spare worker rests while this host is busy.
void Follower::work(const std::stop_token& stop, bool spare) {
  while (!stop.stop_requested()) {
    std::string user;
    {
      std::unique_lock lock(mutex_);
      auto best = pending_.end();
      for (auto one = pending_.begin(); one != pending_.end(); ++one) {
        if (one->second.running || one->second.not_before > boot_now()) continue;
        if (best == pending_.end() || one->second.since < best->second.since) best = one;
      }
      if (best == pending_.end() || (spare && is_busy())) {
        wake_.wait_for(lock, stop, Millis(200), [] { return false; });
        continue;
      }
      best->second.running = true;
      best->second.again = false;
      user = best->first;
    }
    settle(user, [&]() -> Result<> {
      const auto known = TRY(side_.user(user));
      if (!known.title.home()) return {};  // the other side follows it now
      const auto hold = TRY(side_.occupy(user, Deadline::in(Millis(5'000))));
      if (!TRY(side_.user(user)).title.home()) return {};
      CHECK_OK(sync_user(side_, options_, base_, user, false, {Deadline::in(kOneUser), stop}));
      const std::lock_guard lock(mutex_);
      copied_[user] = known.title.turn;
      return {};
    }());
  }
}

void Follower::settle(const std::string& user, const Result<>& done) {
  const std::lock_guard lock(mutex_);
  auto& entry = pending_.at(user);
  entry.running = false;
  if (!done) {
    if (entry.why != done.error().text()) log_warn("mail", "following {}: {}", user, done.error().text());
    entry.why = done.error().text();
    entry.not_before = boot_now() + kRetry;
    return;
  }
  if (!entry.again) {
    pending_.erase(user);
    return;
  }
  entry.since = boot_now();
  entry.why.clear();
}

Json Follower::state() const {
  const auto users = side_.users();
  const std::lock_guard lock(mutex_);
  std::size_t ours = 0;
  std::size_t copied = 0;
  for (const auto& [name, user] : users) {
    if (!user.title.home()) continue;
    ++ours;
    const auto done = copied_.find(name);
    copied += done != copied_.end() && done->second == user.title.turn;
  }
  std::size_t pending = 0;
  std::chrono::nanoseconds oldest{0};
  Json failed = Json::object();
  for (const auto& [name, entry] : pending_) {
    const auto user = users.find(name);
    if (user == users.end() || !user->second.title.home()) continue;
    ++pending;
    oldest = std::max<std::chrono::nanoseconds>(oldest, boot_now() - entry.since);
    if (!entry.why.empty() && failed.size() < 10) failed[name] = entry.why;
  }
  return {{"users", ours},      {"copied", copied},
          {"pending", pending}, {"oldest_ms", std::chrono::duration_cast<Millis>(oldest).count()},
          {"failed", failed},   {"watched", watched_.load()}};
}

}  // namespace midstream::mail
