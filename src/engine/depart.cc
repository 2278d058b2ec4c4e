// The end: once all that `finish` asks for is done, or everything was taken back, midstream takes itself off the hosts,
// one after the other. What was begun on a host is gone on with without its agent, which may be gone already.
#include <fmt/format.h>

#include <algorithm>

#include "engine/engine.h"
#include "engine/flight.h"

namespace midstream {

namespace {

constexpr int kDepartures = 6;
constexpr std::int64_t kAgainMs = 2'000;

}  // namespace

bool Engine::departs() const {
  if (state_.over()) return false;
  return state_.goal == Goal::end || (state_.goal == Goal::finish && state_.steps_done());
}

std::optional<Error> Engine::objection_at_the_end(Goal goal) const {
  if (goal == Goal::finish || state_.leaving.empty()) return std::nullopt;
  if (!state_.over())
    return Error{ErrorKind::refused, "midstream is being taken off the hosts", "use `finish` to let that end"};
  return Error{ErrorKind::refused, fmt::format("the move {} has ended", state_.plan.move),
               "a new move needs another name, or the journal of this one moved away"};
}

void Engine::depart(Flight& flight) {
  if (!departing_.empty() || state_.paused) return;
  const auto next =
      std::ranges::find_if(state_.plan.leave, [&](const auto& leave) { return !state_.left.contains(leave.host); });
  if (next == state_.plan.leave.end()) return;
  if (flight.now < not_before_) return flight.wake(not_before_);
  if (!state_.leaving.contains(next->host)) {
    // What an earlier epoch set going there is over before its agent goes.
    if (!adopted_.contains(next->host)) return;
    record(flight, {{"type", "leaving"}, {"host", next->host}});
  }
  departing_ = next->host;
  // After going back old is in production again.
  const bool power_off = next->power_off && state_.goal == Goal::finish;
  flight.effects.commands.push_back(Depart{next->host, power_off, state_.epoch});
}

void Engine::left(Flight& flight, const Left& answer) {
  if (answer.host != departing_ || answer.epoch != state_.epoch) return;
  departing_.clear();
  if (answer.result) {
    departures_ = 0;
    return record(flight, {{"type", "left"}, {"host", answer.host}});
  }
  const auto& error = answer.result.error();
  const bool again =
      error.kind == ErrorKind::retry || error.kind == ErrorKind::unknown || error.kind == ErrorKind::cancelled;
  if (!again || ++departures_ >= kDepartures) {
    departures_ = 0;
    auto why = error;
    if (why.todo.empty()) why.todo = "`midstream finish` goes on where it was";
    return stop(flight, fmt::format("leave {}", answer.host), why);
  }
  not_before_ = flight.now + kAgainMs;
}

std::string Engine::waiting_to_leave() const {
  const auto next =
      std::ranges::find_if(state_.plan.leave, [&](const auto& leave) { return !state_.left.contains(leave.host); });
  if (next == state_.plan.leave.end()) return "";
  if (state_.paused) return "paused; `continue` takes midstream off the hosts";
  if (!departing_.empty() || state_.leaving.contains(next->host)) return fmt::format("midstream leaves {}", next->host);
  std::string why;
  if (const auto known = not_adopted_.find(next->host); known != not_adopted_.end())
    why = fmt::format(" ({})", known->second.text());
  return fmt::format("midstream leaves {} once its agent answers{}", next->host, why);
}

}  // namespace midstream
