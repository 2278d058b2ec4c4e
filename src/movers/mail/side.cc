#include "movers/mail/side.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>

#include "base/text.h"
#include "sys/file.h"

namespace midstream::mail {

namespace fs = std::filesystem;

namespace {

constexpr Millis kInForce{4'000};  // Dovecot looks at the map's time once a second
constexpr std::int64_t kLoginHoldS = 2;

Json to_json(const std::string& name, const User& user) {
  auto json = to_json(user.title);
  json.update({{"user", name}, {"home", user.home.string()}, {"fresh", user.fresh}, {"copied", user.copied}});
  return json;
}

// A name that this map's predecessor did not have: Dovecot tells versions apart by whole seconds and size.
Result<> age(const fs::path& path, std::int64_t at_least) {
  const std::int64_t seconds = std::max<std::int64_t>(at_least, wall_now_ms() / 1000);
  const timespec times[2]{{seconds, 0}, {seconds, 0}};
  if (::utimensat(AT_FDCWD, path.c_str(), times, 0) != 0)
    return errno_failure("cannot set the time of " + path.string(), errno);
  return {};
}

}  // namespace

Side::Side(const MailOptions& options, fs::path state)
    : options_(options), state_(std::move(state)), dovecot_(options.dovecot_conf) {}

fs::path Side::record_of(const std::string& name) const { return state_ / "titles" / (name + ".json"); }
fs::path Side::map_path() const { return options_.dovecot_conf.parent_path() / fmt::format("midstream-{}.map", move_); }

Result<> Side::load(const Limits& limits) {
  std::error_code ignored;
  if (!fs::exists(state_ / "side.json", ignored)) return {};
  const auto saved = TRY(parse_json(TRY(read_file(state_ / "side.json"))));
  Turns expired;
  {
    const std::lock_guard lock(mutex_);
    move_ = TRY(get_string(saved, "move"));
    host_ = TRY(get_string(saved, "host"));
    plan_ = TRY(parse_plan(TRY(get_object(saved, "desired"))));
    cached_auth_ = get_bool_or(saved, "cached_auth", false);
    for (const auto& entry : fs::directory_iterator(state_ / "titles", ignored)) {
      // The temporary file of a write that a crash cut off may be whole, and says what was never so or is no longer.
      if (entry.path().extension() != ".json") {
        fs::remove(entry.path(), ignored);
        continue;
      }
      const auto record = TRY(parse_json(TRY(read_file(entry.path()))));
      const auto name = TRY(get_string(record, "user"));
      User user{.title = TRY(title_from_json(record)), .home = TRY(get_string(record, "home"))};
      user.fresh = get_bool_or(record, "fresh", false);
      user.copied = get_bool_or(record, "copied", false);
      if (user.title.holding == Holding::yielding) expired[name] = user.title.turn;
      users_[name] = std::move(user);
    }
  }
  if (!expired.empty()) CHECK_OK(change(expired, mail::keep));
  TRY(write_map(limits));
  return {};
}

bool Side::installed() const {
  const std::lock_guard lock(mutex_);
  return plan_.has_value();
}
std::string Side::move() const {
  const std::lock_guard lock(mutex_);
  return move_;
}
std::string Side::host() const {
  const std::lock_guard lock(mutex_);
  return host_;
}
std::optional<Plan> Side::plan() const {
  const std::lock_guard lock(mutex_);
  return plan_;
}

std::map<std::string, User> Side::users() const {
  const std::lock_guard lock(mutex_);
  return users_;
}

Result<User> Side::user(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = users_.find(name);
  if (found == users_.end())
    return refused(fmt::format("mail user {} has no title on {}", printable(name), host_),
                   "the account must be on both hosts; it is taken in within a round of following");
  return found->second;
}

Result<> Side::store(const std::string& name, const User& user) const {
  return write_file_durably(record_of(name), to_json(name, user).dump(), 0600);
}

Result<> Side::change(const Turns& users, Change act) {
  const std::lock_guard lock(mutex_);
  for (const auto& [name, turn] : users) {
    const auto found = users_.find(name);
    if (found == users_.end()) return refused(fmt::format("mail user {} has no title on {}", printable(name), host_));
    User next = found->second;
    next.title = TRY(act(found->second.title, turn));
    if (next.title.holding == Holding::owner) next.copied = true;
    CHECK_OK(store(name, next));
    if (next.title.holding != Holding::yielding) next.waiting.reset();
    if (next.title.holding == Holding::yielding && !next.waiting) next.waiting = boot_now();
    found->second = std::move(next);
  }
  return {};
}

Result<> Side::set_copied(const std::string& name) {
  const std::lock_guard lock(mutex_);
  const auto found = users_.find(name);
  if (found == users_.end()) return refused(fmt::format("mail user {} has no title on {}", printable(name), host_));
  if (found->second.copied) return {};
  User next = found->second;
  next.copied = true;
  CHECK_OK(store(name, next));
  found->second = std::move(next);
  return {};
}

Result<std::uint64_t> Side::write_map(const Limits&) {
  const std::lock_guard writing(writing_);
  std::string text;
  fs::path path;
  std::uint64_t serial = 0;
  {
    const std::lock_guard lock(mutex_);
    if (!plan_) return refused("mail is not set up on this host");
    serial = serial_ = std::max<std::uint64_t>(serial_ + 1, static_cast<std::uint64_t>(wall_now_ms()));
    path = map_path();
    for (const auto& [name, user] : users_) {
      const Standing standing{name, user.title, user.waiting.has_value(), user.held_until};
      text += map_line(standing, plan_->other(host_).address, serial);
    }
  }
  struct stat before {};
  const std::int64_t at_least = ::stat(path.c_str(), &before) == 0 ? before.st_mtim.tv_sec + 1 : 0;
  CHECK_OK(write_file_durably(path, text, 0640));
  if (const auto* group = ::getgrnam("dovecot"); group != nullptr && ::chown(path.c_str(), 0, group->gr_gid) != 0)
    return errno_failure("cannot give " + path.string() + " to group dovecot", errno);
  CHECK_OK(age(path, at_least));
  return serial;
}

Result<> Side::in_force(std::uint64_t serial, const std::string& user, const Limits& limits) {
  const Limits patience{limits.deadline.sooner(kInForce), limits.stop};
  const auto flush = [&]() -> Result<> {
    if (cached_auth_) TRY(dovecot_.run({"auth", "cache", "flush"}, patience));
    return {};
  };
  while (true) {
    // An auth process that is just being replaced hangs up: that is no answer yet.
    if (const auto flushed = flush(); flushed) {
      const auto seen = dovecot_.serial(user, patience);
      if (seen && *seen >= serial) return flush();
    }
    if (patience.deadline.expired() || limits.stop.stop_requested())
      return retry(fmt::format("Dovecot does not answer from {} yet", map_path().string()), "is Dovecot running?");
    pause_for(Millis(15), limits.stop);
  }
}

Result<> Side::tell(const std::string& user, const Limits& limits) {
  return in_force(TRY(write_map(limits)), user, limits);
}

Result<std::map<std::string, User>> Side::new_users(const std::vector<std::string>& names, bool owner,
                                                    const Limits& limits) const {
  std::map<std::string, User> added;
  for (const auto& name : names) {
    if (!is_mail_user(name))
      return refused(
          fmt::format("the mail user name '{}' has characters that midstream does not let through", printable(name)),
          "rename the account, or move it by hand");
    if (user(name)) continue;
    User user{.title = {owner ? Holding::owner : Holding::standby, 0},
              .home = TRY(dovecot_.home(name, limits)),
              .copied = owner};
    std::error_code ignored;
    user.fresh = !fs::exists(user.home, ignored) || fs::is_empty(user.home, ignored);
    if (!owner && !user.fresh && fs::exists(user.home / "Maildir", ignored))
      return refused(
          fmt::format("mail user {} has a mailbox on {} already: {}", name, host(), user.home.string()),
          "remove it if nothing in it is wanted: a mailbox that was opened before the first copy has another identity");
    added[name] = std::move(user);
  }
  return added;
}

Result<> Side::add_users(const std::vector<std::string>& names, bool owner, const Limits& limits) {
  auto added = TRY(new_users(names, owner, limits));
  if (added.empty()) return {};
  CHECK_OK(make_directories(state_ / "titles"));
  for (const auto& [name, user] : added) CHECK_OK(store(name, user));
  const auto first = added.begin()->first;
  {
    const std::lock_guard lock(mutex_);
    users_.merge(added);
  }
  return tell(first, limits);
}

Result<> Side::install(const std::string& move, const std::string& host, const Plan& plan,
                       const std::vector<std::string>& names, bool owner, const Limits& limits) {
  {
    const std::lock_guard lock(mutex_);
    if (plan_ && move_ != move)
      return refused(fmt::format("mail on {} belongs to move {}", host, move_), "end that move first");
  }
  if (names.empty())
    return refused(fmt::format("Dovecot on {} lists no users", host),
                   "give it a userdb that can list them: doveadm user '*'");
  const auto cache = TRY(dovecot_.setting("auth_cache_size", "", limits));
  auto added = TRY(new_users(names, owner, limits));
  const Json saved{{"move", move}, {"host", host}, {"desired", plan.raw}, {"cached_auth", cache != "0"}};
  CHECK_OK(make_directories(state_ / "titles"));
  CHECK_OK(write_file_durably(state_ / "side.json", saved.dump(), 0600));
  options_.checkpoint("install.recorded");
  for (const auto& [name, user] : added) CHECK_OK(store(name, user));
  {
    const std::lock_guard lock(mutex_);
    move_ = move;
    host_ = host;
    plan_ = plan;
    cached_auth_ = cache != "0";
    users_.merge(added);
  }
  const auto serial = TRY(write_map(limits));
  options_.checkpoint("install.map");
  CHECK_OK(put_blocks(limits));
  return in_force(serial, names.front(), limits);
}

Result<> Side::put_blocks(const Limits& limits) {
  const auto text = TRY(read_file(options_.dovecot_conf));
  auto bare = TRY(without_block(TRY(without_block(text, move_, Place::head)), move_, Place::tail));
  // What stands in the file without us: ours comes beside it.
  auto trusted = TRY(dovecot_.setting("login_trusted_networks", "", limits));
  const auto& other = plan_->other(host_).address;
  const auto words = split(trusted, ' ');
  if (std::ranges::find(words, other) == words.end()) trusted = trusted.empty() ? other : trusted + " " + other;
  const auto wanted = with_block(with_block(bare, move_, Place::tail, dovecot_tail(trusted)), move_, Place::head,
                                 dovecot_head(map_path().string()));
  if (wanted != text) CHECK_OK(write_file_durably(options_.dovecot_conf, wanted));
  options_.checkpoint("install.blocks");
  const auto readable = dovecot_.setting("lmtp_proxy", "protocol=lmtp", limits);
  if (!readable || *readable != "yes") {
    CHECK_OK(write_file_durably(options_.dovecot_conf, bare));
    return readable ? refused("lmtp_proxy stays off in spite of midstream's block", "look at the end of dovecot.conf")
                    : std::unexpected(readable.error());
  }
  return dovecot_.reload(limits);
}

Result<> Side::take_blocks(bool closed, const Limits& limits) {
  const auto text = TRY(read_file(options_.dovecot_conf));
  auto bare = TRY(without_block(TRY(without_block(text, move_, Place::head)), move_, Place::tail));
  if (closed) bare = with_block(bare, move_, Place::tail, "protocols =\n");
  if (bare != text) CHECK_OK(write_file_durably(options_.dovecot_conf, bare));
  return dovecot_.reload(limits);
}

Result<> Side::uninstall(bool closed, const Limits& limits) {
  if (!installed()) return {};
  CHECK_OK(take_blocks(closed, limits));
  options_.checkpoint("uninstall.blocks");
  CHECK_OK(remove_file_durably(map_path()));
  std::error_code failed;
  fs::remove_all(state_ / "titles", failed);
  if (failed) return errno_failure("cannot remove the titles of mail users", failed.value());
  CHECK_OK(remove_file_durably(state_ / "side.json"));
  const std::lock_guard lock(mutex_);
  users_.clear();
  plan_.reset();
  return {};
}

Result<std::size_t> Side::wipe(const Limits& limits) {
  std::size_t wiped = 0;
  for (const auto& [name, user] : users()) {
    if (!user.fresh || user.title.home() || !user.copied) continue;
    const auto hold = TRY(occupy(name, limits.deadline));
    std::error_code failed;
    fs::remove_all(user.home, failed);
    if (failed) return errno_failure(fmt::format("cannot remove the copy of {}", user.home.string()), failed.value());
    const std::lock_guard lock(mutex_);
    User next = users_.at(name);
    next.copied = false;
    CHECK_OK(store(name, next));
    users_[name] = std::move(next);
    ++wiped;
  }
  return wiped;
}

Side::Hold::~Hold() {
  if (side_ == nullptr) return;
  const std::lock_guard lock(side_->mutex_);
  side_->occupied_.erase(user_);
  side_->freed_.notify_all();
}

Result<Side::Hold> Side::occupy(const std::string& user, Deadline deadline) {
  std::unique_lock lock(mutex_);
  if (!freed_.wait_for(lock, deadline.remaining(), [&] { return !occupied_.contains(user); }))
    return retry(fmt::format("the mailboxes of {} are being synced", user));
  occupied_.insert(user);
  return Hold(*this, user);
}

Result<> Side::stand_by(const Turns& users, const Limits& limits) {
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, turn] : users) {
      const auto found = users_.find(name);
      if (found == users_.end()) return refused(fmt::format("mail user {} has no title on {}", printable(name), host_));
      if (found->second.title.home())
        return failure(ErrorKind::fenced, fmt::format("{} is at home on {} already", name, host_));
      CHECK_OK(mail::take(found->second.title, turn));  // would it be possible
      CHECK_OK(store(name, found->second));             // can we write: before anything is held for us
      found->second.waiting = boot_now();
    }
  }
  return tell(users.begin()->first, limits);
}

