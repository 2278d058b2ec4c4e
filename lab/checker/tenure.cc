#include "lab/checker/tenure.h"

#include <limits>
#include <map>
#include <set>

namespace midstream::lab {
namespace {

// Acts of one author with nobody else's between.
struct Run {
  int who = 0;
  std::int64_t first = 0;
  std::int64_t last = 0;
  std::size_t acts = 0;
};

std::vector<Run> runs_of(const std::vector<Act>& acts) {
  std::vector<Run> runs;
  for (const auto& act : acts) {
    if (runs.empty() || runs.back().who != act.who) runs.push_back(Run{act.who, act.at, act.at, 0});
    runs.back().last = act.at;
    ++runs.back().acts;
  }
  return runs;
}

struct Choice {
  std::size_t cost = std::numeric_limits<std::size_t>::max();
  std::size_t before = 0;  // index of the holder's state at the run before
};

// The holder at each run, by dynamic programming over (tenures so far, holder).
std::vector<std::pair<std::size_t, int>> best_succession(const std::vector<Run>& runs, std::size_t tenures,
                                                         std::optional<int> first) {
  std::set<int> all;
  for (const auto& run : runs) all.insert(run.who);
  if (first) all.insert(*first);
  const std::vector<int> people(all.begin(), all.end());
  const std::size_t states = tenures * people.size();
  std::vector<std::vector<Choice>> table(runs.size(), std::vector<Choice>(states));
  const auto wrong = [&](std::size_t run, std::size_t state) {
    return runs[run].who == people[state % people.size()] ? 0 : runs[run].acts;
  };
  // Before the first run: the first tenure, whoever may have it; later tenures can be entered from it at
  // once.
  const auto may_follow = [&](std::size_t before, std::size_t after) {
    const std::size_t t0 = before / people.size();
    const std::size_t t1 = after / people.size();
    return before == after || (t1 == t0 + 1 && before % people.size() != after % people.size());
  };
  for (std::size_t state = 0; state < states; ++state) {
    const std::size_t tenure = state / people.size();
    const int who = people[state % people.size()];
    const bool possible = tenure == 0 ? !first || who == *first : first && tenure == 1 && who != *first;
    if (possible) table[0][state] = Choice{wrong(0, state), state};
  }
  for (std::size_t run = 1; run < runs.size(); ++run) {
    for (std::size_t after = 0; after < states; ++after) {
      for (std::size_t before = 0; before < states; ++before) {
        const auto cost = table[run - 1][before].cost;
        if (cost == std::numeric_limits<std::size_t>::max() || !may_follow(before, after)) continue;
        if (cost + wrong(run, after) < table[run][after].cost)
          table[run][after] = Choice{cost + wrong(run, after), before};
      }
    }
  }
  std::vector<std::pair<std::size_t, int>> holders(runs.size());
  // Of equals the one with the most tenures: it explains an act out of turn by a longer overlap.
  std::size_t state = 0;
  for (std::size_t other = 0; other < states; ++other) {
    if (table.back()[other].cost <= table.back()[state].cost) state = other;
  }
  for (std::size_t run = runs.size(); run-- > 0;) {
    holders[run] = {state / people.size(), people[state % people.size()]};
    state = table[run][state].before;
  }
  return holders;
}

}  // namespace

std::vector<Overlap> find_overlaps(const std::vector<Act>& acts, std::size_t handovers,
                                   std::optional<int> first) {
  if (acts.empty()) return {};
  const auto runs = runs_of(acts);
  const auto holders = best_succession(runs, handovers + 1, first);
  // Where each tenure begins and ends, by its holder's own acts or, if it has none, by the others'.
  std::map<std::size_t, std::pair<std::int64_t, std::int64_t>> span;
  std::map<std::size_t, int> holder_of;
  std::map<std::pair<std::size_t, int>, Overlap> strays;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const auto& [tenure, holder] = holders[i];
    auto [at, fresh] = span.try_emplace(tenure, runs[i].first, runs[i].last);
    at->second.second = runs[i].last;
    holder_of[tenure] = holder;
    if (runs[i].who == holder) continue;
    auto [stray, is_new] =
        strays.try_emplace({tenure, runs[i].who}, Overlap{runs[i].first, runs[i].last, runs[i].who, 0});
    stray->second.to = runs[i].last;
    stray->second.acts += runs[i].acts;
  }
  std::vector<Overlap> out;
  for (auto& [key, stray] : strays) {
    const auto& [tenure, who] = key;
    const auto before = tenure == 0 ? holder_of.end() : holder_of.find(tenure - 1);
    const auto after = holder_of.find(tenure + 1);
    const bool held_before = before != holder_of.end() && before->second == who;
    const bool held_after = after != holder_of.end() && after->second == who;
    const auto gap_before = stray.from - span[tenure].first;
    const auto gap_after = span[tenure].second - stray.to;
    if (held_before && (!held_after || gap_before <= gap_after)) {
      stray.from = span[tenure].first;
    } else if (held_after) {
      stray.to = span[tenure].second;
    }
    out.push_back(stray);
  }
  return out;
}

}  // namespace midstream::lab
