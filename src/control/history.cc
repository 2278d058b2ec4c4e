#include "control/history.h"

#include <fmt/format.h>

#include <algorithm>

#include "sys/file.h"

namespace midstream {

namespace {

constexpr std::size_t kKept = 20;   // of each key
constexpr std::size_t kAsked = 5;   // of these, the latest: a worst case of long ago does not bind for ever
constexpr std::size_t kMost = 4u << 20;

void worst(std::optional<std::int64_t>& of, const std::optional<std::int64_t>& one) {
  if (one) of = std::max(of.value_or(0), *one);
}

Json optional_json(const std::optional<std::int64_t>& value) { return value ? Json(*value) : Json(); }

Result<std::optional<std::int64_t>> optional_from(const Json& entry, std::string_view field) {
  if (!entry.contains(field) || entry[std::string(field)].is_null()) return std::optional<std::int64_t>();
  return std::optional(TRY(get_int(entry, field)));
}

}  // namespace

std::string history_key(const Step& step) { return step.mover + "/" + get_string_or(step.desired, "kind", ""); }

void History::add(const std::string& key, Entry entry) {
  auto& all = entries_[key];
  all.push_back(std::move(entry));
  if (all.size() > kKept) all.erase(all.begin(), all.end() - kKept);
}

std::optional<History::Cost> History::cost(const std::string& key) const {
  const auto found = entries_.find(key);
  if (found == entries_.end() || found->second.empty()) return std::nullopt;
  Cost cost;
  const auto& all = found->second;
  for (auto i = all.size() - std::min(kAsked, all.size()); i < all.size(); ++i) {
    worst(cost.blackout_ms, all[i].blackout_ms);
    worst(cost.took_ms, all[i].took_ms);
    cost.times += all[i].blackout_ms ? 1 : 0;
  }
  return cost;
}

Json History::to_json() const {
  Json steps = Json::object();
  for (const auto& [key, all] : entries_) {
    for (const auto& one : all) {
      steps[key].push_back({{"move", one.move}, {"step", one.step}, {"at", one.at_ms}, {"blackout_ms", optional_json(one.blackout_ms)},
                            {"took_ms", optional_json(one.took_ms)}});
    }
  }
  return {{"schema", "midstream.history/1"}, {"steps", std::move(steps)}};
}

Result<History> History::from_json(const Json& value) {
  if (TRY(get_string(value, "schema")) != "midstream.history/1") return refused("the history is of another version");
  History out;
  const auto steps = TRY(get_object(value, "steps"));
  for (const auto& [key, all] : steps.items()) {
    for (const auto& one : all) {
      out.add(key, {TRY(get_string(one, "move")), TRY(get_string(one, "step")), TRY(get_int(one, "at")),
                    TRY(optional_from(one, "blackout_ms")), TRY(optional_from(one, "took_ms"))});
    }
  }
  return out;
}

Result<History> History::load(const std::filesystem::path& file) {
  if (!std::filesystem::exists(file)) return History();
  auto read = [&]() -> Result<History> { return from_json(TRY(parse_json(TRY(read_file(file, kMost))))); }();
  if (!read) return corrupt(fmt::format("{}: {}", file.string(), read.error().what), "move the file away; expectations are then assumed anew");
  return read;
}

Result<> History::save(const std::filesystem::path& file) const { return write_file_durably(file, to_json().dump(1) + "\n", 0600); }

}  // namespace midstream
