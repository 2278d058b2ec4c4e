#include "engine/fit.h"

#include <gtest/gtest.h>

namespace midstream {
namespace {

State state() {
  State out;
  const auto add = [&](std::string phase, std::string id, StepKind kind, std::int64_t expected, bool in_window) {
    Step step;
    step.phase = std::move(phase);
    step.id = std::move(id);
    step.kind = kind;
    step.expected_ms = expected;
    step.in_window = in_window;
    if (kind == StepKind::hold) step.deadline_ms = expected;
    out.plan.steps.push_back(step);
  };
  add("copy", "copy", StepKind::effect, 1'000'000, false);
  add("shift", "weights-5", StepKind::effect, 2'000, true);
  add("shift", "hold", StepKind::hold, 60'000, false);
  add("shift", "drained", StepKind::wait, 10'000, false);
  add("switch", "switch", StepKind::effect, 1'000, true);
  add("switch", "after", StepKind::wait, 5'000, false);
  add("soak", "soak", StepKind::hold, 7'200'000, false);
  add("addresses", "own", StepKind::effect, 3'000, true);
  out.steps.resize(out.plan.steps.size());
  return out;
}

TEST(Fit, FromTheFirstToTheLastThatCanBeFeltBeforeTheSoak) {
  const auto stretch = next_stretch(state(), 0);
  EXPECT_EQ(stretch.total_ms, 2'000 + 60'000 + 10'000 + 1'000);
  ASSERT_EQ(stretch.parts.size(), 4u);
  EXPECT_EQ(stretch.parts.back().step, "switch");
  EXPECT_EQ(sum_text(stretch),
            "1 min 00 s (hold) + 10.0 s (drained) + 2.0 s (weights-5) + 1.0 s (switch) = 1 min 13 s");
}

TEST(Fit, WhatIsDoneCountsNoMoreAndWhatIsUnderWayInPart) {
  auto now = state();
  now.steps[0].progress = now.steps[1].progress = Progress::done;
  now.steps[2].progress = Progress::running;
  now.steps[2].first_ms = 100'000;
  EXPECT_EQ(stretch_from(now, 2, 145'000).total_ms, 15'000 + 10'000 + 1'000);
  EXPECT_EQ(stretch_from(now, 2, 900'000).total_ms, 10'000 + 1'000) << "an overdue hold costs nothing more";
  EXPECT_EQ(stretch_from(now, 2, 50'000).total_ms, 60'000 + 11'000) << "a clock that was put back adds nothing";
}

TEST(Fit, WhatComesAfterTheSoakIsAnotherStretch) {
  auto now = state();
  for (int i = 0; i < 7; ++i) now.steps[i].progress = Progress::done;
  EXPECT_EQ(next_stretch(now, 0).total_ms, 3'000);
  now.steps[7].progress = Progress::done;
  EXPECT_TRUE(next_stretch(now, 0).parts.empty());
  EXPECT_EQ(sum_text({}), "nothing = 0.0 s");
}

TEST(Fit, TheLargestPartsAreNamedAndTheRestIsCounted) {
  Stretch stretch;
  for (int i = 1; i <= 8; ++i) {
    stretch.parts.push_back({"s" + std::to_string(i), i * 1'000});
    stretch.total_ms += i * 1'000;
  }
  EXPECT_EQ(sum_text(stretch),
            "8.0 s (s8) + 7.0 s (s7) + 6.0 s (s6) + 5.0 s (s5) + 4.0 s (s4) + 3 others 6.0 s = 36.0 s");
  EXPECT_EQ(span_text(3'725'000), "1 h 02 min");
}

}  // namespace
}  // namespace midstream
