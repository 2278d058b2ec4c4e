#include "movers/postgres/gate_hold.h"

#include <fmt/format.h>

#include "base/text.h"

namespace midstream::postgres {

namespace {

constexpr int kPreparedMs = 600'000;
constexpr Millis kReady{60'000};
constexpr Millis kLeft{15'000};  // what is left then is ended by the fence
constexpr Millis kBack{5'000};  // with a gate that does not answer

std::string named(const Json& session) {
  return fmt::format("session {} of user {} ({}, from {})", get_int_or(session, "id", 0), printable(get_string_or(session, "user", "?")),
                     printable(get_string_or(session, "application", "")), printable(get_string_or(session, "client", "?")));
}

}  // namespace

// Who cannot go is named at once; who is only on the way is waited for.
Result<> GateHold::wait_ready(bool to_new) const {
  const auto deadline = work_.context.deadline.sooner(kReady);
  for (;;) {
    const auto ready = TRY(ask("ready", to_new));
    std::string waits;
    for (const auto& one : ready.value("in_the_way", Json::array())) {
      const auto why = printable(get_string_or(one, "why", ""));
      if (!get_bool_or(one, "soon", false))
        return retry(fmt::format("{} cannot go over with {}: {}", named(one), database_, why), "end it, or wait for it; `midstream gate sessions` lists all of them");
      waits = fmt::format("{}: {}", named(one), why);
    }
    if (waits.empty()) return {};
    CHECK_OK(wait_a_bit(Millis(10), deadline, work_.context.stop, waits));
  }
}

// False: it is gone.
Result<bool> GateHold::prepare(bool to_new) const {
  const auto deadline = work_.context.deadline.sooner(kBack);
  for (;;) {
    // What an earlier try held, it holds no more: the titles are at rest.
    open(to_new);
    const auto asked = ask("prepare", to_new, {{"for_ms", kPreparedMs}});
    if (asked) return true;
    if (to_new || ask("ready", to_new)) return std::unexpected(asked.error());
    if (const auto waited = wait_a_bit(Millis(200), deadline, work_.context.stop, "the gate"); !waited) {
      if (waited.error().kind == ErrorKind::retry) return false;
      return std::unexpected(waited.error());
    }
  }
}

Result<bool> GateHold::make_ready(bool to_new) const {
  if (!work_.plan.gate.present()) return true;
  if (!TRY(prepare(to_new))) return false;
  CHECK_OK(wait_ready(to_new));
  return true;
}

Result<std::set<int>> GateHold::close(bool to_new) const {
  if (!work_.plan.gate.present()) return std::set<int>{};
  // Longer than the switch may take: the hold ends with it, by a word or by a title.
  const auto closed = TRY(ask("close", to_new, {{"within_ms", work_.plan.deadline_ms}, {"for_ms", 2 * work_.plan.deadline_ms + 2'000}}));
  return closed.value("server_pids", Json::array()).get<std::set<int>>();
}

Result<Json> GateHold::over(bool to_new) const {
  if (!work_.plan.gate.present()) return Json::object();
  return ask("over", to_new);
}

void GateHold::wait_left(bool to_new) const {
  if (!work_.plan.gate.present()) return;
  const auto deadline = work_.context.deadline.sooner(kLeft);
  for (;;) {
    const auto ready = ask("ready", to_new);
    if (!ready || get_int_or(*ready, "leaving", 0) == 0) return;  // a gate that is gone has none
    if (!wait_a_bit(Millis(20), deadline, work_.context.stop, "connections to be closed")) return;
  }
}

void GateHold::open(bool to_new) const {
  // It sees by the title that nothing has changed; a word is quicker.
  if (work_.plan.gate.present()) (void)ask("open", to_new);
}

}  // namespace midstream::postgres
