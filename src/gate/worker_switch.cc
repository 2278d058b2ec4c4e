// What a hold and a switch ask of a worker's sessions.
#include <sys/epoll.h>

#include <algorithm>

#include "gate/worker.h"
#include "sys/clock.h"
#include "sys/log.h"

namespace midstream::gate {

namespace {

// Sessions of one worker that are being connected to the other server at once, and how soon one after the other: each costs that
// server a process and a login, which are not to be felt by those who are served meanwhile.
constexpr std::size_t kConnecting = 8;
constexpr Millis kConnect{30};
constexpr int kSweepMs = 1'000;
// Prepared sessions are asked again once they have rested for so long, and so many of them at once: an old server spends about a
// millisecond on each.
constexpr Millis kRefresh{4};
constexpr std::size_t kRefreshes = 2;
// Between two connections of one worker that are closed because their sessions have gone over: the end of hundreds of server
// processes at once is felt by everybody on that machine.
constexpr Millis kLeave{8};
constexpr Millis kLeaveFirst{500};  // when those who waited have been served

bool due(std::chrono::nanoseconds until) { return until.count() != 0 && boot_now() >= until; }

}  // namespace

template <class F>
void Worker::each_of(const std::string& database, F body) {
  for (const auto& [id, session] : sessions_) {
    if (session->database() != database) continue;
    body(*session);
    again_.push_back(id);
  }
}

void Worker::hold(std::chrono::nanoseconds until) {
  in_loop([this, until] {
    hold_until_ = until;
    for (const auto& [id, session] : sessions_) session->hold(true);
    release_if_due();
    return true;
  });
}

Worker::Held Worker::held() {
  return in_loop([this] {
    Held held{hold_until_, sessions_.size(), {}};
    for (const auto& [id, session] : sessions_)
      if (hold_until_.count() != 0 && !session->settled()) held.in_the_way.push_back(session->describe());
    return held;
  });
}

void Worker::release_if_due() {
  if (due(hold_until_)) {
    hold_until_ = std::chrono::nanoseconds(0);
    for (const auto& [id, session] : sessions_) {
      session->hold(held(session->database()));
      again_.push_back(id);
    }
  }
  for (auto& [database, one] : switching_) {
    if (one.closed_until.count() != 0 || !due(one.prepared_until)) continue;
    one.to.reset();
    one.prepared_until = std::chrono::nanoseconds(0);
    each_of(database, [](Session& session) { session.give_up_target(); });
  }
}

bool Worker::held(const std::string& database) const {
  const auto it = switching_.find(database);
  return hold_until_.count() != 0 || (it != switching_.end() && it->second.closed_until.count() != 0);
}

int Worker::wait_ms() const {
  if (!again_.empty()) return 0;
  auto next = boot_now() + Millis(kSweepMs);
  const auto sooner = [&](std::chrono::nanoseconds until) {
    if (until.count() != 0) next = std::min(next, until);
  };
  sooner(hold_until_);
  sooner(refresh_at_);
  if (!left_.empty()) sooner(leave_at_);
  if (!to_connect_.empty() && connecting_.size() < kConnecting) sooner(connect_at_);
  for (const auto& [database, one] : switching_) {
    if (one.closed_until.count() == 0) sooner(one.prepared_until);
  }
  const auto left = std::chrono::ceil<Millis>(next - boot_now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, kSweepMs));
}

void Worker::begun(std::uint64_t id, const std::string& database) {
  const auto it = switching_.find(database);
  if (it == switching_.end()) return;
  auto& session = *sessions_.at(id);
  if (it->second.to) session.prepare(*it->second.to, it->second.settings);
  if (it->second.closed_until.count() != 0) {
    session.hold(true);
    session.final(true);
  }
  to_connect_.push_back(id);
}

// A session that has just logged in is met here too: it stays in the queue until it can be connected.
void Worker::connect_some() {
  std::erase_if(connecting_, [this](auto id) {
    const auto it = sessions_.find(id);
    return it == sessions_.end() || !it->second->connecting();
  });
  const auto now = boot_now();
  if (to_connect_.empty() || now < connect_at_) return;
  connect_at_ = now + kConnect;
  for (auto left = to_connect_.size(); left > 0 && connecting_.size() < kConnecting; --left) {
    const auto id = to_connect_.front();
    to_connect_.pop_front();
    const auto it = sessions_.find(id);
    if (it == sessions_.end()) continue;
    if (it->second->logging_in()) to_connect_.push_back(id);
    if (!it->second->wants_target()) continue;
    it->second->start_target();
    if (refresh_at_.count() == 0) refresh_at_ = boot_now();
    connecting_.push_back(id);
    again_.push_back(id);
    return;
  }
}

// In the hold nobody has to be asked who was asked since it was used last. Those who have rested longest come first: they are
// the likeliest to be at rest when the hold comes.
void Worker::refresh_some() {
  const auto now = boot_now();
  if (refresh_at_.count() == 0 || now < refresh_at_) return;
  bool any = false;
  std::vector<std::pair<std::chrono::nanoseconds, Session*>> stale;
  for (const auto& [id, session] : sessions_) {
    any = any || session->prepared();
    if (const auto since = session->stale_for(now); since && *since >= kRefresh) stale.emplace_back(*since, session.get());
  }
  refresh_at_ = any ? now + kRefresh : std::chrono::nanoseconds(0);
  const auto most = std::min(stale.size(), kRefreshes);
  std::ranges::partial_sort(stale, stale.begin() + static_cast<std::ptrdiff_t>(most), std::greater{});
  for (std::size_t i = 0; i < most; ++i) {
    stale[i].second->refresh();
    again_.push_back(stale[i].second->id());
  }
}

