#include "movers/addresses/handover.h"

#include <fmt/format.h>

#include <algorithm>

#include "movers/title.h"

namespace midstream {
namespace {

constexpr Millis kVerifyPatience{3'000};
constexpr Millis kVerifyPause{100};

struct Standing {
  Title title;
  std::string mac;
};

Result<Standing> standing(const Ask& ask, const std::string& host) {
  auto status = ask("status", Json::object());
  if (!status) return with_context(status.error(), fmt::format("asking {} who owns the addresses", host));
  return Standing{TRY(title_from_json(TRY(get_object(*status, "title")))), TRY(get_string(*status, "mac"))};
}

Json at_turn(std::uint64_t turn) {
  return {{"turn", turn}};
}

// Whether the effect cannot have happened, or the other side said itself that it failed.
bool certain(const Error& error) {
  return error.kind != ErrorKind::unknown && error.kind != ErrorKind::retry;
}

// The giver has yielded at `turn` and the taker did not take: the taker stands down durably, then the giver
// takes back.
Error give_back(const Handover& h, std::uint64_t turn, Error cause) {
  const auto stood_down = h.taker("renounce", at_turn(turn + 1));
  auto back = stood_down ? h.giver("take", {{"turn", turn + 1}, {"force", true}}) : stood_down;
  if (back) back = h.giver("persist", Json::object());
  if (back) {
    cause.what += fmt::format("; {} has the addresses back", h.giver_host);
  } else {
    cause.kind = ErrorKind::retry;
    cause.what += fmt::format("; and {} could not take them back: {}: nobody owns them", h.giver_host,
                              back.error().text());
  }
  return cause;
}

// Before anything is touched: nobody but the giver may answer for an address.
Result<> nobody_else(const Handover& h, const std::string& giver_mac) {
  const Json answer = TRY(h.witness("who", {{"addresses", h.set.raw["addresses"]}}));
  const Json answers = TRY(get_object(answer, "answers"));
  for (const auto& [address, macs] : answers.items())
    for (const Json& mac : macs)
      if (mac != giver_mac)
        return refused(
            fmt::format("{} is answered by {}, which is not {}", address, mac.dump(), h.giver_host),
            "find the host with that hardware address and take the address from it");
  return {};
}

const std::string& seen_from(const Handover& h) {
  return h.set.verifier.empty() ? h.giver_host : h.set.verifier;
}

// Afterwards: every address is answered, and by the taker alone.
Result<> verify(const Handover& h, const std::string& taker_mac) {
  const Deadline until = h.deadline.sooner(kVerifyPatience);
  std::string silent;
  do {
    silent.clear();
    const Json answer = TRY(h.witness("who", {{"addresses", h.set.raw["addresses"]}}));
    const Json answers = TRY(get_object(answer, "answers"));
    for (const IpAddress& address : h.set.addresses) {
      const Json macs = answers.value(to_string(address), Json::array());
      if (macs.empty()) silent = to_string(address);
      for (const Json& mac : macs)
        if (mac != taker_mac)
          return refused(fmt::format("{} is answered by {} beside {}, seen from {}", to_string(address),
                                     mac.dump(), h.taker_host, seen_from(h)),
                         "find the host with that hardware address, or undo this step");
    }
    if (silent.empty()) return {};
  } while (!until.expired() && pause_for(kVerifyPause, h.stop));
  return retry(fmt::format("{} owns the addresses, but {} is not answered, seen from {}", h.taker_host, silent,
                           seen_from(h)));
}

Result<> complete(const Handover& h, const std::string& taker_mac) {
  CHECK_OK(verify(h, taker_mac));
  h.checkpoint("own: verified");
  CHECK_OK(h.taker("persist", Json::object()));
  h.checkpoint("own: persisted");
  return {};
}

Json figures(const Handover& h, const Json& taken, std::chrono::nanoseconds from,
             std::chrono::nanoseconds until) {
  const double whole = std::chrono::duration<double, std::milli>(until - from).count();
  Json list = Json::array();
  const Json since = taken.value("since_announced_ms", Json::array());
  for (std::size_t i = 0; i < since.size() && i < h.set.addresses.size(); ++i) {
    const double blackout = since[i].is_number() ? whole - since[i].get<double>() : whole;
    list.push_back(
        {{"address", to_string(h.set.addresses[i])}, {"blackout_ms", static_cast<int>(blackout + 0.999)}});
  }
  return list;
}

// The turn at which the taker may take, once the giver is durably not owner at it.
struct Yielded {
  std::uint64_t turn = 0;
  std::int64_t flows = 0;
  std::chrono::nanoseconds asked{};
};

// Asks the giver to keep what it was about to yield; the cause is what counts. Fenced where it never began.
std::unexpected<Error> keep_for(const Handover& h, std::uint64_t turn, Error cause) {
  if (certain(cause)) (void)h.giver("keep", at_turn(turn));
  return with_context(std::move(cause), fmt::format("{} was asked to yield the addresses", h.giver_host));
}

Result<Yielded> obtain_from_owner(const Handover& h, const std::string& giver_mac, std::uint64_t turn) {
  CHECK_OK(nobody_else(h, giver_mac));
  if (auto prepared = h.giver("prepare", at_turn(turn)); !prepared)
    return keep_for(h, turn, prepared.error());
  h.checkpoint("own: prepared");
  const auto asked = boot_now();
  const auto released = h.giver("release", at_turn(turn));
  if (!released) return keep_for(h, turn, released.error());
  return Yielded{turn, get_int_or(*released, "flows_cut", 0), asked};
}

Result<Yielded> obtain(const Handover& h, const Standing& giver, const Standing& taker) {
  if (giver.title.holding == Holding::standby && giver.title.turn == 0)
    return refused(fmt::format("{} does not have the addresses", h.giver_host),
                   "correct `addresses` in the manifest");
  CHECK_OK(h.taker("ready", Json::object()));
  if (giver.title.holding == Holding::yielding)  // a handover that broke off
    CHECK_OK(h.giver("keep", at_turn(giver.title.turn)));
  const std::uint64_t turn = std::max(giver.title.turn, taker.title.turn) + 1;
  if (giver.title.holding == Holding::owner || giver.title.holding == Holding::yielding)
    return obtain_from_owner(h, giver.mac, turn);
  const auto asked = boot_now();
  const auto renounced = h.giver("renounce", at_turn(turn));
  if (renounced) return Yielded{turn, 0, asked};
  if (renounced.error().kind != ErrorKind::fenced) return std::unexpected(renounced.error());
  // Its lease ended in this very moment and it took the addresses back.
  const Standing now = TRY(standing(h.giver, h.giver_host));
  if (now.title.holding != Holding::owner) return std::unexpected(renounced.error());
  return obtain_from_owner(h, giver.mac, std::max(now.title.turn, turn) + 1);
}

}  // namespace

Result<Json> hand_over(const Handover& h) {
  const Standing taker = TRY(standing(h.taker, h.taker_host));
  if (taker.title.holding == Holding::yielding) {
    CHECK_OK(h.taker("keep", at_turn(taker.title.turn)));
    CHECK_OK(complete(h, taker.mac));
    return Json::object();
  }
  if (taker.title.holding == Holding::owner) {
    CHECK_OK(h.taker("take", at_turn(taker.title.turn)));
    CHECK_OK(complete(h, taker.mac));
    return Json::object();
  }
  const Standing giver = TRY(standing(h.giver, h.giver_host));
  const Yielded yielded = TRY(obtain(h, giver, taker));
  h.checkpoint("own: yielded");
  const auto taken = h.taker("take", at_turn(yielded.turn));
  const auto until = boot_now();
  if (!taken) {
    // Its lease ended in this very moment and it took the addresses by itself.
    if (taken.error().kind == ErrorKind::fenced) {
      if (TRY(standing(h.taker, h.taker_host)).title.holding == Holding::owner) {
        CHECK_OK(complete(h, taker.mac));
        return Json::object();
      }
    }
    if (certain(taken.error())) return std::unexpected(give_back(h, yielded.turn, taken.error()));
    return std::unexpected(taken.error());
  }
  h.checkpoint("own: taken");
  CHECK_OK(complete(h, taker.mac));
  return Json{{"addresses", figures(h, *taken, yielded.asked, until)}, {"flows_cut", yielded.flows}};
}

}  // namespace midstream
