#include "movers/mail/title.h"

#include <fmt/format.h>

#include <array>
#include <utility>

namespace midstream::mail {

namespace {

constexpr std::array<std::pair<Holding, std::string_view>, 4> kNames{{{Holding::standby, "standby"},
                                                                      {Holding::owner, "owner"},
                                                                      {Holding::yielding, "yielding"},
                                                                      {Holding::yielded, "yielded"}}};

std::unexpected<Error> past(const Title& now, std::string_view act, std::uint64_t turn) {
  return failure(ErrorKind::fenced,
                 fmt::format("title of a mail user: cannot {} at turn {}: this host is {} at turn {}", act, turn,
                             to_string(now.holding), now.turn));
}

bool is(const Title& now, Holding holding, std::uint64_t turn) { return now.holding == holding && now.turn == turn; }

}  // namespace

std::string_view to_string(Holding holding) {
  for (const auto& [value, name] : kNames)
    if (value == holding) return name;
  return "?";
}

Json to_json(const Title& title) { return {{"state", std::string(to_string(title.holding))}, {"turn", title.turn}}; }

Result<Title> title_from_json(const Json& value) {
  const std::string state = TRY(get_string(value, "state"));
  Title title{.turn = static_cast<std::uint64_t>(TRY(get_int(value, "turn")))};
  for (const auto& [holding, name] : kNames)
    if (name == state) return title.holding = holding, title;
  return corrupt(fmt::format("title of a mail user: '{}' is no state", state));
}

Result<Title> begin_yield(const Title& now, std::uint64_t turn) {
  if (is(now, Holding::yielding, turn) || is(now, Holding::yielded, turn)) return now;
  if (turn <= now.turn) return past(now, "yield", turn);
  if (now.holding != Holding::owner)
    return refused(
        fmt::format("this host is not the user's home, it is {} at turn {}", to_string(now.holding), now.turn));
  return Title{Holding::yielding, turn};
}

Result<Title> finish_yield(const Title& now, std::uint64_t turn) {
  if (is(now, Holding::yielded, turn)) return now;
  if (!is(now, Holding::yielding, turn)) return past(now, "finish yielding", turn);
  return Title{Holding::yielded, turn};
}

Result<Title> keep(const Title& now, std::uint64_t turn) {
  if (is(now, Holding::owner, turn)) return now;
  if (!is(now, Holding::yielding, turn)) return past(now, "keep", turn);
  return Title{Holding::owner, turn};
}

Result<Title> take(const Title& now, std::uint64_t turn) {
  if (is(now, Holding::owner, turn)) return now;
  if (turn <= now.turn || now.home()) return past(now, "take", turn);
  return Title{Holding::owner, turn};
}

}  // namespace midstream::mail