void Worker::leave_some() {
  const auto now = boot_now();
  if (left_.empty() || now < leave_at_) return;
  leave_one();
  leave_at_ = now + kLeave;
}

void Worker::leave_one() {
  std::size_t n = 0;
  (void)left_.front().connection.write(message('X', ""), n);  // as far as it is taken: the server notices the end too
  left_.pop_front();
}

void Worker::prepare(const std::string& database, std::size_t to, std::chrono::nanoseconds until, const std::set<std::string>& settings) {
  in_loop([&, to, until, this] {
    auto& one = switching_[database];
    one.to = to;
    one.settings = settings;
    one.prepared_until = until;
    // What sessions held there is not to be in their own way when they come back.
    std::ranges::stable_partition(left_, [&](const auto& other) { return other.database == database; });
    while (!left_.empty() && left_.front().database == database) leave_one();
    each_of(database, [&](Session& session) {
      session.prepare(to, settings);
      to_connect_.push_back(session.id());
    });
    return true;
  });
}

void Worker::close(const std::string& database, std::size_t to, std::chrono::nanoseconds until) {
  in_loop([=, this] {
    auto& one = switching_[database];
    one.to = to;
    one.prepared_until = std::max(one.prepared_until, until);
    one.closed_until = until;
    one.kept = false;
    each_of(database, [&](Session& session) {
      session.prepare(to, one.settings);
      session.hold(true);
      session.final(true);
      if (session.wants_target()) to_connect_.push_back(session.id());
    });
    return true;
  });
}

Worker::Readiness Worker::readiness(const std::string& database, std::size_t to) {
  return in_loop([=, this] {
    Readiness out;
    const auto it = switching_.find(database);
    out.held = it != switching_.end() && it->second.closed_until.count() != 0;
    out.in_time = out.held && (it->second.kept || !due(it->second.closed_until));
    out.leaving = static_cast<std::size_t>(std::ranges::count(left_, database, &Left::database));
    for (const auto& [id, session] : sessions_) {
      if (session->database() != database) continue;
      ++out.sessions;
      if (const auto pid = session->server_pid(); pid && session->server() != to) out.server_pids.push_back(*pid);
      const auto why = session->why_not(to);
      if (why.empty()) continue;
      out.in_the_way.push_back(session->describe());
      out.in_the_way.back()["why"] = why;
      out.in_the_way.back()["soon"] = session->getting_ready();
    }
    return out;
  });
}

bool Worker::keep(const std::string& database) {
  return in_loop([&, this] {
    auto& one = switching_[database];
    if (one.closed_until.count() == 0 || due(one.closed_until)) return false;
    return one.kept = true;
  });
}

void Worker::last_words(const std::string& database) {
  in_loop([&, this] {
    each_of(database, [](Session& session) { session.last_words(); });
    return true;
  });
}

bool Worker::fetching(const std::string& database) {
  return in_loop([&, this] {
    return std::ranges::any_of(sessions_, [&](const auto& one) { return one.second->database() == database && one.second->fetching(); });
  });
}

Worker::Over Worker::go_over(const std::string& database, std::size_t to) {
  return in_loop([&, to, this] {
    Over over;
    each_of(database, [&](Session& session) {
      const auto at = session.server();
      if (!at || *at == to) return;
      const auto why = session.why_not(to);
      if (why.empty()) {
        if (left_.empty()) leave_at_ = boot_now() + kLeaveFirst;
        left_.push_back({database, session.go_over()});
        ++over.moved;
        return;
      }
      over.ended.push_back(session.describe());
      over.ended.back()["why"] = why;
      session.end({"57P01", "terminating connection: the database has moved, and this session could not move with it: " + why, ""}, Ending::moved);
    });
    open_now(database);
    return over;
  });
}

void Worker::open_now(const std::string& database) {
  auto& one = switching_[database];
  one.closed_until = std::chrono::nanoseconds(0);
  one.kept = false;
  each_of(database, [this](Session& session) { session.hold(hold_until_.count() != 0); });
}

void Worker::open(const std::string& database) {
  in_loop([&, this] {
    open_now(database);
    return true;
  });
}

void Worker::primary_is(const std::string& database, std::optional<std::size_t> server) {
  in_loop([&, server, this] {
    each_of(database, [&](Session& session) {
      const auto at = session.server();
      if (server && at && *at != *server) session.end({"57P01", "terminating connection: the database has moved to another server", ""}, Ending::moved);
    });
    return true;
  });
}

void Worker::refuse_all() {
  in_loop([this] {
    if (listening_) ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, listener_, nullptr);
    listening_ = false;
    return refusing_ = true;
  });
}

std::size_t Worker::end_resting() {
  return in_loop([this] {
    for (const auto& [id, session] : sessions_) {
      if (!session->settled()) continue;
      session->end({"57P01", "terminating connection due to administrator command", ""}, Ending::retired);
      again_.push_back(id);
    }
    return sessions_.size();
  });
}

bool Worker::end(std::uint64_t id) {
  return in_loop([id, this] {
    const auto it = sessions_.find(id);
    if (it == sessions_.end()) return false;
    it->second->end({"57P01", "terminating connection due to administrator command", ""}, Ending::operators);
    again_.push_back(id);
    return true;
  });
}

}  // namespace midstream::gate
