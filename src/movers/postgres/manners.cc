#include "movers/postgres/manners.h"

#include <fmt/format.h>

#include "movers/postgres/snapshot_holder.h"
#include "sys/clock.h"

namespace midstream::postgres {

namespace {

using Span = std::chrono::microseconds;

constexpr Millis kPace{200};
constexpr Millis kStuck{60'000};

// A message in the log is a change as any other: it has the transaction committed, and flushed. It leaves no row, and nobody
// who follows asked for messages. Without standbys: what they add is not what reading adds.
constexpr const char* kCommitSql =
    "DO $body$ DECLARE began timestamptz; BEGIN SET LOCAL synchronous_commit = local; PERFORM pg_logical_emit_message(true, 'midstream', 'commit'); "
    "began := clock_timestamp(); COMMIT; PERFORM set_config('midstream.commit_us', (extract(epoch FROM clock_timestamp() - began) * "
    "1000000)::bigint::text, false); END $body$";

}  // namespace

std::string words_of(const MannersFigures& figures) {
  if (figures.limit_ms == 0) return "";
  if (figures.permille >= 1000) return figures.blind ? "commits on old cannot be timed" : "";
  return fmt::format("throttled: commits on old take {} ms, limit {} ms; {:.0f} % of the time is read in{}", figures.commit_us / 1000, figures.limit_ms.load(),
                     static_cast<double>(figures.permille) / 10, figures.blind ? "; they cannot be timed just now" : "");
}

Manners::Manners(Session::Target old_side, std::int64_t limit_ms, MannersFigures& figures)
    : old_side_(std::move(old_side)), figures_(figures), throttle_(Millis(limit_ms)) {
  figures_.limit_ms = limit_ms;
  old_side_.options = kNoticedGone;
  if (limit_ms > 0) thread_ = std::jthread([this](const std::stop_token& stop) { watch(stop); });
}

Manners::~Manners() {
  if (thread_.joinable()) {
    thread_.request_stop();
    thread_.join();
  }
  figures_.permille = 1000;
  figures_.blind = false;
}

void Manners::count(Span took) {
  throttle_.commit_took(took);
  counted_ = boot_now();
  figures_.commit_us = took.count();
  figures_.permille = static_cast<std::int64_t>(throttle_.share() * 1000);
}

double Manners::share() {
  if (!thread_.joinable()) return 1;
  const std::lock_guard lock(mutex_);
  const auto now = boot_now();
  if (since_.count() > 0 && now - std::max(since_, counted_) > kPace) count(std::chrono::duration_cast<Span>(now - since_));
  return throttle_.share();
}

Span Manners::rest_after(std::chrono::nanoseconds reading) {
  if (share() >= 1) return Span(0);
  const std::lock_guard lock(mutex_);
  return throttle_.rest_after(std::chrono::duration_cast<Span>(reading));
}

Span Manners::rest_after(std::chrono::nanoseconds reading, std::size_t bytes, int readers) {
  if (share() >= 1) return Span(0);
  const std::lock_guard lock(mutex_);
  return throttle_.rest_after(std::chrono::duration_cast<Span>(reading), static_cast<double>(bytes), readers, speed_);
}

void Manners::free_speed(double bytes_per_second) {
  const std::lock_guard lock(mutex_);
  if (bytes_per_second > 0) speed_ = (speed_ + bytes_per_second) / 2;
}

Result<Span> Manners::time_a_commit(std::optional<Session>& session, const std::stop_token& stop) {
  if (!session) session.emplace(TRY(Session::connect(old_side_, Deadline::in(Millis(10'000)), stop)));
  {
    const std::lock_guard lock(mutex_);
    since_ = boot_now();
  }
  const auto done = session->run(kCommitSql, {}, Deadline::in(kStuck), stop);
  {
    const std::lock_guard lock(mutex_);
    since_ = std::chrono::nanoseconds(0);
  }
  if (!done) return std::unexpected(done.error());
  return Span(TRY(session->run("SELECT current_setting('midstream.commit_us')", {}, Deadline::in(kStuck), stop)).number(0, 0));
}

void Manners::watch(const std::stop_token& stop) {
  std::optional<Session> session;
  do {
    const auto took = time_a_commit(session, stop);
    figures_.blind = !took;
    if (!took) session.reset();
    const std::lock_guard lock(mutex_);
    if (took) count(*took);
  } while (pause_for(kPace, stop));
}

}  // namespace midstream::postgres
