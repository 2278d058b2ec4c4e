#include "probe/meter.h"

#include <fmt/format.h>

#include <algorithm>

namespace midstream {

namespace {

constexpr std::size_t kMostIntervals = 50;
constexpr int kGapIntervals = 3;

std::int64_t floor_ms(Nanos span) { return std::chrono::floor<std::chrono::milliseconds>(span).count(); }
std::int64_t ceil_ms(Nanos span) { return std::chrono::ceil<std::chrono::milliseconds>(span).count(); }

std::string_view to_string(DownInterval::End end) {
  switch (end) {
    case DownInterval::End::up: return "up";
    case DownInterval::End::unknown: return "unknown";
    case DownInterval::End::open: break;
  }
  return "open";
}

Json bounds(const Figures& figures) { return {{"lower", floor_ms(figures.lower)}, {"upper", ceil_ms(figures.upper)}}; }

Json to_json(const DownInterval& interval) {
  return {{"first_probe", interval.first_seq},
          {"last_probe", interval.last_seq},
          {"wall_ms", interval.wall_ms},
          {"lower_ms", floor_ms(interval.lower)},
          {"upper_ms", ceil_ms(interval.upper)},
          {"ended", std::string(to_string(interval.end))},
          {"error", interval.error}};
}

Json intervals_json(const Figures& figures) {
  Json list = Json::array();
  for (const auto& interval : figures.intervals) list.push_back(to_json(interval));
  return list;
}

}  // namespace

void TargetMeter::begin_session(Nanos every, Nanos timeout) {
  every_ = every;
  timeout_ = timeout;
  fresh_ = true;
}

// What the last probe found is known to hold until here.
Nanos TargetMeter::known_until() const { return std::max(last_->end, last_->start + last_->every); }

// Ends the open interval at `at`, into `figures`.
void TargetMeter::close(Figures& figures, Nanos& counted_until, Nanos at, DownInterval::End end) const {
  auto interval = *open_;
  interval.end = end;
  interval.lower = open_last_start_ - interval.start;
  interval.upper = std::max(at - interval.start, interval.lower);
  const auto stop = interval.start + interval.upper;
  figures.lower += interval.lower;
  figures.upper += std::max(Nanos(0), stop - std::max(interval.start, counted_until));
  counted_until = std::max(counted_until, stop);
  figures.longest_pause = std::max(figures.longest_pause, interval.upper);
  ++figures.interval_count;
  if (figures.intervals.size() < kMostIntervals) figures.intervals.push_back(std::move(interval));
}

void TargetMeter::add(const RunLine& run, std::int64_t wall_ms) {
  if (last_ && (fresh_ || run.first_start - last_->start > kGapIntervals * every_)) {
    const auto known = std::min(known_until(), std::max(run.first_start, last_->start));
    done_.unknown += std::max(Nanos(0), run.first_start - known);
    if (open_) close(done_, counted_until_, known, DownInterval::End::unknown);
    open_.reset();
  }
  fresh_ = false;
  const auto count = run.last_seq - run.first_seq + 1;
  done_.requests += count;
  done_.longest_pause = std::max(done_.longest_pause, Nanos(run.worst_latency));
  if (is_up(run.outcome)) {
    if (run.outcome == ProbeOutcome::slow) done_.slow += count;
    if (run.error == "reconnected") done_.reconnected += count;
    if (run.error == "deferred") done_.deferred += count;
    if (open_) close(done_, counted_until_, run.first_start + run.first_latency, DownInterval::End::up);
    open_.reset();
  } else {
    done_.failed += count;
    if (!open_) {
      open_ = DownInterval{.first_seq = run.first_seq, .start = run.first_start, .wall_ms = wall_ms, .error = run.error};
    }
    open_->last_seq = run.last_seq;
    open_last_start_ = run.last_start;
  }
  // Within a run, the worst latency stands for the last one's: it can only make the known longer by what was seen.
  const auto latency = run.first_seq == run.last_seq ? run.first_latency : run.worst_latency;
  last_ = Last{run.last_start, run.last_start + latency, every_, run.last_seq};
}

Figures TargetMeter::figures() const {
  auto figures = done_;
  auto counted_until = counted_until_;
  if (open_) close(figures, counted_until, known_until(), DownInterval::End::open);
  return figures;
}

void Meter::begin(const SessionLine& line) {
  // The first session, or another boot: hang its clock on to the timeline by the wall clock, never backwards.
  if (!session_) {
    latest_ = line.boot;
  } else if (session_->boot_id != line.boot_id) {
    const auto away = std::chrono::milliseconds(std::max<std::int64_t>(0, line.wall_ms - latest_wall_ms_));
    offset_ = latest_ + away - line.boot;
  }
  latest_ = std::max(latest_, line.boot + offset_);
  latest_wall_ms_ = line.wall_ms;
  session_ = line;
  ++sessions_;
  by_index_.clear();
  for (const auto& target : line.targets) {
    auto entry = std::ranges::find_if(entries_, [&](const Entry& e) { return e.target.name == target.name; });
    if (entry == entries_.end()) entry = entries_.insert(entry, Entry{target, TargetMeter(target.every, target.timeout)});
    entry->target = target;
    entry->meter.begin_session(target.every, target.timeout);
    by_index_.push_back(static_cast<std::size_t>(entry - entries_.begin()));
  }
}

Result<> Meter::add_run(RunLine run) {
  if (!session_ || run.target < 0 || static_cast<std::size_t>(run.target) >= by_index_.size()) {
    return corrupt("the probe's log has a probe of a target that no session announced");
  }
  auto& entry = entries_[by_index_[static_cast<std::size_t>(run.target)]];
  if (run.first_seq <= entry.last_seq) {
    return corrupt(fmt::format("the probe's log has probe {} of {} behind probe {}", run.first_seq, entry.target.name, entry.last_seq));
  }
  entry.last_seq = run.last_seq;
  const auto wall = [&](Nanos at) { return session_->wall_ms + floor_ms(at - session_->boot); };
  const auto wall_ms = wall(run.first_start);
  latest_wall_ms_ = std::max(latest_wall_ms_, wall(run.last_start));
  run.first_start += offset_;
  run.last_start += offset_;
  latest_ = std::max(latest_, run.last_start);
  entry.meter.add(run, wall_ms);
  return {};
}

Result<> Meter::add(const LogLine& line) {
  if (const auto* session = std::get_if<SessionLine>(&line)) begin(*session);
  if (const auto* run = std::get_if<RunLine>(&line)) return add_run(*run);
  return {};
}

Json Meter::to_json() const {
  Json services = Json::array();
  Json addresses = Json::array();
  for (const auto& entry : entries_) {
    const auto figures = entry.meter.figures();
    Json one{{"failed", figures.failed},
             {"unknown_ms", ceil_ms(figures.unknown)},
             {"longest_pause_ms", ceil_ms(figures.longest_pause)},
             {"resolution_ms", ceil_ms(entry.meter.resolution())},
             {"down", entry.meter.is_down()},
             {"interval_count", figures.interval_count},
             {"intervals", intervals_json(figures)}};
    if (entry.target.is_address) {
      one["address"] = entry.target.name;
      one["probes"] = figures.requests;
      one["blackout_ms"] = bounds(figures);
      addresses.push_back(std::move(one));
    } else {
      one["name"] = entry.target.name;
      one["requests"] = figures.requests;
      one["slow"] = figures.slow;
      one["reconnected"] = figures.reconnected;
      one["deferred"] = figures.deferred;
      one["downtime_ms"] = bounds(figures);
      services.push_back(std::move(one));
    }
  }
  return {{"version", 1},          {"sessions", sessions_},     {"last_wall_ms", latest_wall_ms_},
          {"services", std::move(services)}, {"addresses", std::move(addresses)}};
}

const TargetMeter* Meter::target(const std::string& name) const {
  const auto entry = std::ranges::find_if(entries_, [&](const Entry& e) { return e.target.name == name; });
  return entry == entries_.end() ? nullptr : &entry->meter;
}

std::int64_t Meter::last_seq(const std::string& name) const {
  const auto entry = std::ranges::find_if(entries_, [&](const Entry& e) { return e.target.name == name; });
  return entry == entries_.end() ? 0 : entry->last_seq;
}

}  // namespace midstream
