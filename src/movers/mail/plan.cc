#include "movers/mail/plan.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

namespace midstream::mail {

namespace {

Result<End> end_from(const Json& desired, std::string_view key) {
  const auto side = TRY(get_object(desired, key));
  return End{TRY(get_string(side, "host")), TRY(get_string(side, "address"))};
}

}  // namespace

Result<Plan> parse_plan(const Json& desired) {
  Plan plan{TRY(get_string(desired, "kind")), TRY(end_from(desired, "old")), TRY(end_from(desired, "new")), desired};
  if (plan.old_side.host == plan.new_side.host) return refused("mail: old and new are the same host");
  for (const auto* end : {&plan.old_side, &plan.new_side}) {
    if (end->address.empty() || end->address.find_first_not_of("0123456789abcdefABCDEF.:") != std::string::npos)
      return refused(fmt::format("mail: '{}' is no numeric address of {}", end->address, end->host));
  }
  return plan;
}

std::size_t share_of(std::size_t count, std::int64_t percent) {
  const auto clamped = static_cast<std::size_t>(std::clamp<std::int64_t>(percent, 0, 100));
  return (count * clamped + 99) / 100;
}

bool goes_before(const std::string& one, const std::string& other) {
  const auto a = XXH3_64bits(one.data(), one.size());
  const auto b = XXH3_64bits(other.data(), other.size());
  return a != b ? a < b : one < other;
}

}  // namespace midstream::mail
