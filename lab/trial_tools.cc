#include "lab/trial_tools.h"

#include <fmt/format.h>

#include <cstdio>

namespace midstream::lab {

namespace {
constexpr Millis kMoveLimit{420'000};
}

Result<> TrialTools::say(std::string_view text) {
  fmt::print("trial: {}\n", text);
  std::fflush(stdout);
  return {};
}

Millis TrialTools::moment(int least_ms, int most_ms) {
  return Millis(std::uniform_int_distribution<int>(least_ms, most_ms)(random_));
}

Result<> TrialTools::judged(Trial& trial, const std::string& final_side, int handovers) {
  const auto checker = TRY(trial.judge(final_side, handovers));
  const auto acknowledged = checker.value("acknowledged", Json::object());
  CHECK_OK(say(fmt::format("checker: {} ({} rows, {} files, lost {}, doubled {}, two owners {} ms, two writers {} ms)",
                           get_string_or(checker, "verdict", "?"), get_int_or(acknowledged, "rows", 0), get_int_or(acknowledged, "files", 0),
                           get_int_or(checker, "lost", -1), get_int_or(checker, "doubled", -1), get_int_or(checker, "two_owners_ms", -1),
                           get_int_or(checker, "two_writers_ms", -1))));
  if (get_string_or(checker, "verdict", "") == "pass") return {};
  return refused(fmt::format("the checker does not pass: {}; not known: {}", checker.value("details", Json::array()).dump(),
                             checker.value("unknowns", Json::array()).dump()));
}

Result<> TrialTools::succeed(Trial& trial, const std::vector<std::string>& arguments) {
  return end_with(trial, arguments, 0, "");
}

Result<> TrialTools::end_with(Trial& trial, const std::vector<std::string>& arguments, int code, const std::string& mark) {
  auto command = TRY(trial.midstream(arguments));
  bool marked = mark.empty();
  const int ended = TRY(command.wait(
      [&](std::string_view line) {
        if (spec_.tell) spec_.tell(line);
        marked = marked || line.find(mark) != std::string_view::npos;
        return true;
      },
      Deadline::in(kMoveLimit)));
  if (ended != code) return refused(fmt::format("`midstream {}` ended with exit code {}, not {}", arguments[0], ended, code));
  return marked ? Result<>() : refused(fmt::format("`midstream {}` did not say '{}'", arguments[0], mark));
}

}  // namespace midstream::lab
