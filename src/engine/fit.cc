#include "engine/fit.h"

#include <fmt/format.h>

#include <algorithm>

namespace midstream {

namespace {

constexpr std::size_t kShown = 5;

// One past the last step of the stretch that `index` lies in.
int stretch_end(const Plan& plan, int index) {
  int end = index;
  for (int i = index; i < static_cast<int>(plan.steps.size()); ++i) {
    if (i > index && plan.steps[i].phase == "soak") break;
    if (plan.steps[i].in_window) end = i + 1;
  }
  return end;
}

std::int64_t left_of(const Step& step, const StepState& at, std::int64_t now) {
  const auto expected = step.kind == StepKind::hold ? std::max(step.expected_ms, step.deadline_ms) : step.expected_ms;
  const bool running = at.progress == Progress::running;
  return running ? std::max<std::int64_t>(0, expected - std::max<std::int64_t>(0, now - at.first_ms)) : expected;
}

}  // namespace

Stretch stretch_from(const State& state, int index, std::int64_t now) {
  Stretch out;
  for (int i = index; i < stretch_end(state.plan, index); ++i) {
    if (state.steps[i].progress == Progress::done) continue;
    out.parts.push_back({state.plan.steps[i].id, left_of(state.plan.steps[i], state.steps[i], now)});
    out.total_ms += out.parts.back().ms;
  }
  return out;
}

Stretch next_stretch(const State& state, std::int64_t now) {
  for (std::size_t i = 0; i < state.plan.steps.size(); ++i) {
    const bool ahead = state.steps[i].progress != Progress::done;
    if (ahead && state.plan.steps[i].in_window) return stretch_from(state, static_cast<int>(i), now);
  }
  return {};
}

std::string span_text(std::int64_t ms) {
  if (ms < 60'000) return fmt::format("{:.1f} s", static_cast<double>(ms) / 1000);
  if (ms < 3'600'000) return fmt::format("{} min {:02} s", ms / 60'000, ms / 1000 % 60);
  return fmt::format("{} h {:02} min", ms / 3'600'000, ms / 60'000 % 60);
}

std::string sum_text(const Stretch& stretch) {
  auto parts = stretch.parts;
  std::ranges::stable_sort(parts, std::ranges::greater(), &Stretch::Part::ms);
  std::string text;
  std::int64_t shown = 0;
  for (std::size_t i = 0; i < std::min(kShown, parts.size()); ++i) {
    text += fmt::format("{}{} ({})", i == 0 ? "" : " + ", span_text(parts[i].ms), parts[i].step);
    shown += parts[i].ms;
  }
  if (parts.size() > kShown)
    text += fmt::format(" + {} others {}", parts.size() - kShown, span_text(stretch.total_ms - shown));
  return fmt::format("{} = {}", text.empty() ? "nothing" : text, span_text(stretch.total_ms));
}

}  // namespace midstream
