#include "lab/checker/singletons.h"

#include <fmt/format.h>

#include <algorithm>

namespace midstream::lab {

Result<std::vector<Instance>> parse_instances(std::string_view text) {
  std::vector<Instance> all;
  while (!text.empty()) {
    const auto end = text.find('\n');
    if (end == std::string_view::npos) break;  // cut short
    const Json line = TRY(parse_json(text.substr(0, end)));
    text.remove_prefix(end + 1);
    const auto type = TRY(get_string(line, "t"));
    if (type == "start") {
      const auto at = TRY(get_int(line, "at_ns"));
      all.push_back(Instance{TRY(get_string(line, "host")), TRY(get_int(line, "pid")), at, at, 0, {}});
      continue;
    }
    if (all.empty()) return corrupt("the log of a worker does not begin with its start");
    auto& instance = all.back();
    if (type == "run") {
      ++instance.runs;
      instance.to_ns = std::max(instance.to_ns, TRY(get_int(line, "to_ns")));
      if (TRY(get_string(line, "outcome")) == "acknowledged") instance.acknowledged.push_back(TRY(get_int(line, "n")));
    } else if (type == "end") {
      instance.to_ns = std::max(instance.to_ns, TRY(get_int(line, "at_ns")));
    } else {
      return corrupt(fmt::format("the log of a worker has a line of type '{}'", type));
    }
  }
  return all;
}

SingletonFigures judge_instances(const std::vector<Instance>& old_side, const std::vector<Instance>& new_side,
                                 bool final_on_new) {
  SingletonFigures figures;
  std::vector<std::pair<Instance, bool>> all;  // and whether it was on new
  for (const auto& one : old_side) all.emplace_back(one, false);
  for (const auto& one : new_side) all.emplace_back(one, true);
  std::ranges::stable_sort(all, {}, [](const auto& one) { return one.first.from_ns; });
  const auto* latest = all.empty() ? nullptr : &all[0];  // of those so far, the one that lasted longest
  for (std::size_t i = 0; i < all.size(); ++i) {
    const auto& instance = all[i].first;
    figures.runs += instance.runs;
    figures.acknowledged.insert(figures.acknowledged.end(), instance.acknowledged.begin(), instance.acknowledged.end());
    if (i == 0) continue;
    const auto& before = latest->first;
    if (instance.from_ns <= before.to_ns) {
      const auto ms =
          std::max<std::int64_t>(1, (std::min(before.to_ns, instance.to_ns) - instance.from_ns + 999'999) / 1'000'000);
      figures.overlaps_ms += ms;
      figures.complaints.push_back(fmt::format("a singleton ran twice for {} ms: {} (pid {}) beside {} (pid {})", ms,
                                               instance.host, instance.pid, before.host, before.pid));
    }
    if (instance.to_ns >= before.to_ns) latest = &all[i];
  }
  figures.instances = static_cast<std::int64_t>(all.size());
  if (latest != nullptr && latest->second != final_on_new) {
    figures.out_of_place = 1;
    figures.complaints.push_back(
        fmt::format("a singleton ran last on {}, which does not own it in the end", latest->first.host));
  }
  return figures;
}

Json to_json(const SingletonFigures& figures) {
  return {{"runs", figures.runs},
          {"acknowledged", figures.acknowledged.size()},
          {"instances", figures.instances},
          {"overlaps_ms", figures.overlaps_ms},
          {"out_of_place", figures.out_of_place}};
}

}  // namespace midstream::lab
