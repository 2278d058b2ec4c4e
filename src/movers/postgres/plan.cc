#include "movers/postgres/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/text.h"

namespace midstream::postgres {

namespace {

bool is_numeric_address(const std::string& text) {
  const auto numeric = [](char c) { return std::isxdigit(static_cast<unsigned char>(c)) || c == '.' || c == ':'; };
  return !text.empty() && std::ranges::all_of(text, numeric);
}

Result<End> parse_end(const Json& desired, std::string_view key) {
  const auto object = TRY(get_object(desired, key));
  End end{TRY(get_string(object, "host")), TRY(get_string(object, "address")), 0};
  const auto port = TRY(get_int(object, "port"));
  if (port < 1 || port > 65535) return corrupt(fmt::format("desired: '{}.port' is not a port: {}", key, port));
  end.port = static_cast<std::uint16_t>(port);
  if (!is_numeric_address(end.address))
    return corrupt(fmt::format("desired: '{}.address' is not a numeric address: {}", key, printable(end.address)));
  return end;
}

Result<GateEnd> parse_gate(const Json& desired) {
  if (!desired.contains("gate")) return GateEnd{};
  const auto object = TRY(get_object(desired, "gate"));
  GateEnd gate{TRY(get_string(object, "host")), TRY(get_string(object, "address"))};
  if (!is_numeric_address(gate.address))
    return corrupt(fmt::format("desired: 'gate.address' is not a numeric address: {}", printable(gate.address)));
  return gate;
}

}  // namespace

int Plan::number(const std::string& database) const {
  const auto found = std::ranges::find(databases, database);
  return found == databases.end() ? -1 : static_cast<int>(found - databases.begin());
}

std::string Plan::fence_role(const std::string& database) const {
  return fmt::format("midstream_fence_{}_{}", move, number(database));
}

std::string Plan::stream(const std::string& database, bool forward) const {
  auto name = fmt::format("midstream_{}_{}_{}", move, forward ? "fwd" : "rev", number(database));
  std::ranges::replace(name, '-', '_');  // slots are named with [a-z0-9_] only
  return name;
}

std::string Plan::seed_slot() const {
  auto name = fmt::format("midstream_{}_seed", move);
  std::ranges::replace(name, '-', '_');
  return name;
}

namespace {

Result<> parse_road(const Json& desired, Plan& plan) {
  plan.road = get_string_or(desired, "road", plan.road);
  if (plan.road != "logical" && plan.road != "seeded" && plan.road != "physical")
    return refused(fmt::format("there is no road '{}' from old to new yet", printable(plan.road)), "use logical, seeded or physical");
  plan.limit = get_int_or(desired, "limit", 0);
  if (plan.limit != 0 && (plan.limit < kLeastLimit || plan.limit > kMostLimit))
    return corrupt(fmt::format("desired: 'limit' of {} bytes a second is not among {} and {}", plan.limit, kLeastLimit, kMostLimit));
  return {};
}

}  // namespace

Result<Plan> parse_plan(const Json& desired, const std::string& move) {
  static constexpr std::array kKinds{"source", "target", "follow", "verify", "drain", "switch", "finish"};
  Plan plan;
  plan.kind = TRY(get_string(desired, "kind"));
  if (std::ranges::find(kKinds, plan.kind) == kKinds.end())
    return refused(fmt::format("postgres knows no kind '{}'", printable(plan.kind)));
  if (!is_plain_name(move)) return corrupt(fmt::format("'{}' is no name for a move", printable(move)));
  plan.move = move;
  plan.databases = TRY(get_strings(desired, "databases"));
  plan.old_end = TRY(parse_end(desired, "old"));
  plan.new_end = TRY(parse_end(desired, "new"));
  plan.gate = TRY(parse_gate(desired));
  plan.until = get_string_or(desired, "until", "caught-up");
  plan.deadline_ms = static_cast<int>(get_int_or(desired, "deadline_ms", 1000));
  plan.commit_latency_ms = get_int_or(desired, "commit_latency_ms", 0);
  if (plan.commit_latency_ms < 0) return corrupt(fmt::format("desired: 'commit_latency_ms' is negative: {}", plan.commit_latency_ms));
  CHECK_OK(parse_road(desired, plan));
  plan.raw = desired;
  if (plan.databases.empty()) return corrupt("desired: 'databases' is empty");
  for (const auto& database : plan.databases) {
    const bool odd = std::ranges::any_of(
        database, [](unsigned char c) { return c < 0x20 || c == '"' || c == '\'' || c == '\\' || c == 0x7f; });
    if (odd || database.empty() || database.size() > 63 || database == "postgres" || database.starts_with("template"))
      return refused(fmt::format("database '{}' cannot be moved by name", printable(database)),
                     "list ordinary databases; the maintenance databases of a cluster stay");
  }
  return plan;
}

}  // namespace midstream::postgres