Result<> Side::begin_yield(const Turns& users, const Limits& limits) {
  CHECK_OK(change(users, mail::begin_yield));
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [name, turn] : users) users_.at(name).held_until = wall_now_ms() / 1000 + kLoginHoldS + 1;
  }
  return tell(users.begin()->first, limits);
}

Result<> Side::keep(const Turns& users, const Limits& limits) {
  CHECK_OK(change(users, mail::keep));
  return tell(users.begin()->first, limits);
}

Result<> Side::finish_yield(const Turns& users, const Limits& limits) {
  CHECK_OK(change(users, mail::finish_yield));
  TRY(write_map(limits));
  return {};
}

Result<> Side::take(const Turns& users, const Limits& limits) {
  // No sync of the other side's is still writing here.
  std::vector<Hold> holds;
  for (const auto& [name, turn] : users) holds.push_back(TRY(occupy(name, limits.deadline.sooner(Millis(3'000)))));
  CHECK_OK(change(users, mail::take));
  options_.checkpoint("take.owner");
  return tell(users.begin()->first, limits);
}

Result<> Side::send_back(const std::vector<std::string>& users, const Limits& limits) {
  if (users.empty()) return {};
  {
    const std::lock_guard lock(mutex_);
    for (const auto& name : users)
      if (const auto found = users_.find(name); found != users_.end() && !found->second.title.home())
        found->second.waiting.reset();
  }
  return tell(users.front(), limits);
}

Result<> Side::quiet(const std::vector<std::string>& users, const Limits& limits) {
  for (const auto& [name, pids] : TRY(dovecot_.sessions(users, limits)))
    return retry(fmt::format("{} still has a session here (pid {})", name, *pids.begin()));
  return {};
}

Result<std::set<pid_t>> Side::kick_all(const std::vector<std::string>& users, const Limits& limits) {
  std::set<pid_t> kicked;
  for (auto& [name, pids] : TRY(dovecot_.sessions(users, limits))) {
    CHECK_OK(dovecot_.kick(name, limits));
    kicked.merge(pids);
  }
  return kicked;
}

Result<> Side::drain(const std::vector<std::string>& users, const Limits& limits) {
  // Deliveries that were let in before nobody was any more. One that shows another state than at first has ended: what
  // began since then was told to wait.
  auto before = TRY(dovecot_.deliveries(limits));
  auto sessions = TRY(kick_all(users, limits));
  while (true) {
    std::erase_if(sessions, [](pid_t pid) { return ::kill(pid, 0) != 0 && errno == ESRCH; });
    const auto now = before.empty() ? std::map<pid_t, std::string>() : TRY(dovecot_.deliveries(limits));
    std::erase_if(before, [&](const auto& one) {
      const auto found = now.find(one.first);
      return found == now.end() ||
             (one.second.find(" DATA") != std::string::npos && found->second.find(" RCPT TO") != std::string::npos);
    });
    if (sessions.empty() && before.empty() && quiet(users, limits)) return {};
    if (limits.deadline.expired()) {
      return retry(sessions.empty() && !before.empty()
                       ? fmt::format("a delivery is under way: {}", printable(before.begin()->second))
                       : fmt::format("sessions of {} do not end", join(users, ", ")));
    }
    if (!pause_for(Millis(10), limits.stop)) return failure(ErrorKind::cancelled, "asked to stop");
    // One that logged in just ahead of the hold shows up only now.
    sessions.merge(TRY(kick_all(users, limits)));
  }
}

Side::Turns Side::overdue(bool yielding, Millis lease) const {
  const std::lock_guard lock(mutex_);
  Turns turns;
  for (const auto& [name, user] : users_) {
    if (!user.waiting || (user.title.holding == Holding::yielding) != yielding) continue;
    if (boot_now() - *user.waiting > lease) turns[name] = user.title.turn;
  }
  return turns;
}

}  // namespace midstream::mail
