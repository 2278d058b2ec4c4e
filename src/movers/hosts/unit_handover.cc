#include "movers/hosts/unit_handover.h"

#include <fmt/format.h>

#include <algorithm>

#include "movers/title.h"
#include "sys/clock.h"

namespace midstream {

namespace {

Result<Title> title_of(const AskUnit& ask, const std::string& host, const std::string& name) {
  auto status = ask("status", Json::object());
  if (!status) return with_context(status.error(), fmt::format("asking {} about {}", host, name));
  return title_from_json(TRY(get_object(*status, "title")));
}

Json at_turn(std::uint64_t turn) { return {{"turn", turn}}; }

// Whether the effect cannot have happened, or the other side said itself that it failed.
bool certain(const Error& error) { return error.kind != ErrorKind::unknown && error.kind != ErrorKind::retry; }

// The taker did not take, or gave up what it took: it stands down durably, then the giver takes back.
Error give_back(const UnitHandover& h, Error cause) {
  const auto theirs = title_of(h.taker, h.taker_host, h.name);
  auto back = theirs ? h.taker("renounce", at_turn(theirs->turn + 1)) : Result<Json>(std::unexpected(theirs.error()));
  if (back) back = h.giver("take", at_turn(theirs->turn + 1));
  if (back) {
    cause.what += fmt::format("; {} runs on {} again", h.name, h.giver_host);
  } else {
    cause.kind = ErrorKind::retry;
    cause.what +=
        fmt::format("; and {} could not start it again: {}: it runs nowhere", h.giver_host, back.error().text());
  }
  return cause;
}

struct Yielded {
  std::uint64_t turn = 0;
  std::int64_t waited_ms = 0;
};

Result<Yielded> obtain_from_owner(const UnitHandover& h, std::uint64_t turn) {
  const auto released = h.giver("yield", at_turn(turn));
  if (!released) return with_context(released.error(), fmt::format("{} was asked to stop {}", h.giver_host, h.name));
  return Yielded{turn, get_int_or(*released, "waited_ms", 0)};
}

Result<Yielded> obtain(const UnitHandover& h, const Title& giver, const Title& taker) {
  if (giver.holding == Holding::standby && giver.turn == 0)
    return refused(fmt::format("{} does not run on {}", h.name, h.giver_host),
                   "start it there, or leave it out of `units`");
  if (giver.holding == Holding::yielding) CHECK_OK(h.giver("keep", at_turn(giver.turn)));  // a handover that broke off
  const std::uint64_t turn = std::max(giver.turn, taker.turn) + 1;
  if (giver.holding == Holding::owner || giver.holding == Holding::yielding) return obtain_from_owner(h, turn);
  const auto renounced = h.giver("renounce", at_turn(turn));
  if (renounced) return Yielded{turn, 0};
  if (renounced.error().kind != ErrorKind::fenced) return std::unexpected(renounced.error());
  // Its lease ended in this very moment and it took the unit back.
  const Title now = TRY(title_of(h.giver, h.giver_host, h.name));
  if (now.holding != Holding::owner) return std::unexpected(renounced.error());
  return obtain_from_owner(h, std::max(now.turn, turn) + 1);
}

}  // namespace

Result<Json> hand_over(const UnitHandover& h) {
  const Title taker = TRY(title_of(h.taker, h.taker_host, h.name));
  if (taker.holding == Holding::yielding) return h.taker("keep", at_turn(taker.turn));
  if (taker.holding == Holding::owner) {
    CHECK_OK(h.taker("take", at_turn(taker.turn)));
    return Json::object();
  }
  const Title giver = TRY(title_of(h.giver, h.giver_host, h.name));
  const auto asked = boot_now();
  const Yielded yielded = TRY(obtain(h, giver, taker));
  h.checkpoint("unit: yielded");
  const auto taken = h.taker("take", at_turn(yielded.turn));
  if (!taken) {
    // Its lease ended in this very moment and it took the unit back by itself.
    if (taken.error().kind == ErrorKind::fenced) {
      if (TRY(title_of(h.taker, h.taker_host, h.name)).holding == Holding::owner) return Json::object();
    }
    if (certain(taken.error())) return std::unexpected(give_back(h, taken.error()));
    return std::unexpected(taken.error());
  }
  h.checkpoint("unit: taken");
  const auto whole = std::chrono::duration_cast<Millis>(boot_now() - asked).count();
  return Json{{"waited_ms", yielded.waited_ms}, {"gap_ms", whole - get_int_or(*taken, "since_started_ms", 0)}};
}

}  // namespace midstream
