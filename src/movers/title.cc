#include "movers/title.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

namespace midstream {
namespace {

constexpr std::array<std::pair<Holding, std::string_view>, 4> kNames{{{Holding::standby, "standby"},
                                                                      {Holding::owner, "owner"},
                                                                      {Holding::yielding, "yielding"},
                                                                      {Holding::yielded, "yielded"}}};

std::unexpected<Error> past(const Title& now, std::string_view act, std::uint64_t turn) {
  return failure(ErrorKind::fenced,
                 fmt::format("title: cannot {} at turn {}: this host is {} at turn {}", act,
                             turn, to_string(now.holding), now.turn));
}

Result<> admit(const Title& now, std::uint64_t epoch) {
  if (epoch >= now.epoch) return {};
  return failure(ErrorKind::fenced,
                 fmt::format("title: epoch {} has acted, a request of epoch {} comes "
                             "too late",
                             now.epoch, epoch));
}

// What repeats an act that has been done only lifts the epoch.
Title seen(Title now, std::uint64_t epoch) {
  now.epoch = std::max(now.epoch, epoch);
  return now;
}

bool is(const Title& now, Holding holding, std::uint64_t turn) {
  return now.holding == holding && now.turn == turn;
}

}  // namespace

std::string_view to_string(Holding holding) {
  for (const auto& [value, name] : kNames)
    if (value == holding) return name;
  return "?";
}

Json to_json(const Title& title) {
  return {{"state", std::string(to_string(title.holding))}, {"turn", title.turn}, {"epoch", title.epoch}};
}

Result<Title> title_from_json(const Json& value) {
  const std::string state = TRY(get_string(value, "state"));
  Title title{.turn = static_cast<std::uint64_t>(TRY(get_int(value, "turn"))),
              .epoch = static_cast<std::uint64_t>(TRY(get_int(value, "epoch")))};
  for (const auto& [holding, name] : kNames)
    if (name == state) return title.holding = holding, title;
  return corrupt(fmt::format("title: '{}' is no state", state));
}

Result<Title> begin_yield(const Title& now, std::uint64_t turn, std::uint64_t epoch) {
  CHECK_OK(admit(now, epoch));
  if (is(now, Holding::yielding, turn) || is(now, Holding::yielded, turn)) return seen(now, epoch);
  if (turn <= now.turn) return past(now, "yield", turn);
  if (now.holding != Holding::owner)
    return refused(fmt::format("title: cannot yield: this host is not owner, it is {} at turn {}",
                               to_string(now.holding), now.turn));
  return Title{Holding::yielding, turn, epoch};
}

Result<Title> finish_yield(const Title& now, std::uint64_t turn, std::uint64_t epoch) {
  CHECK_OK(admit(now, epoch));
  if (is(now, Holding::yielded, turn)) return seen(now, epoch);
  if (!is(now, Holding::yielding, turn)) return past(now, "finish yielding", turn);
  return Title{Holding::yielded, turn, epoch};
}

Result<Title> keep(const Title& now, std::uint64_t turn, std::uint64_t epoch) {
  CHECK_OK(admit(now, epoch));
  if (is(now, Holding::owner, turn)) return seen(now, epoch);
  if (!is(now, Holding::yielding, turn)) return past(now, "keep", turn);
  return Title{Holding::owner, turn, epoch};
}

Result<Title> take(const Title& now, std::uint64_t turn, std::uint64_t epoch) {
  CHECK_OK(admit(now, epoch));
  if (is(now, Holding::owner, turn)) return seen(now, epoch);
  if (turn <= now.turn || now.holding == Holding::owner || now.holding == Holding::yielding)
    return past(now, "take", turn);
  return Title{Holding::owner, turn, epoch};
}

Result<Title> renounce(const Title& now, std::uint64_t turn, std::uint64_t epoch) {
  CHECK_OK(admit(now, epoch));
  if (now.holding == Holding::owner || now.holding == Holding::yielding) return past(now, "renounce", turn);
  if (turn <= now.turn) return past(now, "renounce", turn);
  return Title{now.holding, turn, epoch};
}

}  // namespace midstream
